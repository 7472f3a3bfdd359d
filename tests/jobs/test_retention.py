"""Retention carried out against a real repository: by session and by day, never forced, always told."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs import (
    BackupJob,
    VmTarget,
    apply_known_retention,
    apply_retention,
    remember_job,
    session_attempts,
)
from repository import PointDraft, Repository, RetentionPolicy, StoreUnavailable

NOW = datetime(2026, 11, 27, 3, tzinfo=UTC)
DAY = timedelta(days=1)
LAST_ONLY = RetentionPolicy(keep_days=None, keep_last=1, minimum_kept=1, drop_percent_max=100)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with Repository.create(str(tmp_path / "store")) as created:
        yield created


def commit(repository: Repository, vm: str, *ages_days: int, job: str = "nightly") -> list[str]:
    """Restore points of these ages, without disks; returns their ids, in the order given."""
    ids = []
    with repository.write_session("s") as session:
        for age_days in ages_days:
            moment = NOW - age_days * DAY
            draft = PointDraft(
                vm_id=f"id-{vm}",
                vm_name=vm,
                job=job,
                session_id="s",
                session_started_at=moment,
                created_at=moment,
                consistency="crash",
                disks=(),
            )
            ids.append(session.commit(draft).id)
    return ids


def left(repository: Repository) -> set[str]:
    return {point.id for point in repository.points().points}


def test_what_goes_is_forgotten_and_told_with_its_reason(repository: Repository) -> None:
    """Other jobs' points are not looked at; running it again finds nothing more to do."""
    old, new = commit(repository, "web01", 9, 0)
    other = commit(repository, "web01", 99, 98, job="other")
    result = apply_retention(repository, "nightly", LAST_ONLY, now=NOW)
    assert left(repository) == {new, *other}
    assert (result.judged, [each.point_id for each in result.forgotten]) == (2, [old])
    assert str(result.forgotten[0]) == "web01 of 2026-11-18T03:00:00Z: not one of the newest 1"
    assert result.summary() == "1 of 2 restore points forgotten"
    assert apply_retention(repository, "nightly", LAST_ONLY, now=NOW).forgotten == ()


def test_too_much_of_one_vm_is_held_back_and_the_others_go_on(repository: Repository) -> None:
    """The sanity stop is never forced: a VM whose points would nearly all go keeps them, and it is said (T10)."""
    policy = RetentionPolicy(keep_days=None, keep_last=1, minimum_kept=1, drop_percent_max=50)
    all_of_a = commit(repository, "a", 4, 3, 2, 1)
    _, newest_of_b = commit(repository, "b", 1, 0)
    result = apply_retention(repository, "nightly", policy, now=NOW)
    assert left(repository) == {*all_of_a, newest_of_b}
    assert result.warnings == (
        "retention held back: 3 of the 4 restore points of a (job nightly) would go at once; 2 may",
    )


def test_a_held_point_stays(repository: Repository) -> None:
    """A hold stands against every rule."""
    old, new = commit(repository, "web01", 9, 0)
    repository.hold(repository.point(old), "for the auditor")
    assert apply_retention(repository, "nightly", LAST_ONLY, now=NOW).forgotten == ()
    assert left(repository) == {old, new}


def test_trouble_is_a_line_in_the_result(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that stops answering midway fails no backup; what was forgotten by then is told."""
    commit(repository, "a", 9, 0)
    commit(repository, "b", 9, 0)
    forget, calls = repository.forget, []

    def failing(*arguments: object, **options: object) -> None:
        calls.append(arguments)
        if len(calls) > 1:
            raise StoreUnavailable("list", "holds/", "it went away")
        forget(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(repository, "forget", failing)
    result = apply_retention(repository, "nightly", LAST_ONLY, now=NOW)
    assert len(result.forgotten) == 1
    assert "went away" in result.warnings[-1]


class Clock:
    """Stands still."""

    def now(self) -> datetime:
        return NOW

    def monotonic_s(self) -> float:
        return 0.0


def test_the_daily_run_takes_every_job_with_its_last_known_policy(repository: Repository) -> None:
    """Also of a job that runs no more (D3); a job without a policy is left alone, one without a record too."""
    for job in ("nightly", "keeps-all", "unknown"):
        commit(repository, "web01", 9, 0, job=job)
    vm = [VmTarget("id-web01", "web01")]
    remember_job(
        repository.live, BackupJob(name="nightly", retention=LAST_ONLY), vms=vm, clock=Clock()
    )
    remember_job(repository.live, BackupJob(name="keeps-all"), vms=vm, clock=Clock())
    results = apply_known_retention(repository, now=NOW)
    assert [(each.job, len(each.forgotten)) for each in results] == [("nightly", 1)]
    assert len(left(repository)) == 5


def test_who_departed_is_known_from_the_reports_of_earlier_sessions(
    repository: Repository,
) -> None:
    """D2: a VM that nobody has tried for longer than the policy says departs; one that failed last night does not."""
    policy = RetentionPolicy(keep_days=7, departed_after_days=7, drop_percent_max=100)
    gone = commit(repository, "gone", 30, 29, 28)
    failing = commit(repository, "failing", 30, 29, 28)
    fine = commit(repository, "fine", 0)
    for session, vm, age_days in (("one", "gone", 28), ("two", "failing", 1)):
        tried = {"vm_id": f"id-{vm}", "started_at": (NOW - age_days * DAY).isoformat()}
        repository.save_report(session, {"job": "nightly", "vms": [tried]})
    attempts = session_attempts(repository, "nightly", policy, now=NOW, tried=["id-fine"])
    apply_retention(repository, "nightly", policy, now=NOW, attempts=attempts)
    assert left(repository) == {*failing, *fine}
    assert not left(repository) & set(gone)


def test_nobody_departs_without_a_rule_or_without_a_session(repository: Repository) -> None:
    """The daily run passes no attempts, and a policy without the rule asks for none."""
    policy = RetentionPolicy(keep_days=7, departed_after_days=7, drop_percent_max=100)
    gone = commit(repository, "gone", 30, 29, 28)
    assert session_attempts(repository, "nightly", LAST_ONLY, now=NOW, tried=["x"]) is None
    apply_retention(repository, "nightly", policy, now=NOW)
    assert left(repository) == set(gone)


def test_reports_are_read_only_as_far_back_as_asked(repository: Repository) -> None:
    """A year of nightly reports is not read to show the last few."""
    for number in range(3):
        repository.save_report(f"s{number}", {"number": number})
    newest = repository.reports(newest=1).reports
    assert len(newest) == 1
    assert len(repository.reports().reports) == 3
    assert repository.reports(since=datetime.now(UTC) + timedelta(hours=1)).reports == []
    assert len(repository.reports(since=datetime.now(UTC) - timedelta(hours=1)).reports) == 3
