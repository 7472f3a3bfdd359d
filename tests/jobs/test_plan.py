"""The preview of a session: what it says is what the session then does, and looking changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jobs import (
    BackupJob,
    BackupSession,
    NothingToBackUp,
    Scope,
    Selection,
    SessionPlan,
    WorkerSpec,
    plan_session,
)
from nutanix import AhvClient
from repository import PointDraft, Repository, RestorePoint
from simulator import Simulator

OpenSession = Callable[..., Any]
BackUp = Callable[[BackupSession, str], RestorePoint]


class Ahead:
    """A clock that runs ahead of the machine's."""

    def __init__(self, days: float = 0) -> None:
        self.ahead = timedelta(days=days)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def monotonic_s(self) -> float:
        return self.now().timestamp()


@pytest.fixture
def preview(
    client: AhvClient, repository: Repository, workers: list[WorkerSpec]
) -> Callable[..., SessionPlan]:
    """Plan the job `nightly`."""

    def plan(*, days: float = 0, **fields: Any) -> SessionPlan:
        job = BackupJob.model_validate({"name": "nightly", "scope": {"vms": ["web01"]}, **fields})
        return plan_session(client, repository, workers, job, clock=Ahead(days))

    return plan


def state_of(client: AhvClient, repository: Repository) -> object:
    """Everything that a session would change: the cluster's objects, power, and the repository's records."""
    return (
        [(vm.id, vm.power_state) for vm in client.vms()],
        [each.id for each in client.recovery_points()],
        [each.id for each in client.volume_groups()],
        repository.points().points,
        repository.reports().reports,
        {kind: repository.live.list(kind).records for kind in ("sessions", "journal", "jobs")},
    )


def test_a_first_run_is_full_and_the_amount_is_a_bound(
    preview: Callable[..., SessionPlan], client: AhvClient, repository: Repository
) -> None:
    """Order, method, reason, worker and who is left out, with nothing changed on the cluster or in the repository."""
    before = state_of(client, repository)
    plan = preview(scope={})
    assert state_of(client, repository) == before
    assert [vm.vm_name for vm in plan.vms] == ["db01", "files01", "web01"]
    assert plan.left_out == (
        "ahvault-worker-1: it is a worker",
        "ahvault-worker-2: it is a worker",
    )
    for vm in plan.vms:
        assert (vm.kind, vm.problem, vm.consistency) == ("full", None, "crash")
        assert {disk.method for disk in vm.disks} == {"allocated"}
        assert {disk.cause for disk in vm.disks} == {"first-run"}
        assert {disk.basis.value for disk in vm.disks} == {"at most: the disk's size"}
        assert vm.expected_bytes == vm.size_bytes
        assert vm.worker in ("ahvault-worker-1", "ahvault-worker-2")
        assert "prefers one on the VM's host" in (vm.worker_reason or "")
    assert plan.is_sound


def test_what_is_planned_is_what_then_happens(
    preview: Callable[..., SessionPlan],
    open_backup: OpenSession,
    back_up: BackUp,
    simulator: Simulator,
    client: AhvClient,
) -> None:
    """Method and cause per disk, run after run: full, incremental, a disk added, the reference gone."""
    vm_id = simulator.vm_id("web01")

    def run() -> RestorePoint:
        with open_backup() as session:
            return back_up(session, vm_id)

    def compare() -> list[tuple[str, str]]:
        plan = preview()
        expected = [(disk.label, disk.method, disk.cause) for disk in plan.vms[0].disks]
        point = run()
        happened = [
            (disk.label, disk.read_method, str(disk.source_facts["read_cause"]))
            for disk in point.disks
        ]
        assert expected == happened
        return [(method, cause) for _, method, cause in happened]

    assert compare() == [("allocated", "first-run")]
    assert compare() == [("changed", "changed-regions")]
    disk_id = simulator.story.add_disk("web01", 8 << 20)
    assert compare() == [("changed", "changed-regions"), ("allocated", "new-disk")]
    point = run()
    client.delete_recovery_point(str(point.source["recovery_point_id"]))
    assert compare() == [("allocated", "reference-gone")] * 2
    assert disk_id
    simulator.story.remove_disk("web01", disk=1)


def test_amounts_say_what_they_rest_on(
    preview: Callable[..., SessionPlan],
    open_backup: OpenSession,
    back_up: BackUp,
    simulator: Simulator,
) -> None:
    """As much as the last incremental read; for a full read, what the cluster says is allocated at the last recovery point."""
    vm_id = simulator.vm_id("files01")

    def run(job: str = "nightly") -> RestorePoint:
        with open_backup("files01", job) as session:
            return back_up(session, vm_id)

    run()
    simulator.story.write_file("files01", "/srv/new.bin", size_bytes=2 << 20, seed="plan")
    second = run()
    scope = {"vms": ["files01"]}
    plan = preview(scope=scope).vms[0]
    assert {disk.basis.value for disk in plan.disks} == {"as much as the last incremental read"}
    assert plan.expected_bytes == second.read_bytes
    full = preview(scope=scope, name="weekly").vms[0]
    assert {disk.cause for disk in full.disks} == {"first-run"}
    assert {disk.basis.value for disk in full.disks} == {
        "allocated at the last recovery point, says the cluster"
    }
    assert run("weekly").read_bytes == full.expected_bytes < full.size_bytes
    audit = preview(scope=scope, days=40, full_read_days=30).vms[0]
    assert {(disk.method, disk.cause) for disk in audit.disks} == {("allocated", "audit-due")}


def test_what_would_go_wrong_is_told_with_the_vm(preview: Callable[..., SessionPlan]) -> None:
    """Unknown VM, consistency that the job insists on, rules that take no disk, workers that cannot be used."""
    plan = preview(
        scope={"vms": ["web1", "web01", "db01", "files01"]},
        consistency="application",
        if_not_consistent="fail",
        disk_rules=[{"vms": ["db01"], "disks": ["ide.9"]}],
    )
    problems = {vm.vm_name: vm.problem or "" for vm in plan.vms}
    assert not plan.is_sound
    assert "Did you mean web01?" in problems["web1"]
    assert "insists on application consistency" in problems["web01"]
    assert "disk rules take none of the disks of db01, which are scsi.0, scsi.1" in problems["db01"]


def test_without_a_usable_worker_every_vm_has_the_problem(
    client: AhvClient, repository: Repository
) -> None:
    """Each worker with its reason."""
    ghost = [
        WorkerSpec(vm="ghost"),
        WorkerSpec(vm="ahvault-worker-1", device_root="/nonexistent"),
        WorkerSpec(vm="ahvault-worker-2", enabled=False),
    ]
    job = BackupJob(scope=Scope(vms=("web01",)))
    plan = plan_session(client, repository, ghost, job, clock=Ahead())
    problem = plan.vms[0].problem or ""
    assert "There is no VM ghost" in problem
    assert "/nonexistent does not exist on this machine" in problem
    assert "ahvault-worker-2: disabled" in problem


def test_disks_and_windows_and_empty_scopes(preview: Callable[..., SessionPlan]) -> None:
    """A disk left out by rule is listed; a closed window is a warning; a scope that selects nothing is refused."""
    hour = (datetime.now(UTC) + timedelta(hours=12)).hour
    plan = preview(
        scope={"vms": ["db01"]},
        disk_rules=[{"disks": ["scsi.0"]}],
        window={"times": [f"{hour:02}:00-{hour:02}:30"]},
    )
    assert [disk.label for disk in plan.vms[0].disks] == ["scsi.0"]
    assert plan.vms[0].left_out == ("disk scsi.1: left out by a disk rule of the job",)
    assert "no VM would start now: the job's window is closed; it opens on" in plan.warnings[0]
    with pytest.raises(NothingToBackUp):
        preview(scope=Scope(vms=("web01",), exclude=Selection(vms=("web01",))))


def test_what_retention_would_drop_counts_the_points_that_the_run_makes(
    preview: Callable[..., SessionPlan], repository: Repository, simulator: Simulator
) -> None:
    """Of four old points with a minimum of three, the run makes a fifth: two go, and each says why. Without a policy none does."""
    started = datetime.now(UTC) - timedelta(days=40)
    with repository.write_session("old") as session:
        for day in range(4):
            moment = started + timedelta(days=day)
            session.commit(
                PointDraft(
                    vm_id=simulator.vm_id("web01"),
                    vm_name="web01",
                    job="nightly",
                    session_id="old",
                    session_started_at=moment,
                    created_at=moment,
                    consistency="crash",
                    disks=(),
                )
            )
    assert preview().retention_drops == ()
    plan = preview(retention={"keep_days": 7, "minimum_kept": 3})
    assert [drop.session_started_at.date() for drop in plan.retention_drops] == [
        started.date(),
        (started + timedelta(days=1)).date(),
    ]
    assert "older than 7 days" in plan.retention_drops[0].why
    assert len(repository.points().points) == 4
