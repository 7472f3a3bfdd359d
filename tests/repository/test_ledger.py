"""Verification within a budget gets round, remembers what it read, and stays red until mended."""

from __future__ import annotations

import datetime as dt
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repository import (
    FindingKind,
    InvalidInput,
    Repository,
    RetentionPolicy,
    Stopped,
    StoreDenied,
    StoreFull,
    SystemClock,
    VerifyBudget,
    VerifyLevel,
    plan_retention,
)
from repository.ledger import OBJECTS_MAX

CHUNK = 64 * 1024
MakeDisk = Callable[..., Any]
SMALL = VerifyBudget(max_bytes=1)
UNLIMITED = VerifyBudget()


class LateClock(SystemClock):
    """A clock that can be put forward."""

    def __init__(self) -> None:
        self.ahead = dt.timedelta()

    def now(self) -> dt.datetime:
        return super().now() + self.ahead


def files(bench: Any, prefix: str) -> list[Path]:
    return sorted(path for path in Path(bench.url, prefix).rglob("*") if path.is_file())


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.fixture
def filled(any_bench: Any, make_disk: MakeDisk) -> Any:
    """A repository with a disk of noise in five packs and its restore point, and a late clock."""
    disk = make_disk(random.Random(3).randbytes(18 * CHUNK))
    point = any_bench.commit(any_bench.write(disk))
    known = any_bench.repository
    clock = LateClock()
    any_bench.repository = Repository(known._store, known._description, known._master_key, clock)
    return any_bench, point, clock


def packs_of(bench: Any) -> list[str]:
    return [info.key for info in bench.repository._store.list("data/")]


def spoil(bench: Any, key: str) -> bytes:
    """Damage a stored object; returns what it was."""
    store = bench.repository._store
    good = bytes(store.get(key))
    bad = bytearray(good)
    bad[len(bad) // 2] ^= 1
    store.put(key, bytes(bad))
    return good


def test_a_small_budget_gets_round(filled: Any) -> None:
    """One pack per run, never one twice, until all are covered; then nothing until they are due."""
    bench, _, clock = filled
    count = len(packs_of(bench))
    for done in range(1, count + 1):
        report = bench.repository.verify_within(SMALL)
        assert report.is_clean
        assert (report.packs_checked, report.coverage.covered_pack_count) == (1, done)
    assert report.coverage.covered_share == 1.0
    assert bench.repository.verify_within(SMALL).packs_checked == 0
    clock.ahead = dt.timedelta(days=31)
    report = bench.repository.verify_within(SMALL)
    assert (report.packs_checked, report.coverage.covered_pack_count) == (1, 1)
    assert report.coverage.oldest_age_s > 30 * 86400


def test_the_budget_holds_in_bytes(filled: Any) -> None:
    """No more stored bytes are read than allowed, and as many packs as fit into them."""
    bench, _, _ = filled
    sizes = [info.size_bytes for info in bench.repository._store.list("data/")]
    budget = VerifyBudget(max_bytes=2 * max(sizes))
    report = bench.repository.verify_within(budget)
    assert 0 < report.bytes_checked <= 2 * max(sizes)
    assert report.packs_checked >= 2


def test_the_budget_holds_in_time(faulty: Any, make_disk: MakeDisk) -> None:
    """Once the time is over no pack is begun; one is read however short the time."""
    bench, _ = faulty
    bench.commit(bench.write(make_disk(random.Random(3).randbytes(18 * CHUNK))))
    report = bench.repository.verify_within(VerifyBudget(max_duration_s=0))
    assert report.packs_checked == 1
    assert report.is_clean
    assert report.coverage.covered_pack_count == 1


def test_a_second_check_never_reports_success(filled: Any) -> None:
    """Damage found once is in every later report, however shallow, until it is seen mended (H6)."""
    bench, point, _ = filled
    key = packs_of(bench)[2]
    good = spoil(bench, key)
    found = bench.repository.verify_within(UNLIMITED)
    assert [finding.key for finding in found.findings] == [key]
    assert {part.point_id for part in found.findings[0].concerned} == {point.id}
    for level in (VerifyLevel.RECORDS, VerifyLevel.PRESENCE):
        report = bench.reopened().verify(level)
        assert not report.is_clean
        assert [each.finding.key for each in report.still_open] == [key]
        assert report.still_open[0].finding.concerned == found.findings[0].concerned
    nothing = bench.repository.verify(points=[])
    assert not nothing.is_clean
    bench.repository._store.put(key, good)
    report = bench.repository.verify_within(UNLIMITED)
    assert report.is_clean
    assert [each.finding.key for each in report.mended] == [key]
    assert bench.repository.open_findings() == []


def test_a_bad_pack_is_due_until_it_is_sound(filled: Any) -> None:
    """It is read again in each run that has room for it, and keeps none of the others waiting."""
    bench, _, _ = filled
    keys = packs_of(bench)
    spoil(bench, keys[0])
    for _ in keys:
        bench.repository.verify_within(SMALL)
    coverage = bench.repository.verify_coverage()
    assert coverage.covered_pack_count == len(keys) - 1
    assert (coverage.open_finding_count, coverage.damaged_point_count) == (1, 1)
    again = bench.repository.verify_within(SMALL)
    assert [finding.key for finding in again.findings] == [keys[0]]


def test_repair_and_healing_end_a_finding(filled: Any, make_disk: MakeDisk) -> None:
    """A quarantined pack stays a finding while something in it is lost, and ends with healing."""
    bench, point, _ = filled
    key = packs_of(bench)[1]
    spoil(bench, key)
    bench.repository.repair()
    assert not bench.repository.verify_within(UNLIMITED).is_clean
    disk = make_disk(random.Random(3).randbytes(18 * CHUNK))
    bench.commit(bench.write(disk))
    bench.repository = bench.reopened()
    assert bench.repository.verify(VerifyLevel.PRESENCE).is_clean
    assert bench.repository.open_findings() == []
    assert bench.read(point) == disk.data


def test_retention_counts_no_damaged_point(bench: Any, make_disk: MakeDisk) -> None:
    """Points that an open finding concerns take no place among the minimum that is kept."""
    points = []
    for day in range(1, 6):
        moment = dt.datetime(2026, 1, day, tzinfo=dt.UTC)
        disk = make_disk(random.Random(day).randbytes(2 * CHUNK))
        times = {"session_started_at": moment, "created_at": moment}
        points.append(bench.commit(bench.write(disk), **times))
    policy = RetentionPolicy(keep_days=1, minimum_kept=2, drop_percent_max=100)
    now = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)

    def dropped() -> set[str]:
        plan = plan_retention(bench.repository.retention_facts(), policy, now=now)
        return {point.point_id for point in plan.drops()}

    assert dropped() == {point.id for point in points[:3]}
    for point in points[3:]:
        place = bench.repository.open_disk(point, "disk-1")._window(0)[0]
        name = place["pack"].tobytes().hex()
        flip(Path(bench.url, "data", name[:2], name), 1000)
    assert not bench.repository.verify().is_clean
    assert dropped() == {points[0].id}


def test_the_ledger_may_be_lost(filled: Any) -> None:
    """Without ledger and findings everything is due again, and the same damage is found."""
    bench, _, _ = filled
    spoil(bench, packs_of(bench)[3])
    bench.repository.verify()
    store = bench.repository._store
    for prefix in ("ledger/", "live/"):
        for info in list(store.list(prefix)):
            store.delete(info.key)
    assert bench.repository.verify_coverage().covered_pack_count == 0
    report = bench.repository.verify_within(UNLIMITED)
    assert report.packs_checked == len(packs_of(bench))
    assert len(report.findings) == 1


def test_a_damaged_ledger_is_found_and_written_anew(filled: Any) -> None:
    """It is reported once, costs reading again, and is gone after."""
    bench, _, _ = filled
    bench.repository.verify()
    (key,) = [info.key for info in bench.repository._store.list("ledger/")]
    spoil(bench, key)
    report = bench.repository.verify()
    assert [finding.key for finding in report.findings] == [key]
    report = bench.repository.verify()
    assert report.is_clean
    assert bench.repository.verify_coverage().covered_share == 1.0


def test_a_damaged_open_finding_stays_red_until_all_is_read(filled: Any) -> None:
    """What it said is unknown, so only a verification of everything ends it."""
    bench, _, _ = filled
    key = packs_of(bench)[0]
    good = spoil(bench, key)
    bench.repository.verify()
    bench.repository._store.put(key, good)
    (record,) = [info.key for info in bench.repository._store.list("live/findings/")]
    spoil(bench, record)
    assert not bench.repository.verify_within(SMALL).is_clean
    assert not bench.repository.verify_within(SMALL).is_clean
    bench.repository.verify()
    assert bench.repository.verify().is_clean


def test_many_ledger_objects_become_one(filled: Any) -> None:
    """Their number stays bounded, and rows of packs that are gone go."""
    bench, _, clock = filled
    for _ in range(2 * OBJECTS_MAX):
        clock.ahead += dt.timedelta(days=31)
        assert bench.repository.verify_within(SMALL).packs_checked == 1
        objects = list(bench.repository._store.list("ledger/"))
        assert len(objects) <= OBJECTS_MAX
    assert bench.repository.verify_coverage().pack_count == len(packs_of(bench))


def test_what_was_read_before_a_stop_is_not_read_again(filled: Any) -> None:
    """A run that is stopped in its middle keeps what it has read, and what it has found."""
    bench, _, _ = filled
    keys = packs_of(bench)
    spoil(bench, keys[0])
    stop = threading.Event()
    with pytest.raises(Stopped):
        bench.repository.verify_within(
            UNLIMITED,
            stop=stop,
            on_progress=lambda at: stop.set() if at.objects_done == 2 else None,
        )
    assert [each.finding.key for each in bench.repository.open_findings()] == [keys[0]]
    rest = bench.repository.verify_within(UNLIMITED)
    assert rest.packs_checked < len(keys)  # although the bad one is due again
    assert rest.coverage.covered_pack_count == len(keys) - 1


@pytest.mark.parametrize("error", [StoreDenied, StoreFull])
def test_a_store_that_takes_no_writes_is_verified_all_the_same(
    faulty: Any, make_disk: MakeDisk, error: type[StoreDenied]
) -> None:
    """Damage is reported, nothing is remembered, and the run does not fail."""
    bench, store = faulty
    bench.commit(bench.write(make_disk(random.Random(3).randbytes(5 * CHUNK))))
    flip(files(bench, "data")[0], 999)

    def refuse(operation: str, key: str) -> None:
        if operation in ("put", "put_new", "delete"):
            raise error(operation, key, "read only")

    store.plan = refuse
    assert len(bench.repository.verify().findings) == 1
    assert len(bench.repository.verify_within(UNLIMITED).findings) == 1
    assert files(bench, "ledger") == []


def test_a_verification_can_be_asked_to_write_nothing(filled: Any) -> None:
    """It finds the same, tells of what was found earlier, and leaves no trace."""
    bench, _, _ = filled
    spoil(bench, packs_of(bench)[0])
    before = [info.key for info in bench.repository._store.list("")]
    assert len(bench.repository.verify(remembers=False).findings) == 1
    assert [info.key for info in bench.repository._store.list("")] == before
    bench.repository.verify()
    assert len(bench.repository.verify(VerifyLevel.RECORDS, remembers=False).still_open) == 1


def test_a_shallow_check_covers_no_content(filled: Any) -> None:
    """Stored bytes that were checked count for their level, not for the one below."""
    bench, _, _ = filled
    bench.repository.verify(VerifyLevel.STORED)
    stored = bench.repository.verify_coverage(VerifyBudget(VerifyLevel.STORED))
    assert (stored.covered_share, bench.repository.verify_coverage().covered_share) == (1.0, 0.0)
    bench.repository.verify(VerifyLevel.CONTENT)
    assert bench.repository.verify_coverage().covered_share == 1.0


def test_a_clock_that_was_wrong_postpones_nothing(filled: Any) -> None:
    """Proofs dated in the future count as none."""
    bench, _, clock = filled
    clock.ahead = dt.timedelta(days=3650)
    bench.repository.verify()
    clock.ahead = dt.timedelta()
    assert bench.repository.verify_coverage().covered_share == 0.0
    assert bench.repository.verify_within(UNLIMITED).packs_checked == len(packs_of(bench))


def test_a_pack_that_is_missing_stays_red_until_it_is_back(filled: Any) -> None:
    """Found by listing alone, and ended by listing alone."""
    bench, _, _ = filled
    store = bench.repository._store
    key = packs_of(bench)[0]
    good = bytes(store.get(key))
    store.delete(key)
    report = bench.repository.verify(VerifyLevel.PRESENCE)
    assert [finding.kind for finding in report.findings] == [FindingKind.MISSING]
    assert not bench.repository.verify(VerifyLevel.RECORDS).is_clean
    store.put_new(key, good)
    assert bench.repository.verify(VerifyLevel.PRESENCE).is_clean


@pytest.mark.parametrize(
    "wrong",
    [
        {"level": VerifyLevel.PRESENCE},
        {"every_days": 0},
        {"max_bytes": -1},
        {"max_duration_s": -1.0},
    ],
)
def test_a_budget_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    """InvalidInput before anything is read."""
    with pytest.raises(InvalidInput):
        VerifyBudget(**wrong)
