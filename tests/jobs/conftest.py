"""A simulated cluster and a repository for tests of sessions, without Prefect."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

import jobs
from jobs import BackupJob, BackupSession, NullObserver, Reference, Scope, VmStory, WorkerSpec
from jobs import open_backup_session as open_session
from nutanix import AhvClient, ClusterConnection
from repository import Repository, RestorePoint
from simulator import Simulator


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    """A small Nutanix, shared by the tests of one file."""
    with Simulator(size=0.1) as running:
        yield running


@pytest.fixture
def client(simulator: Simulator) -> Iterator[AhvClient]:
    """A client of it."""
    connection = ClusterConnection(
        url=simulator.pc_url,
        username=simulator.username,
        password=simulator.password,
        ca_file=simulator.ca_file,
        prism_element_port=int(simulator.pe_url.rpartition(":")[2]),
    )
    with AhvClient(connection) as opened:
        yield opened


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    """An empty repository in a directory."""
    with Repository.create(f"file://{tmp_path}/repository") as created:
        yield created


@pytest.fixture
def workers(simulator: Simulator) -> list[WorkerSpec]:
    """Both worker VMs."""
    return [
        WorkerSpec(vm=each.name, device_root=str(each.device_root)) for each in simulator.workers
    ]


OpenSession = Callable[..., AbstractContextManager[BackupSession]]


@pytest.fixture
def open_backup(
    client: AhvClient, repository: Repository, workers: list[WorkerSpec]
) -> OpenSession:
    """Open a session of the job `nightly` over one VM, workers ready."""

    @contextmanager
    def opened(vm: str = "web01", job: str = "nightly") -> Iterator[BackupSession]:
        with open_session(
            client=client,
            repository=repository,
            workers=workers,
            job=BackupJob(name=job, scope=Scope(vms=(vm,))),
            observer=NullObserver(),
        ) as session:
            session.workers.prepare()
            yield session

    return opened


@pytest.fixture
def reference_of() -> Callable[[BackupSession, str], Reference]:
    """What the next restore point of a VM would build on."""

    def find(session: BackupSession, vm_id: str) -> Reference:
        snapshot = jobs.take_snapshot(session, vm_id)
        try:
            return jobs.find_reference(session, snapshot)
        finally:
            jobs.abandon_snapshot(session, snapshot)

    return find


@pytest.fixture
def back_up() -> Callable[[BackupSession, str], RestorePoint]:
    """One VM through every step, as the flow does it."""

    def run(session: BackupSession, vm_id: str) -> RestorePoint:
        story = VmStory.begin(vm_id, vm_id, clock=session.clock, observer=session.observer)
        snapshot = jobs.take_snapshot(session, vm_id)
        reference = jobs.find_reference(session, snapshot)
        plans = jobs.plan_reads(session, snapshot, reference)
        group = jobs.group_snapshot(session, snapshot)
        attachment = jobs.attach(session, group, {})
        records = [
            jobs.transfer_disk(
                session,
                story,
                disk=disk,
                index=index,
                plan=plan,
                base=reference.base(disk.disk_id),
                attachment=attachment,
            )
            for index, (disk, plan) in enumerate(zip(snapshot.disks, plans, strict=True))
        ]
        jobs.detach(session, attachment)
        assert jobs.remove_group(session, group) is None
        point = jobs.commit_point(session, snapshot, reference, records)
        jobs.settle_snapshot(session, snapshot, reference)
        return point

    return run
