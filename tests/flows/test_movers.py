"""Transfers by a Prefect worker's own process, next to the disks: a real server, a real process worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL

from blocks import BackupRepository, BackupWorkers
from flows.backup import backup
from flows.deployments import save_connections
from flows.restore import restore_vm
from flows.scale_out import prepare_server
from jobs import BackupJob, NoWorker, Scope
from jobs.marks import repository_prefix
from jobs.moves import Moves
from repository import VerifyLevel
from simulator import Simulator
from tests.flows.test_flows import assert_nothing_is_left
from tests.scale.processes import CLIENT_SETTINGS, Child, ended, prefect_worker

pytestmark = [pytest.mark.prefect, pytest.mark.xdist_group("prefect")]


@pytest.fixture
def remote(site: Any) -> Any:
    """The site with every worker behind a queue of its own, blocks saved, the server prepared."""
    return with_queues(site, "mover")


def with_queues(site: Any, prefix: str, boot_timeout_s: float = 20.0) -> Any:
    """The site with such queues, and the repository's block as saved."""
    specs = [
        spec.model_copy(update={"queue": f"{prefix}-{spec.vm}", "boot_timeout_s": boot_timeout_s})
        for spec in site.workers.workers
    ]
    workers = BackupWorkers(workers=specs)
    prepare_server(save_connections(site.cluster, site.repository, workers), [], specs)
    return replace(site, workers=workers, repository=BackupRepository.load("main"))


def worker_process(vm: str, folder: Path) -> Child:
    """A Prefect worker for the queue of one worker VM."""
    environment = {
        **CLIENT_SETTINGS,
        "PREFECT_API_URL": str(PREFECT_API_URL.value()),
        "PREFECT_HOME": str(folder / f"home-{vm}"),
    }
    return prefect_worker(
        name=vm,
        pool="ahvault-movers",
        queue=f"mover-{vm}",
        limit=2,
        environment=environment,
        log=folder / f"{vm}.log",
    )


@pytest.fixture
def processes(remote: Any, tmp_path: Path) -> Iterator[list[Child]]:
    """One Prefect worker per worker VM, polling."""
    made = [worker_process(spec.vm, tmp_path) for spec in remote.workers.workers]
    with ended(*made):
        for child in made:
            child.start()
        yield made


def run(site: Any, *vms: str) -> Any:
    return backup(
        site.cluster,
        site.repository,
        site.workers,
        BackupJob(name="nightly", scope=Scope(vms=vms)),
    )


def test_disks_are_moved_by_the_workers_own_process_and_back(
    remote: Any, processes: list[Child], simulator: Simulator
) -> None:
    """A full, an incremental and a restore whose bytes all pass through other processes: same result, nothing left."""
    first = run(remote, "files01")
    assert first.status == "success", first
    simulator.story.write_file("files01", "/srv/new.bin", size_bytes=1 << 20, seed="second")
    second = run(remote, "files01")
    assert {disk.read_method for disk in second.vms[0].disks} == {"changed"}
    assert 0 < second.vms[0].read_bytes < first.vms[0].read_bytes / 4
    with remote.repository.open() as repository:
        point = repository.points().points[-1]
        assert repository.verify(VerifyLevel.CONTENT).findings == ()
        assert Moves(repository.live).all() == []
    restored = restore_vm(remote.cluster, remote.repository, remote.workers, point.id, "files-copy")
    assert_same_bytes(remote, simulator, point, restored.vm_id)
    with get_client(sync_client=True) as prefect:
        movers = [each for each in prefect.read_flow_runs() if each.work_queue_name]
    assert len(movers) == 3
    assert {str(each.state_type) for each in movers} == {"StateType.COMPLETED"}
    assert all(each.parent_task_run_id for each in movers)
    assert_nothing_is_left(remote)


def assert_same_bytes(site: Any, simulator: Simulator, point: Any, vm_id: str) -> None:
    """The restored VM's disks hold what the recovery point held."""
    with site.cluster.client() as client:
        new = client.vm(vm_id)
        copy = client.create_recovery_point(
            name="proof",
            vm_ids=[vm_id],
            expires_at=point.created_at.replace(year=point.created_at.year + 1),
            request_id="6f1d0f4e-7f0a-4b8e-9d55-0a8f6f6f2b77",
        )
        parts = client.disk_recovery_points(
            copy, client.recovery_point(copy).vm_recovery_points[0].id
        )
        made = {part.disk_id: part.ref.disk_recovery_point_id for part in parts}
        for disk, new_disk in zip(point.disks, new.data_disks, strict=True):
            reference = disk.source_facts["recovery_point"]["disk_recovery_point_id"]
            ours = Path(simulator.story.frozen(made[new_disk.id])["path"])
            theirs = Path(simulator.story.frozen(reference)["path"])
            assert ours.read_bytes() == theirs.read_bytes(), disk.label
        client.delete_recovery_point(copy)
        client.delete_vm(vm_id)


def test_a_queue_that_nobody_polls_is_no_worker(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Prefect worker polls: the session is refused before a snapshot, naming the queue; an unsaved repository, too."""
    remote = with_queues(site, "nobody", boot_timeout_s=3.0)
    with pytest.raises(NoWorker, match="no Prefect worker polls its queue nobody-ahvault-worker-1"):
        run(remote, "web01")
    with pytest.raises(NoWorker, match="are not saved"):
        run(replace(remote, repository=BackupRepository(url=site.repository.url)), "web01")
    with remote.cluster.client() as client, remote.repository.open() as repository:
        assert client.recovery_points(name_prefix=repository_prefix(repository.id)) == []
