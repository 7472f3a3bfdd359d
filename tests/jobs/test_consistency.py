"""Application consistency: what was reached is stored, and the job's policy decides about less (N1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import jobs
from jobs import BackupJob, BackupSession, ConsistencyNotReached, NullObserver, Scope, WorkerSpec
from jobs.journal import all_entries
from jobs.marks import repository_prefix
from jobs.session import open_backup_session
from nutanix import AhvClient
from repository import Repository, RestorePoint
from simulator import Simulator

Policy = Callable[..., Iterator[BackupSession]]

REFUSAL = {
    "kind": "task",
    "outcome": "fails",
    "message": "VSS snapshot failed in the guest",
    "match": {"operation": "CreateRecoveryPoint"},
    "times": 1,
}


@pytest.fixture
def wanting(
    client: AhvClient, repository: Repository, workers: list[WorkerSpec]
) -> Callable[[str], object]:
    """A session that wants application consistency, with one of the policies."""

    @contextmanager
    def opened(policy: str) -> Iterator[BackupSession]:
        job = BackupJob(
            name="nightly",
            scope=Scope(),
            consistency="application",
            if_not_consistent=policy,  # type: ignore[arg-type]
        )
        with open_backup_session(
            client=client, repository=repository, workers=workers, job=job, observer=NullObserver()
        ) as session:
            session.workers.prepare()
            yield session

    return opened


def ours(client: AhvClient, repository: Repository) -> list[str]:
    return [
        each.id for each in client.recovery_points(name_prefix=repository_prefix(repository.id))
    ]


def test_reached(
    simulator: Simulator,
    wanting: Callable[[str], Iterator[BackupSession]],
    back_up: Callable[[BackupSession, str], RestorePoint],
) -> None:
    """A guest that can be quiesced: the point says application, and that this was wanted."""
    with wanting("fail") as session:
        point = back_up(session, simulator.vm_id("db01"))
    assert point.consistency == "application"
    assert point.source["consistency_wanted"] == "application"


@pytest.mark.parametrize("vm", ["web01", "db01"])
@pytest.mark.parametrize("policy", ["warn", "accept"])
def test_less_is_taken_where_the_job_allows(
    simulator: Simulator,
    wanting: Callable[[str], Iterator[BackupSession]],
    back_up: Callable[[BackupSession, str], RestorePoint],
    vm: str,
    policy: str,
) -> None:
    """Guest tools that cannot (web01) or fail (db01): a crash-consistent point that says so, with or without a warning."""
    if vm == "db01":
        simulator.story.set_faults({"faults": [REFUSAL]})
    with wanting(policy) as session:
        snapshot = jobs.take_snapshot(session, simulator.vm_id(vm))
        jobs.abandon_snapshot(session, snapshot)
    simulator.story.set_faults({})
    assert snapshot.consistency == "crash"
    assert snapshot.source()["consistency_wanted"] == "application"
    told = [text for text in snapshot.warnings if "application consistency" in text]
    assert len(told) == (policy == "warn")
    if told and vm == "db01":
        assert "VSS snapshot failed in the guest" in told[0]


@pytest.mark.parametrize("vm", ["web01", "db01"])
def test_no_point_where_the_job_insists(
    simulator: Simulator,
    client: AhvClient,
    repository: Repository,
    wanting: Callable[[str], Iterator[BackupSession]],
    vm: str,
) -> None:
    """`fail`: no restore point, an error that says what to do, and nothing left on the cluster (N6)."""
    if vm == "db01":
        simulator.story.set_faults({"faults": [{**REFUSAL, "times": None}]})
    with wanting("fail") as session:
        with pytest.raises((ConsistencyNotReached, jobs.snapshots.OperationFailed)) as refused:
            jobs.take_snapshot(session, simulator.vm_id(vm))
        if vm == "web01":
            assert "if_not_consistent" in str(refused.value)
    simulator.story.set_faults({})
    assert ours(client, repository) == []
    assert all_entries(repository.live) == []


def test_a_silent_downgrade_of_the_cluster_is_not_taken_for_success(
    simulator: Simulator,
    client: AhvClient,
    repository: Repository,
    wanting: Callable[[str], Iterator[BackupSession]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A cluster that makes a crash-consistent point when asked for more: the level reached counts, never the one asked for."""
    honest = AhvClient.create_recovery_point

    def downgrades(self: AhvClient, **asked: object) -> str:
        return honest(self, **{**asked, "consistency": "crash"})  # type: ignore[arg-type]

    monkeypatch.setattr(AhvClient, "create_recovery_point", downgrades)
    with wanting("warn") as session:
        snapshot = jobs.take_snapshot(session, simulator.vm_id("db01"))
        jobs.abandon_snapshot(session, snapshot)
    assert snapshot.consistency == "crash"
    assert any("was not reached" in text for text in snapshot.warnings)
    with wanting("fail") as session, pytest.raises(ConsistencyNotReached, match="crash-consistent"):
        jobs.take_snapshot(session, simulator.vm_id("db01"))
    assert ours(client, repository) == []
