"""One VM's restore point through whole sessions: two jobs at once, volume groups, causes, a full container."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest

from flows.backup import backup
from flows.restore import restore_vm
from jobs import BackupJob, NullObserver, ReadCause, SessionFailed, observed_by
from jobs.marks import repository_prefix
from simulator import Simulator

pytestmark = [pytest.mark.prefect, pytest.mark.xdist_group("prefect")]

MIB = 1 << 20
PATIENCE_S = 120


def run(site: Any, name: str, *vms: str, observer: Any = None) -> Any:
    job = BackupJob.model_validate({"name": name, "scope": {"vms": vms}, "parallel_vms": 1})
    with observed_by(observer or NullObserver()):
        return backup(site.cluster, site.repository, site.workers, job)


class HeldUp(NullObserver):
    """Holds the first disk up until it is let go."""

    def __init__(self) -> None:
        self.reached, self.let_go = threading.Event(), threading.Event()

    def disk_started(self, *_: object) -> None:
        self.reached.set()
        assert self.let_go.wait(PATIENCE_S)


def test_one_vm_in_two_jobs_at_once(site: Any, simulator: Simulator) -> None:
    """S11: while one session has the VM, that of the other job says whose turn it is and goes on with its own; later each job has its reference (N4)."""
    held = HeldUp()
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(
            copy_context().run, lambda: run(site, "nightly", "web01", observer=held)
        )
        try:
            assert held.reached.wait(PATIENCE_S)
            with pytest.raises(SessionFailed) as busy:
                run(site, "weekly", "web01", "files01")
        finally:
            held.let_go.set()
        assert first.result(PATIENCE_S).status == "success"
    told = {vm.vm_name: vm for vm in busy.value.result.vms}
    assert "is being backed up by session" in told["web01"].error
    assert told["files01"].point_id is not None

    assert run(site, "weekly", "web01", "files01").status == "success"
    with site.cluster.client() as client, site.repository.open() as repository:
        standing = client.recovery_points(name_prefix=repository_prefix(repository.id))
        points = repository.points().points
        newest = {(point.vm_name, point.job): point for point in points}
        assert {each.id for each in standing} == {
            point.source["recovery_point_id"] for point in newest.values()
        }
        assert set(newest) == {("web01", "nightly"), ("web01", "weekly"), ("files01", "weekly")}
    again = run(site, "nightly", "web01")
    assert {disk.read_cause for disk in again.vms[0].disks} == {ReadCause.CHANGED_REGIONS}


def test_a_vm_with_its_volume_group_there_and_back(site: Any, simulator: Simulator) -> None:
    """Backed up with the VM, reported with cause and day of the full read, and restored as a group of its own."""
    simulator.story.add_vm("erp", [4 * MIB])
    group_id = simulator.story.add_volume_group("erp-db", [3 * MIB], vm="erp")
    group = simulator.cluster.documents.find("volume_group", group_id)
    assert group is not None
    simulator.cluster.disks.write(group.private["vdisks"][0], MIB, b"ledger")
    result = run(site, "nightly", "erp").vms[0]
    assert result.status == "success"
    assert {disk.label: disk.read_cause for disk in result.disks} == {
        "scsi.0": ReadCause.FIRST_RUN,
        "vg.erp-db.0": ReadCause.FIRST_RUN,
    }
    assert all(disk.fully_read_at is not None for disk in result.disks)
    with site.repository.open() as repository:
        stored = repository.reports().reports[-1]["vms"][0]["disks"]
    assert [disk["read_cause"] for disk in stored] == ["first-run", "first-run"]

    restored = restore_vm(site.cluster, site.repository, site.workers, result.point_id, "erp-copy")
    assert restored.volume_groups == ("erp-copy-erp-db",)
    with site.cluster.client() as client:
        made = client.volume_groups(name_prefix="erp-copy")
        assert [each.vm_id for each in client.vm_attachments(made[0].id)] == [restored.vm_id]
        disk = client.volume_disks(made[0].id)[0]
        assert simulator.cluster.disks.live_path(disk.id).read_bytes()[MIB : MIB + 6] == b"ledger"
        for vm in ("erp", "erp-copy"):
            simulator.story.remove_vm(vm)
        for each in client.volume_groups(name_prefix="erp"):
            client.delete_volume_group(each.id)


def test_a_full_container_skips_its_vms_and_says_so(site: Any, simulator: Simulator) -> None:
    """P4: no snapshot, a failed session that names container, figure and limit; with room again all is well."""
    simulator.story.fill_container("default-container", free_percent=2.0)
    try:
        with pytest.raises(SessionFailed, match="skipped before its snapshot") as skipped:
            run(site, "nightly", "web01")
    finally:
        simulator.story.fill_container("default-container", free_percent=60.0)
    assert "2.0 % free, and the job's limit is 5 %" in skipped.value.result.vms[0].error
    assert run(site, "nightly", "web01").status == "success"
