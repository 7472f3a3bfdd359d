"""The flows as an operator runs them, on a real Prefect server against a simulated cluster."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName

from flows.backup import backup
from flows.restore import restore_vm
from jobs import (
    BackupJob,
    NothingToBackUp,
    NoWorker,
    NullObserver,
    RestoreRefused,
    Scope,
    Selection,
    SessionFailed,
    WorkerSpec,
    observed_by,
)
from jobs.journal import all_entries
from jobs.leases import leased_sessions
from jobs.marks import repository_prefix
from nutanix import VmNotFound
from repository import DamagedObject, Repository, RestorePoint
from simulator import Simulator

pytestmark = [pytest.mark.prefect, pytest.mark.xdist_group("prefect")]


def run(site: Any, *vms: str, **options: Any) -> Any:
    job = BackupJob(name="nightly", scope=Scope(vms=vms), **options)
    return backup(site.cluster, site.repository, site.workers, job)


def assert_nothing_is_left(site: Any) -> None:
    """Nothing of ours on the cluster but one reference per VM; no journal, no lease, workers off."""
    with site.cluster.client() as client, site.repository.open() as repository:
        newest = {point.vm_id: point for point in repository.points().points}
        prefix = repository_prefix(repository.id)
        assert {each.id for each in client.recovery_points(name_prefix=prefix)} == {
            point.source["recovery_point_id"] for point in newest.values()
        }
        assert client.volume_groups(name_prefix=prefix) == []
        assert not [vm.name for vm in client.vms() if vm.is_on and "worker" in vm.name]
        # A creating call without an answer is looked for again later; anything that has an id is gone.
        assert [each for each in all_entries(repository.live) if each.object_id] == []
        assert leased_sessions(repository.live) == set()


def test_a_session_over_every_vm_then_an_incremental_one(site: Any, simulator: Simulator) -> None:
    """Without names every VM is taken but the workers; the second session reads only what changed, and says why."""
    first = run(site)
    assert first.status == "success"
    assert [vm.vm_name for vm in first.vms] == ["db01", "files01", "web01"]
    assert {vm.kind for vm in first.vms} == {"full"}
    assert {disk.read_method for vm in first.vms for disk in vm.disks} == {"allocated"}
    assert all(vm.worker_reason == "same host" for vm in first.vms)

    simulator.story.write_file("web01", "/srv/new.bin", size_bytes=1 << 20, seed="second")
    second = run(site)
    assert {vm.kind for vm in second.vms} == {"incremental"}
    assert {disk.read_method for vm in second.vms for disk in vm.disks} == {"changed"}
    web = second.vms[2]
    assert 0 < web.read_bytes < first.vms[2].read_bytes / 4
    assert second.vms[0].read_bytes == 0
    assert_nothing_is_left(site)
    with site.repository.open() as repository:
        reports = repository.reports().reports
        assert {report["session_id"] for report in reports} >= {first.session_id, second.session_id}
        assert len(repository.points().points) == 6


def test_what_prefect_stores_of_a_session_is_readable_and_holds_no_secret(
    site: Any, simulator: Simulator
) -> None:
    """Runs are named by job, VM and kind, the session's table is an artifact, and no parameter shows the password."""
    run(site, "web01", "db01")
    with get_client(sync_client=True) as prefect:
        runs = prefect.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                name=FlowRunFilterName(
                    any_=["backup nightly", "nightly: web01 full", "nightly: db01 full"]
                )
            )
        )
        artifacts = prefect.read_artifacts()
    assert {"backup nightly", "nightly: web01 full", "nightly: db01 full"} <= {
        each.name for each in runs
    }
    stored = repr([each.parameters for each in runs])
    assert "web01" in stored
    assert simulator.password not in stored
    tables = [str(each.data) for each in artifacts if each.key == "session-nightly"]
    assert any("| web01 | success |" in table for table in tables)


class Slow(NullObserver):
    """Holds every disk up at its start, so that there is something to report while it runs."""

    def disk_started(
        self, vm_id: str, disk_id: str, label: str, to_read_bytes: int, counters: Any
    ) -> None:
        time.sleep(1.0)


def test_progress_of_a_vm_is_shown_while_it_runs(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long transfer has a progress artifact that says in words what was read, how fast, and of how much."""
    monkeypatch.setattr("tasks.report.PERIOD_S", 0.1)
    with observed_by(Slow()):
        run(site, "files01")
    with get_client(sync_client=True) as prefect:
        shown = [each for each in prefect.read_artifacts() if each.key == "progress-files01"]
    assert shown
    assert shown[-1].type == "progress"
    assert "files01: read " in (shown[-1].description or "")


class Saboteur(NullObserver):
    """Deletes the recovery point of one VM as soon as the session has taken it."""

    def __init__(self, simulator: Simulator, vm_id: str) -> None:
        self.simulator, self.vm_id = simulator, vm_id

    def step(self, vm_id: str, text: str) -> None:
        if vm_id == self.vm_id and text.startswith("snapshot taken"):
            points = self.simulator.story.describe()["recovery_points"]
            mine = [
                key
                for key, name in points.items()
                if name.startswith("ahvault-") and "db01" in name
            ]
            self.simulator.story.delete_recovery_point(mine[-1])


def test_a_vm_that_fails_does_not_fail_the_others(site: Any, simulator: Simulator) -> None:
    """S10: the session fails and names the VM and the cause, the other VM has its restore point, and all is cleaned up."""
    saboteur = Saboteur(simulator, simulator.vm_id("db01"))
    with (
        observed_by(saboteur),
        pytest.raises(SessionFailed, match="1 of 2 VMs failed: db01") as caught,
    ):
        run(site, "db01", "web01")
    by_name = {vm.vm_name: vm for vm in caught.value.result.vms}
    assert by_name["web01"].status == "success"
    assert by_name["db01"].status == "failed"
    assert by_name["db01"].point_id is None
    assert_nothing_is_left(site)


def test_a_worker_whose_disks_do_not_appear_is_passed_by(site: Any, tmp_path: Path) -> None:
    """W2: with the wrong device directory for the worker on the VM's host, another worker takes the VM, and the session says so."""
    (tmp_path / "empty").mkdir()
    result = run(site, "web01")
    near = result.vms[0].worker
    workers = [
        WorkerSpec(
            vm=spec.vm,
            disk_timeout_s=0.3,
            device_root=str(tmp_path / "empty") if spec.vm == near else spec.device_root,
        )
        for spec in site.workers.workers
    ]
    broken = site.workers.model_copy(update={"workers": workers})
    again = backup(
        site.cluster,
        site.repository,
        broken,
        BackupJob(name="nightly", scope=Scope(vms=("web01",))),
    )
    assert again.vms[0].worker not in (None, near)
    assert "no usable worker on the VM's host" in (again.vms[0].worker_reason or "")
    assert_nothing_is_left(site)


def test_trouble_before_any_vm_is_one_clear_error(site: Any, tmp_path: Path) -> None:
    """Unknown VM, empty scope, no usable worker: refused before a snapshot is taken, and the cluster stays clean."""
    with pytest.raises(VmNotFound, match=r"no VM web1 .*web01"):
        run(site, "web1")
    with pytest.raises(NothingToBackUp):
        backup(
            site.cluster,
            site.repository,
            site.workers,
            BackupJob(scope=Scope(vms=("web01",), exclude=Selection(vms=("web01",)))),
        )
    nowhere = site.workers.model_copy(
        update={"workers": [WorkerSpec(vm="ahvault-worker-1", device_root=str(tmp_path / "none"))]}
    )
    with pytest.raises(NoWorker, match="does not exist on this machine"):
        backup(site.cluster, site.repository, nowhere, BackupJob())
    assert_nothing_is_left(site)


def test_a_restored_vm_is_a_new_vm_with_the_same_disks(site: Any, simulator: Simulator) -> None:
    """The new VM has the old one's shape and, byte for byte, its disks; the old one is untouched; a taken name is refused."""
    run(site, "files01")
    with site.repository.open() as repository:
        point = repository.points().points[-1]
    with pytest.raises(RestoreRefused, match="exists already"):
        restore_vm(site.cluster, site.repository, site.workers, point.id, "web01")
    with pytest.raises(RestoreRefused, match="no storage container"):
        restore_vm(site.cluster, site.repository, site.workers, point.id, "other", container="nope")

    result = restore_vm(
        site.cluster, site.repository, site.workers, point.id, "files02", power_on=True
    )

    assert result.disk_count == len(point.disks)
    with site.cluster.client() as client:
        old, new = client.find_vm("files01"), client.vm(result.vm_id)
        assert new.is_on
        assert (new.name, new.memory_size_bytes) == ("files02", old.memory_size_bytes)
        assert [disk.label for disk in new.data_disks] == [disk.label for disk in old.data_disks]
        assert {nic.mac for nic in new.nics}.isdisjoint({nic.mac for nic in old.nics})
        copy = client.create_recovery_point(
            name="proof",
            vm_ids=[new.id],
            expires_at=point.created_at.replace(year=point.created_at.year + 1),
            request_id="6f1d0f4e-7f0a-4b8e-9d55-0a8f6f6f2b11",
        )
        restored = client.recovery_point(copy)
        parts = client.disk_recovery_points(copy, restored.vm_recovery_points[0].id)
        made = {part.disk_id: part.ref.disk_recovery_point_id for part in parts}
        for disk, new_disk in zip(point.disks, new.data_disks, strict=True):
            reference = disk.source_facts["recovery_point"]["disk_recovery_point_id"]
            ours = Path(simulator.story.frozen(made[new_disk.id])["path"])
            theirs = Path(simulator.story.frozen(reference)["path"])
            assert ours.read_bytes() == theirs.read_bytes(), disk.label
        client.delete_recovery_point(copy)
        client.delete_vm(new.id)
    assert_nothing_is_left(site)


def test_a_damaged_point_is_restored_only_where_damage_is_allowed(
    site: Any, simulator: Simulator
) -> None:
    """It is refused and leaves nothing; allowed, exactly the bytes named are zeros, all others are there."""
    run(site, "files01")
    with site.repository.open() as repository:
        point = repository.points().points[-1]
        spoilt = spoil_one_chunk(repository, point)
    with pytest.raises(DamagedObject):
        restore_vm(site.cluster, site.repository, site.workers, point.id, "files03")
    result = restore_vm(
        site.cluster, site.repository, site.workers, point.id, "files03", allow_damaged=True
    )
    (damaged,) = result.damaged
    assert (damaged.disk_id, damaged.ranges_bytes) == (point.disks[0].disk_id, (spoilt,))
    with site.cluster.client() as client:
        new = client.vm(result.vm_id)
        copy = client.create_recovery_point(
            name="proof",
            vm_ids=[new.id],
            expires_at=point.created_at.replace(year=point.created_at.year + 1),
            request_id="0a8f6f6f-7f0a-4b8e-9d55-6f1d0f4e2b11",
        )
        restored = client.recovery_point(copy)
        parts = client.disk_recovery_points(copy, restored.vm_recovery_points[0].id)
        made = {part.disk_id: part.ref.disk_recovery_point_id for part in parts}
        for disk, new_disk in zip(point.disks, new.data_disks, strict=True):
            reference = disk.source_facts["recovery_point"]["disk_recovery_point_id"]
            theirs = bytearray(Path(simulator.story.frozen(reference)["path"]).read_bytes())
            if disk.disk_id == damaged.disk_id:
                start, end = spoilt
                assert any(theirs[start:end])
                theirs[start:end] = bytes(end - start)
            ours = Path(simulator.story.frozen(made[new_disk.id])["path"])
            assert ours.read_bytes() == theirs, disk.label
        client.delete_recovery_point(copy)
        client.delete_vm(new.id)
    assert_nothing_is_left(site)


def spoil_one_chunk(repository: Repository, point: RestorePoint) -> tuple[int, int]:
    """Flip a bit in the stored bytes of one chunk of the first disk; returns its byte range."""
    disk = point.disks[0]
    reader = repository.open_disk(point, disk.disk_id)
    places = reader._window(0)
    ids = [place["id"].tobytes() for place in places]
    chunk = next(
        row for row in range(len(ids)) if places["length"][row] and ids.count(ids[row]) == 1
    )
    name = places["pack"][chunk].tobytes().hex()
    path = Path(repository.url, "data", name[:2], name)
    data = bytearray(path.read_bytes())
    data[int(places["offset"][chunk]) + 100] ^= 1
    path.write_bytes(data)
    size = disk.chunk_size_bytes
    return chunk * size, min((chunk + 1) * size, disk.size_bytes)
