"""Crash enumeration: the process dies before or after every single store operation.

Each scenario is run once to count its operations, then once per operation and side. After each
death a new process verifies everything, restores every committed point that is not forgotten bit by
bit, and does the work again.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from repository import CollectSettings, CollectStage, Extent, Repository, SystemClock
from tests.repository.fault_store import Died, FaultStore

CHUNK = 64 * 1024
AT_ONCE = CollectSettings(undelete_hours=0, grace_hours=0)
OPERATIONS_MAX = 400


@dataclass
class Stage:
    """A repository that a process of ours works on until it dies, and what it should hold."""

    bench: Any
    store: FaultStore
    make_disk: Callable[..., Any]
    make_draft: Callable[..., Any]
    expected: dict[str, bytes] = field(default_factory=dict)
    """What every point committed and not forgotten must restore to."""
    tried: list[bytes] = field(default_factory=list)
    """What was about to be committed: a process may die between the commit and its answer."""

    def commit(self, data: bytes, base: Any = None, extents: Any = None) -> Any:
        with self.bench.repository.write_session("session") as session:
            disk = self.make_disk(data)
            record = self.bench.write(disk, extents, base, session=session)
            self.tried.append(bytes(data))
            point = session.commit(self.make_draft(record))
        self.expected[point.id] = bytes(data)
        return point


def full(stage: Stage) -> None:
    """A full backup beside an older point."""
    stage.commit(noise(6, 11))


def incremental(stage: Stage) -> None:
    """An incremental over the newest point."""
    base = stage.bench.repository.points().newest()
    data = bytearray(stage.expected[base.id])
    data[CHUNK : CHUNK + 4] = b"new!"
    stage.commit(bytes(data), base.disks[0], [Extent(CHUNK, CHUNK + 4)])


def forget(stage: Stage) -> None:
    """The oldest point is forgotten, brought back, held, released and forgotten again."""
    point = stage.bench.repository.points().points[0]
    stage.expected.pop(point.id, None)
    stage.bench.repository.release(point)
    stage.bench.repository.forget(point)
    stage.bench.repository.undelete(point)
    stage.bench.repository.hold(point, "why not")
    stage.bench.repository.release(point)
    stage.bench.repository.forget(point)


def collect(stage: Stage) -> None:
    """Plan with rewriting, sweep, delete; and then the next generation."""
    for _ in range(4):
        if stage.bench.repository.collect(AT_ONCE).stage is CollectStage.NOTHING:
            break


def noise(chunks: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(chunks * CHUNK)


def prepared(stage: Stage, scenario: Callable[[Stage], None]) -> None:
    """Three points: one alone, one base and one over it; for collection the base is forgotten."""
    stage.commit(noise(5, 1))
    base = stage.commit(noise(8, 2))
    data = bytearray(noise(8, 2))
    for chunk in (0, 2, 3, 5, 6, 7):
        data[chunk * CHUNK] ^= 1
    stage.commit(bytes(data), base.disks[0])
    if scenario is collect:
        stage.bench.write(stage.make_disk(noise(3, 5)), disk_id="never-committed")
        stage.bench.repository.forget(base)
        del stage.expected[base.id]


Enumerate = Callable[..., None]
SIDES = pytest.mark.parametrize("after", [False, True], ids=["before", "after"])


@SIDES
@pytest.mark.parametrize("scenario", [full, incremental, forget])
def test_every_crash_point(
    enumerate_crashes: Enumerate, scenario: Callable[[Stage], None], after: bool
) -> None:
    """Before and after every operation of a backup and of forgetting."""
    enumerate_crashes(scenario, after=after)


@SIDES
@pytest.mark.usefixtures("merges_often")
def test_some_crash_points_of_collection(enumerate_crashes: Enumerate, after: bool) -> None:
    """Every seventh operation of two generations with rewriting; the long run takes every one."""
    enumerate_crashes(collect, after=after, step=7)


@SIDES
@pytest.mark.long
@pytest.mark.usefixtures("merges_often")
def test_every_crash_point_of_collection(enumerate_crashes: Enumerate, after: bool) -> None:
    """Before and after every operation of two generations with rewriting."""
    enumerate_crashes(collect, after=after)


@pytest.fixture
def enumerate_crashes(
    bench: Any,
    make_disk: Callable[..., Any],
    make_draft: Callable[..., Any],
    count: Callable[[str, int], None],
) -> Enumerate:
    """Runs a scenario over and over, dying one operation later each time."""

    def run(scenario: Callable[[Stage], None], *, after: bool, step: int = 1) -> None:
        stage = Stage(bench, FaultStore(bench.repository._store), make_disk, make_draft)
        count(f"crash points of {scenario.__name__}", _run_all(stage, scenario, after, step))

    return run


def _run_all(stage: Stage, scenario: Callable[[Stage], None], after: bool, step: int) -> int:
    """Whatever operation the process dies at, nothing committed is lost and the next one goes on."""
    bench = stage.bench
    url, kept = Path(bench.url), Path(f"{bench.url}-kept")
    prepared(stage, scenario)
    shutil.copytree(url, kept)
    known, expected = bench.repository, dict(stage.expected)
    for operation in range(1, OPERATIONS_MAX, step):
        shutil.rmtree(url)
        shutil.copytree(kept, url)
        stage.store = FaultStore(known._store)
        stage.expected, stage.tried = dict(expected), list(expected.values())
        bench.repository = Repository(
            stage.store, known._description, known._master_key, SystemClock()
        )
        stage.store.die_at(operation, after=after)
        try:
            scenario(stage)
        except Died:
            crashed(stage, operation)
            scenario(survivor(stage))
            crashed(stage, operation)
        else:
            assert operation > 10
            return operation // step
    pytest.fail("it never came to an end")


def survivor(stage: Stage) -> Stage:
    """A new process on the same store, once leases of the dead one are gone."""
    stage.bench.repository = stage.bench.reopened()
    for key in stage.bench.repository.live.list("leases").records:
        stage.bench.repository.live.delete("leases", key)
    return stage


def crashed(stage: Stage, operation: int) -> None:
    """Look at what is there with a new process."""
    fresh = stage.bench.reopened()
    report = fresh.verify()
    assert report.is_clean, (operation, report.findings)
    listing = fresh.points()
    assert not listing.damaged
    points = {point.id: point for point in listing.points}
    assert stage.expected.keys() <= points.keys(), operation
    stage.bench.repository = fresh
    for point in listing.points:
        data = stage.bench.read(point)
        known = stage.expected.setdefault(point.id, data)
        assert data == known, operation
        assert data in stage.tried, operation
