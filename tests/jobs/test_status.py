"""Who is late, by the age of the newest good restore point against the RPO of the job."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs import (
    BackupJob,
    KnownJob,
    Scope,
    describe_breaches,
    known_jobs,
    remember_job,
    retire_job,
)
from jobs.known_jobs import KnownVm
from jobs.rpo import default_rpo_hours
from jobs.scope import VmTarget
from jobs.status import Protection, judge
from repository import Repository, RestorePoint

NOW = datetime(2026, 11, 27, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)


def point(vm: str, age_hours: float, *, job: str = "nightly") -> RestorePoint:
    """A restore point of that age."""
    moment = NOW - age_hours * HOUR
    identity = f"{vm}-{job}-{age_hours}".replace(".", "-")
    return RestorePoint(
        vm_id=f"id-{vm}",
        vm_name=vm,
        job=job,
        session_id="s",
        session_started_at=moment,
        created_at=moment,
        committed_at=moment,
        consistency="crash",
        disks=(),
        id=identity,
        key=f"points/{identity}",
        gc_generation=0,
    )


def job(*vms: str, rpo_hours: float | None = 30, since_hours: float = 100, **more) -> KnownJob:
    """The job `nightly` that took these VMs in its last session, one hour ago."""
    since = NOW - since_hours * HOUR
    return KnownJob(
        name="nightly",
        definition={"rpo_hours": rpo_hours},
        since=since,
        vms={f"id-{vm}": KnownVm(name=vm, since=since) for vm in vms},
        chosen_at=NOW - HOUR,
        **more,
    )


def states(*points: RestorePoint, of: KnownJob | None, damaged=(), in_scope=None, rpo_hours=None):
    """The verdict by VM name."""
    report = judge(
        jobs={of.name: of} if of else {},
        points=points,
        damaged=set(damaged),
        now=NOW,
        in_scope={"nightly": in_scope} if in_scope is not None else {},
        rpo_hours=rpo_hours,
    )
    return {vm.vm_name: vm.state for vm in report.vms}


def test_the_age_of_the_newest_good_point_decides() -> None:
    """Exactly the RPO is still good, a second more is late; older points change nothing."""
    points = [point("a", 30), point("a", 54), point("b", 30.001), point("b", 200)]
    assert states(*points, of=job("a", "b")) == {"a": Protection.GOOD, "b": Protection.LATE}


def test_a_damaged_point_is_not_a_good_one() -> None:
    """The newest point has open findings, so the one before it counts; with none left the VM has nothing."""
    fresh, older = point("a", 2), point("a", 40)
    assert states(fresh, older, of=job("a"), damaged=[fresh.id]) == {"a": Protection.LATE}
    assert states(fresh, of=job("a"), damaged=[fresh.id]) == {"a": Protection.MISSING}


def test_a_point_from_the_future_hides_nobody() -> None:
    """A wrong clock dated it: the VM is as late as its other points say."""
    assert states(point("a", -48), point("a", 40), of=job("a")) == {"a": Protection.LATE}
    assert states(point("a", -0.5), of=job("a")) == {"a": Protection.GOOD}


def test_a_vm_that_was_never_backed_up_is_missing_once_its_rpo_has_passed() -> None:
    """No point and no failed run needed: that a session took the VM is enough to wait for it."""
    assert states(of=job("a", since_hours=29)) == {"a": Protection.NEW}
    assert states(of=job("a", since_hours=31)) == {"a": Protection.MISSING}


def test_a_vm_that_no_session_has_tried_is_found_on_the_cluster() -> None:
    """It came after the last session that chose its VMs, and is late when that was too long ago."""
    found = [VmTarget("id-a", "a"), VmTarget("id-new", "new")]
    assert states(point("a", 2), of=job("a"), in_scope=found) == {
        "a": Protection.GOOD,
        "new": Protection.NEW,
    }
    silent = job("a").model_copy(update={"chosen_at": NOW - 31 * HOUR})
    assert states(point("a", 31), of=silent, in_scope=found) == {
        "a": Protection.LATE,
        "new": Protection.MISSING,
    }


def test_who_left_the_job_is_shown_and_waited_for_no_more() -> None:
    """A VM outside the scope, and every VM of a retired job."""
    points = [point("a", 2), point("gone", 500)]
    assert states(*points, of=job("a"))["gone"] == Protection.LEFT
    retired = job("a", retired_at=NOW)
    assert set(states(point("a", 500), of=retired).values()) == {Protection.LEFT}


def test_a_job_that_never_ran_is_missing_too() -> None:
    """`ahvault serve` told the repository of it; nothing has come since."""
    assert set(states(of=job(since_hours=31)).values()) == {Protection.MISSING}
    assert set(states(of=job(since_hours=3)).values()) == {Protection.NEW}
    assert states(of=job(since_hours=31, retired_at=NOW)) == {}


def test_without_an_rpo_nobody_is_judged_unless_one_is_given() -> None:
    """Also for points of a job of which the repository remembers nothing."""
    assert states(point("a", 999), of=job("a", rpo_hours=None)) == {"a": Protection.UNJUDGED}
    assert states(point("a", 999), of=None) == {"a": Protection.UNJUDGED}
    assert states(point("a", 999), of=None, rpo_hours=24) == {"a": Protection.LATE}


def test_the_late_ones_are_named_with_age_and_rpo_longest_first() -> None:
    """What an alert says, in one sentence."""
    report = judge(
        jobs={"nightly": job("a", "b", "c")},
        points=[point("a", 31), point("b", 200)],
        damaged=set(),
        now=NOW,
        in_scope={},
        rpo_hours=None,
    )
    assert describe_breaches(report) == (
        "3 VMs are late: b (nightly: 8 d 8 h old, RPO 30 h), "
        "c (nightly: no good restore point, RPO 30 h), a (nightly: 31 h old, RPO 30 h)."
    )


@pytest.mark.parametrize(
    ("schedule", "hours"),
    [
        ("0 1 * * *", 30.0),
        ("*/15 * * * *", 0.31),
        ("0 */4 * * *", 5.0),
        ("0 1 * * 1-5", 78.0),
        ("0 1 * * 0", 174.0),
        ("0 0 29 2 *", None),
    ],
)
def test_the_rpo_follows_from_the_longest_gap_of_the_schedule(
    schedule: str, hours: float | None
) -> None:
    """Work days wait over the week-end; a quarter more, at most six hours, is for the run itself."""
    assert default_rpo_hours(schedule, "UTC") == hours


def test_daylight_saving_makes_one_gap_an_hour_longer() -> None:
    """Nobody is late on the one night a year that has 25 hours."""
    assert default_rpo_hours("0 1 * * *", "Europe/Berlin") == 31.0


class Clock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.moment = NOW

    def now(self) -> datetime:
        return self.moment

    def monotonic_s(self) -> float:
        return self.moment.timestamp()


def test_a_job_is_remembered_with_its_vms_and_when_each_came(tmp_path: Path) -> None:
    """A VM keeps its first date, one that left goes, and an unfinished choice leaves the list as it was."""
    clock = Clock()
    with Repository.create(str(tmp_path / "store")) as repository:
        live = repository.live
        nightly = BackupJob(name="nightly", scope=Scope(), rpo_hours=30)
        a, b, c = (VmTarget(f"id-{name}", name) for name in "abc")
        remember_job(live, nightly, vms=[a, b], clock=clock)
        clock.moment += HOUR
        remember_job(live, nightly, vms=[b, c], clock=clock)
        remember_job(live, nightly, vms=None, clock=clock)
        known = known_jobs(live)["nightly"]
        assert known.rpo_hours == 30
        assert {vm_id: vm.since for vm_id, vm in known.vms.items()} == {
            "id-b": NOW,
            "id-c": NOW + HOUR,
        }
        assert retire_job(live, "nightly", clock=clock)
        assert known_jobs(live)["nightly"].retired_at == clock.moment
        remember_job(live, nightly, vms=[b], clock=clock)
        assert known_jobs(live)["nightly"].retired_at is None
        assert not retire_job(live, "nobody", clock=clock)


def test_a_session_by_hand_over_a_few_vms_hides_none_of_the_others(tmp_path: Path) -> None:
    """Their record and RPO stay; a scope that was really cut is believed the second time in a row."""
    a, b = (VmTarget(f"id-{name}", name) for name in "ab")
    whole, few = BackupJob(name="n", rpo_hours=30), BackupJob(name="n", scope=Scope(vms=("a",)))
    with Repository.create(str(tmp_path / "store")) as repository:
        live = repository.live
        remember_job(live, whole, vms=[a, b], clock=Clock())
        remember_job(live, few, vms=[a], clock=Clock())
        assert set(known_jobs(live)["n"].vms) == {"id-a", "id-b"}
        assert known_jobs(live)["n"].rpo_hours == 30
        remember_job(live, whole, vms=[a, b], clock=Clock())
        remember_job(live, few, vms=[a], clock=Clock())
        assert set(known_jobs(live)["n"].vms) == {"id-a", "id-b"}
        remember_job(live, few, vms=[a], clock=Clock())
        assert set(known_jobs(live)["n"].vms) == {"id-a"}


def test_a_record_that_cannot_be_read_hides_no_other_job(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A newer field is no trouble, a record without sense is told and left out."""
    with Repository.create(str(tmp_path / "store")) as repository:
        remember_job(repository.live, BackupJob(name="good"), vms=[], clock=Clock())
        record = dict(repository.live.get("jobs", "good") or {})
        definition = {**record["definition"], "name": "newer", "of_next_year": 1}
        repository.live.put("jobs", "newer", {**record, "name": "newer", "definition": definition})
        repository.live.put("jobs", "bad", {"name": "bad"})
        assert set(known_jobs(repository.live)) == {"good", "newer"}
    assert "cannot be read" in caplog.text
