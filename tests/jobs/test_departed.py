"""When the reference of a VM that left, or of a job that is gone, is waste, and when it only looks so (N9)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta

import pytest

import jobs
from jobs import BackupJob, BackupSession, VmTarget, find_leftovers, remember_job, remove_leftovers
from jobs.departed import judge_departed
from jobs.known_jobs import KnownJob, KnownVm
from jobs.marks import repository_prefix
from nutanix import AhvClient
from repository import Repository, RestorePoint, SystemClock
from simulator import Simulator

NOW = datetime(2026, 6, 30, 12, tzinfo=UTC)


def point(vm: str, days_ago: float, job: str = "nightly") -> RestorePoint:
    moment = NOW - timedelta(days=days_ago)
    return RestorePoint(
        vm_id=vm,
        vm_name=vm,
        job=job,
        session_id="s",
        session_started_at=moment,
        created_at=moment,
        committed_at=moment,
        consistency="crash",
        disks=(),
        source={"recovery_point_id": f"rp-{vm}-{job}"},
        id=f"{vm}-{job}",
        key="k",
        gc_generation=0,
    )


def known(
    vms: tuple[str, ...] = (),
    *,
    chosen_days_ago: float = 0,
    retired_days_ago: float | None = None,
    **definition: object,
) -> dict[str, KnownJob]:
    return {
        "nightly": KnownJob(
            name="nightly",
            definition={"departed_days": 14, **definition},
            since=NOW - timedelta(days=300),
            vms={vm: KnownVm(name=vm, since=NOW - timedelta(days=300)) for vm in vms},
            chosen_at=NOW - timedelta(days=chosen_days_ago),
            retired_at=None if retired_days_ago is None else NOW - timedelta(days=retired_days_ago),
        )
    }


CASES = [
    # what is told, points, record, living jobs, who has departed
    ("in the job", [point("a", 1)], known(("a",)), set(), []),
    ("in the job, failing for weeks", [point("a", 40)], known(("a",)), set(), []),
    ("left, not long ago", [point("a", 13.9), point("b", 1)], known(("b",)), set(), []),
    ("left, long ago", [point("a", 14.1), point("b", 1)], known(("b",)), set(), ["a"]),
    ("left, by the job's own days", [point("a", 40)], known(departed_days=60), set(), []),
    ("not chosen since its point", [point("a", 1)], known(chosen_days_ago=2), set(), []),
    ("gone", [point("a", 20)], known(("a",), chosen_days_ago=20), set(), ["a"]),
    ("runs right now", [point("a", 20)], known(("a",), chosen_days_ago=20), {"nightly"}, []),
    ("left, job runs right now", [point("a", 20)], known(chosen_days_ago=1), {"nightly"}, ["a"]),
    (
        "monthly, by its RPO",
        [point("a", 35)],
        known(("a",), chosen_days_ago=35, rpo_hours=31 * 24),
        set(),
        [],
    ),
    (
        "monthly, and gone",
        [point("a", 63)],
        known(("a",), chosen_days_ago=63, rpo_hours=31 * 24),
        set(),
        ["a"],
    ),
    (
        "retired lately",
        [point("a", 30)],
        known(("a",), chosen_days_ago=30, retired_days_ago=3),
        set(),
        [],
    ),
    (
        "retired long ago",
        [point("a", 30)],
        known(("a",), chosen_days_ago=30, retired_days_ago=15),
        set(),
        ["a"],
    ),
    ("no record, another VM is younger", [point("a", 20), point("b", 2)], {}, set(), []),
    ("no record, nothing since", [point("a", 20), point("b", 16)], {}, set(), ["a", "b"]),
    ("no record, runs right now", [point("a", 20)], {}, {"nightly"}, []),
    (
        "another job of the same VM lives",
        [point("a", 20), point("a", 1, "weekly")],
        known(("a",), chosen_days_ago=20),
        set(),
        ["a"],
    ),
]


@pytest.mark.parametrize(("told", "points", "records", "living", "departed"), CASES)
def test_judgement(
    told: str,
    points: list[RestorePoint],
    records: dict[str, KnownJob],
    living: set[str],
    departed: list[str],
) -> None:
    """Row by row: only what no living job could build on."""
    found = list(judge_departed(points, records, living, NOW))
    assert [each.point.vm_id for each in found] == departed, told
    assert all(each.point.job == "nightly" for each in found)


class LaterClock(SystemClock):
    """The machine's clock, days ahead."""

    def __init__(self, days: float) -> None:
        self.ahead = timedelta(days=days)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


def test_the_reference_of_a_departed_vm_goes_and_no_other(
    simulator: Simulator,
    client: AhvClient,
    repository: Repository,
    open_backup: Callable[..., AbstractContextManager[BackupSession]],
    back_up: Callable[[BackupSession, str], RestorePoint],
) -> None:
    """web01 leaves `nightly` and stays in `weekly`; files01 stays. After the days, one recovery point of ours goes, told beforehand with the reason."""
    made = {}
    for vm, job in (("web01", "nightly"), ("web01", "weekly"), ("files01", "nightly")):
        with open_backup(vm, job) as session:
            made[vm, job] = back_up(session, simulator.vm_id(vm))
    stranger = {each.id for each in client.recovery_points() if "ahvault" not in each.name}

    def remember(job: str, vm: str, clock: SystemClock) -> None:
        target = VmTarget(simulator.vm_id(vm), vm)
        remember_job(repository.live, BackupJob(name=job), vms=[target], clock=clock)

    def found(clock: SystemClock) -> list[jobs.Leftover]:
        return find_leftovers(client, repository, cluster_url=client.connection.url, clock=clock)

    remember("nightly", "files01", SystemClock())
    remember("weekly", "web01", SystemClock())
    assert found(LaterClock(13)) == []
    for job, vm in (("nightly", "files01"), ("weekly", "web01")):
        remember(job, vm, LaterClock(15))
    later = LaterClock(15)
    leftovers = found(later)
    assert [each.object_id for each in leftovers] == [
        made["web01", "nightly"].source["recovery_point_id"]
    ]
    assert "web01, which job nightly does not take any more" in leftovers[0].why

    # It comes back before it is removed: the proof is made again, and fails.
    with open_backup("web01", "nightly") as session:
        snapshot = jobs.take_snapshot(session, simulator.vm_id("web01"))
        remember("nightly", "web01", later)
        assert remove_leftovers(client, repository, leftovers, clock=later) == []
        jobs.abandon_snapshot(session, snapshot)
    remember("nightly", "files01", LaterClock(16))
    assert len(remove_leftovers(client, repository, leftovers, clock=LaterClock(16))) == 1

    standing = {
        each.id for each in client.recovery_points(name_prefix=repository_prefix(repository.id))
    }
    assert standing == {
        made[key].source["recovery_point_id"]
        for key in (("web01", "weekly"), ("files01", "nightly"))
    }
    assert stranger <= {each.id for each in client.recovery_points()}


def test_what_only_carries_our_mark_is_told_and_not_touched(
    simulator: Simulator,
    client: AhvClient,
    repository: Repository,
    open_backup: Callable[..., AbstractContextManager[BackupSession]],
) -> None:
    """The journal was lost: a recovery point that no record names is listed as unclaimed, and stays (N10)."""
    with open_backup("web01") as session:
        snapshot = jobs.take_snapshot(session, simulator.vm_id("web01"))
        assert jobs.find_unclaimed(client, repository) == []
        session.journal.forget(snapshot.entry)
    unclaimed = jobs.find_unclaimed(client, repository)
    assert [each.id for each in unclaimed] == [snapshot.recovery_point_id]
    found = find_leftovers(
        client, repository, cluster_url=client.connection.url, clock=LaterClock(100)
    )
    assert snapshot.recovery_point_id not in {each.object_id for each in found}
    client.delete_recovery_point(snapshot.recovery_point_id)
