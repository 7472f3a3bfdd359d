"""What a killed session leaves on the cluster is found and removed; what is not ours never is (N6-N11)."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import jobs
from jobs import BackupSession, WorkerSpec, find_leftovers, remove_leftovers
from jobs.journal import all_entries
from jobs.marks import repository_prefix
from nutanix import AhvClient
from repository import Repository, RestorePoint, SystemClock, VerifyLevel
from simulator import Simulator

UNANSWERED = (
    "before recovery point",
    "before volume group",
)
"""Moments at which an intent stands in the journal and nothing was made of it."""

SCRIPT = Path(__file__).parent / "dying_session.py"


def moments() -> tuple[str, ...]:
    spec = importlib.util.spec_from_file_location("dying_session", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return tuple(module.MOMENTS)


@pytest.fixture
def die_at(
    simulator: Simulator,
    repository: Repository,
    workers: list[WorkerSpec],
    tmp_path: Path,
) -> Callable[[str], None]:
    """Run a session of web01 that is killed at a moment."""
    settings: dict[str, Any] = {
        "connection": {
            "url": simulator.pc_url,
            "username": simulator.username,
            "password": simulator.password,
            "ca_file": str(simulator.ca_file),
            "prism_element_port": int(simulator.pe_url.rpartition(":")[2]),
        },
        "repository": repository.url,
        "workers": [worker.model_dump() for worker in workers],
        "vm_id": simulator.vm_id("web01"),
    }
    path = tmp_path / "settings.json"

    def run(moment: str) -> None:
        path.write_text(json.dumps(settings))
        command = [sys.executable, str(SCRIPT), str(path), moment]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == -signal.SIGKILL, ended.stderr

    return run


def ours(client: AhvClient, repository: Repository) -> dict[str, list[str]]:
    """What carries our mark on the cluster, and which workers run."""
    prefix = repository_prefix(repository.id)
    return {
        "recovery points": [each.id for each in client.recovery_points(name_prefix=prefix)],
        "volume groups": [each.id for each in client.volume_groups(name_prefix=prefix)],
        "workers on": [vm.name for vm in client.vms() if vm.is_on and "worker" in vm.name],
    }


def foreign(client: AhvClient, repository: Repository) -> set[str]:
    """Everything that somebody else made."""
    points = {each.id for each in client.recovery_points()}
    groups = {each.id for each in client.volume_groups()}
    mine = ours(client, repository)
    return (points | groups) - set(mine["recovery points"]) - set(mine["volume groups"])


@pytest.mark.parametrize("moment", moments())
def test_the_next_session_cleans_up_after_a_kill(
    moment: str,
    simulator: Simulator,
    client: AhvClient,
    repository: Repository,
    die_at: Callable[[str], None],
    open_backup: Callable[..., AbstractContextManager[BackupSession]],
    back_up: Callable[[BackupSession, str], RestorePoint],
    reference_of: Callable[[BackupSession, str], jobs.Reference],
) -> None:
    """Killed at any moment, with a restore point before it: the repository verifies, the cluster is clean after the
    next reconciliation, and the newest restore point's reference, and nothing of others, survived it."""
    with open_backup() as session:
        back_up(session, simulator.vm_id("web01"))
    others = foreign(client, repository)
    before = repository.points().points

    simulator.story.write_raw("web01", 40 << 20, moment.encode())
    die_at(moment)
    removed = reconcile(client, repository, open_backup)

    points = repository.points().points
    assert len(points) == len(before) + (moment in ("after commit", "after settle"))
    assert ours(client, repository) == {
        "recovery points": [points[-1].source["recovery_point_id"]],
        "volume groups": [],
        "workers on": [],
    }, removed
    assert removed, "a killed session leaves at least its worker running"
    assert foreign(client, repository) == others
    # A call that was perhaps sent and never answered is looked for until no creation can be that old.
    unanswered = all_entries(repository.live)
    assert all(entry.object_id is None for entry in unanswered)
    assert len(unanswered) == (moment in UNANSWERED)
    later = LaterClock(31)
    gone = find_leftovers(client, repository, cluster_url=client.connection.url, clock=later)
    remove_leftovers(client, repository, gone, clock=later)
    assert all_entries(repository.live) == []
    assert repository.verify(VerifyLevel.CONTENT).findings == ()
    with open_backup() as session:
        reference = reference_of(session, points[-1].vm_id)
        assert reference.recovery_point_id == points[-1].source["recovery_point_id"]


def reconcile(
    client: AhvClient,
    repository: Repository,
    open_backup: Callable[..., AbstractContextManager[BackupSession]],
) -> list[str]:
    """What every session does first."""
    with open_backup():
        pass  # Its own workers are off again; what follows judges only what the dead one left.
    leftovers = find_leftovers(
        client, repository, cluster_url=client.connection.url, clock=SystemClock()
    )
    return remove_leftovers(client, repository, leftovers, clock=SystemClock())


def test_a_living_session_is_left_alone(
    simulator: Simulator,
    client: AhvClient,
    repository: Repository,
    open_backup: Callable[..., AbstractContextManager[BackupSession]],
) -> None:
    """A snapshot and a volume group that a session still uses are no leftovers, and its worker stays on."""
    with open_backup() as session:
        snapshot = jobs.take_snapshot(session, simulator.vm_id("web01"))
        group = jobs.group_snapshot(session, snapshot)
        attachment = jobs.attach(session, group, {})
        found = find_leftovers(
            client, repository, cluster_url=client.connection.url, clock=SystemClock()
        )
        assert found == []
        jobs.detach(session, attachment)
        jobs.remove_group(session, group)
        jobs.abandon_snapshot(session, snapshot)


class LaterClock(SystemClock):
    """The machine's clock, minutes ahead."""

    def __init__(self, minutes: int) -> None:
        self.ahead = timedelta(minutes=minutes)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


def test_a_session_of_another_machine_is_judged_by_its_age(
    client: AhvClient,
    repository: Repository,
    open_backup: Callable[..., AbstractContextManager[BackupSession]],
) -> None:
    """Nobody here can see that process: its lease counts until it is old, and only then its things are leftovers."""
    with open_backup() as session:
        lease = repository.live.get("sessions", session.session_id)
        assert lease is not None
        repository.live.put("sessions", session.session_id, {**lease, "machine": "elsewhere"})

        def found(minutes: int) -> set[str]:
            leftovers = find_leftovers(
                client, repository, cluster_url=client.connection.url, clock=LaterClock(minutes)
            )
            return {leftover.kind for leftover in leftovers}

        assert found(1) == set()
        assert found(10) == {"worker-power"}


def test_nothing_of_another_repository_is_touched(
    simulator: Simulator,
    client: AhvClient,
    tmp_path: Path,
    open_backup: Callable[..., AbstractContextManager[BackupSession]],
) -> None:
    """Two installations on one cluster: the mark names the repository, so neither sees leftovers of the other (N10)."""
    with (
        Repository.create(f"file://{tmp_path}/other") as other,
        open_backup() as session,
    ):
        snapshot = jobs.take_snapshot(session, simulator.vm_id("web01"))
        found = find_leftovers(
            client, other, cluster_url=client.connection.url, clock=LaterClock(60)
        )
        assert found == []
        jobs.abandon_snapshot(session, snapshot)


def test_a_session_that_begins_while_the_journal_is_read_is_alive(
    simulator: Simulator,
    client: AhvClient,
    repository: Repository,
    open_backup: Callable[..., AbstractContextManager[BackupSession]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Entries are read before leases: one whose session opens in between is nobody's leftover."""
    begun: list[Any] = []
    honest = type(repository.live).list

    def begins_in_between(self: Any, kind: str) -> Any:
        if kind == "sessions" and not begun:
            begun.append(open_backup())
            session = begun[0].__enter__()
            jobs.take_snapshot(session, simulator.vm_id("web01"))
        return honest(self, kind)

    monkeypatch.setattr(type(repository.live), "list", begins_in_between)
    clock = SystemClock()
    found = find_leftovers(client, repository, cluster_url=client.connection.url, clock=clock)
    remove_leftovers(client, repository, found, clock=clock)
    assert found == []
    assert len(ours(client, repository)["recovery points"]) == 1
    assert ours(client, repository)["workers on"] != []
    begun[0].__exit__(None, None, None)


def test_an_unreadable_lease_counts_as_life(
    simulator: Simulator,
    client: AhvClient,
    repository: Repository,
    open_backup: Callable[..., AbstractContextManager[BackupSession]],
    tmp_path: Path,
) -> None:
    """A torn or foreign lease keeps its session's things: doubt removes nothing."""
    clock = SystemClock()

    def found() -> list[Any]:
        return find_leftovers(client, repository, cluster_url=client.connection.url, clock=clock)

    with open_backup() as session:
        snapshot = jobs.take_snapshot(session, simulator.vm_id("web01"))
        lease = next((tmp_path / "repository/live/sessions").iterdir())
        whole = lease.read_bytes()
        lease.write_bytes(whole[: len(whole) // 2])
        assert found() == []
        lease.write_bytes(whole)
        repository.live.put("sessions", session.session_id, {"of": "another version"})
        assert found() == []
        jobs.abandon_snapshot(session, snapshot)


def test_a_committed_recovery_point_survives_every_cleanup(
    simulator: Simulator,
    client: AhvClient,
    repository: Repository,
    open_backup: Callable[..., AbstractContextManager[BackupSession]],
    back_up: Callable[[BackupSession, str], RestorePoint],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A commit that was carried out although the step failed: neither abandoning nor the session's end deletes its reference."""
    vm_id = simulator.vm_id("files01")
    monkeypatch.setattr(jobs, "settle_snapshot", lambda *_: None)
    with open_backup("files01") as session:
        point = back_up(session, vm_id)
        entry = next(each for each in all_entries(repository.live) if each.kind == "recovery-point")
        assert entry.object_id == point.source["recovery_point_id"]
    assert point.source["recovery_point_id"] in ours(client, repository)["recovery points"]
    assert all_entries(repository.live) == []


def test_one_vm_in_two_sessions_at_once_is_refused_to_the_later(
    simulator: Simulator,
    open_backup: Callable[..., AbstractContextManager[BackupSession]],
) -> None:
    """S11: the session whose intent is oldest goes on; the other is told whose turn it is and leaves nothing."""
    vm_id = simulator.vm_id("web01")
    with open_backup() as first, open_backup("web01", "weekly") as second:
        snapshot = jobs.take_snapshot(first, vm_id)
        with pytest.raises(jobs.VmBusy, match=first.session_id[:8]):
            jobs.take_snapshot(second, vm_id)
        jobs.abandon_snapshot(first, snapshot)
        jobs.abandon_snapshot(second, jobs.take_snapshot(second, vm_id))


def test_an_older_snapshot_never_takes_a_newer_point_as_reference(
    simulator: Simulator,
    client: AhvClient,
    repository: Repository,
    open_backup: Callable[..., AbstractContextManager[BackupSession]],
    back_up: Callable[[BackupSession, str], RestorePoint],
) -> None:
    """Only a point before the snapshot can be built on, and settling never deletes what the newest point names."""
    vm_id = simulator.vm_id("files01")
    with open_backup("files01") as session:
        first = back_up(session, vm_id)
        stale = jobs.Reference(first, first.source["recovery_point_id"])
        snapshot = jobs.take_snapshot(session, vm_id)
        older = snapshot.model_copy(update={"created_at": first.created_at})
        assert jobs.find_reference(session, older).point is None
        jobs.settle_snapshot(session, snapshot, stale)
        assert first.source["recovery_point_id"] in ours(client, repository)["recovery points"]
        client.delete_recovery_point(snapshot.recovery_point_id)


def test_the_reference_of_a_forgotten_point_goes(
    simulator: Simulator,
    client: AhvClient,
    repository: Repository,
    open_backup: Callable[..., AbstractContextManager[BackupSession]],
    back_up: Callable[[BackupSession, str], RestorePoint],
    reference_of: Callable[[BackupSession, str], jobs.Reference],
) -> None:
    """Once its restore point is forgotten, nothing builds on a recovery point: the next clean-up removes it (N9)."""
    vm_id = simulator.vm_id("web01")
    with open_backup() as session:
        point = back_up(session, vm_id)
    repository.forget(point)
    reconcile(client, repository, open_backup)
    assert ours(client, repository)["recovery points"] == []
    with open_backup() as session:
        assert reference_of(session, vm_id).point is None
