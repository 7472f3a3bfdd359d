"""A state machine against a plain model: backups, forgetting and collection, at once, with deaths.

The model is a dictionary: restore point to bytes. After every step, each restore point that was
committed and not forgotten is there and restores bit by bit, whatever ran beside it and died.
"""

from __future__ import annotations

import datetime as dt
import random
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from repository import (
    CollectSettings,
    CollectStage,
    CommitFailed,
    DiskSpec,
    Extent,
    InvalidInput,
    ObjectNotFound,
    PointCollected,
    PointDraft,
    PointInUse,
    PointNotFound,
    Repository,
    RepositoryOptions,
    RestorePoint,
    StoreUnavailable,
    SystemClock,
)
from tests.repository.conftest import MemoryDisk
from tests.repository.fault_store import FaultStore
from tests.repository.taking_turns import TakingTurns, TurnStore

CHUNK = 64 * 1024
VMS = ("vm-1", "vm-2")
SETTINGS = CollectSettings(undelete_hours=0, grace_hours=24)
COUNTS = {"races": 0, "steps": 0, "sweeps": 0, "repairs": 0, "deaths": 0, "withdrawn": 0}

seeds = st.integers(min_value=0, max_value=2**32)

pytestmark = pytest.mark.usefixtures("merges_often")


class LateClock(SystemClock):
    """A clock that jumps when told; the monotonic one does not, as in a suspended machine."""

    def __init__(self) -> None:
        self.ahead = dt.timedelta()

    def now(self) -> dt.datetime:
        return super().now() + self.ahead


class LifeOfPoints(RuleBasedStateMachine):
    """Hosts working on one repository, and what it must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = LateClock()
        options = RepositoryOptions(chunk_size_bytes=CHUNK, pack_target_bytes=3 * CHUNK)
        self.repository = Repository.create(
            f"memory://{uuid.uuid4().hex}", options=options, clock=self.clock
        )
        self.must: dict[str, bytes] = {}
        """Committed, and certainly not forgotten."""
        self.may: dict[str, bytes] = {}
        """What a death or a race left undecided: if it is listed, it must be whole."""
        self.tried: dict[dt.datetime, bytes] = {}
        self.minutes = 0

    def teardown(self) -> None:
        """In the end everything collectable goes, and still nothing needed is lost."""
        for _ in range(12):
            self.clock.ahead += dt.timedelta(hours=25)
            if self.repository.collect(SETTINGS).stage is CollectStage.NOTHING:
                break
        else:
            pytest.fail("collection never came to an end")
        self.check()
        packs = sum(info.size_bytes for info in self.repository._store.list("data/"))
        points = self.repository.points().points
        distinct = {
            bytes(chunk)
            for point in points
            for chunk in chunks_of(self.must.get(point.id) or self.may[point.id])
        }
        assert packs <= 2 * CHUNK * len(distinct) + 2000
        self.repository.close()

    @rule(seed=seeds, vm=st.sampled_from(VMS))
    def backup(self, seed: int, vm: str) -> None:
        """A full or incremental backup, alone."""
        self.do(self.repository, "backup", random.Random(seed), vm)

    @rule(seed=seeds)
    def forget(self, seed: int) -> None:
        """A restore point is forgotten."""
        self.do(self.repository, "forget", random.Random(seed), "")

    @rule()
    def collect(self) -> None:
        """Collection goes on by one step."""
        self.do(self.repository, "collect", random.Random(0), "")

    @rule(hours=st.sampled_from([1, 25, 50]))
    def time_passes(self, hours: int) -> None:
        """Rests and leases run out."""
        self.clock.ahead += dt.timedelta(hours=hours)

    @rule(seed=seeds, deaths=st.booleans())
    @precondition(lambda self: self.minutes > 0)
    def race(self, seed: int, deaths: bool) -> None:
        """Two writers, an operator and a collector at once; some of them die."""
        chooser, turns = random.Random(seed), TakingTurns(seed)
        COUNTS["races"] += 1
        work: dict[str, Callable[[], None]] = {}
        plans = {
            "writer 1": ["backup"] * chooser.randrange(1, 3),
            "writer 2": ["backup"] * chooser.randrange(1, 3),
            "operator": [
                chooser.choice(["forget", "undelete", "sleep", "repair"]) for _ in range(4)
            ],
            "collector": ["collect", "sleep"] * chooser.randrange(1, 4),
        }
        for number, (host, steps) in enumerate(plans.items()):
            store = TurnStore(self.repository._store, host, turns)
            if deaths and chooser.random() < 0.4:
                store.die_at(chooser.randrange(1, 80), after=chooser.random() < 0.5)
            vm = VMS[number % 2]
            work[host] = self.host(store, steps, random.Random(seed + number), vm)
        turns.run(work)
        self.check()

    def host(
        self, store: FaultStore, steps: list[str], chooser: random.Random, vm: str
    ) -> Callable[[], None]:
        """What one host does until it is done or dead."""
        known = self.repository
        own = Repository(store, known._description, known._master_key, self.clock)

        def work() -> None:
            for step in steps:
                try:
                    self.do(own, step, chooser, vm)
                except StoreUnavailable:
                    COUNTS["deaths"] += 1
                    return

        return work

    def do(self, host: Repository, step: str, chooser: random.Random, vm: str) -> None:
        """One step of one host."""
        COUNTS["steps"] += 1
        if step == "backup":
            self.do_backup(host, chooser, vm)
        elif step == "forget":
            self.do_forget(host, chooser)
        elif step == "undelete":
            self.do_undelete(host, chooser)
        elif step == "repair":
            self.do_repair(host)
        elif step == "sleep":
            self.clock.ahead += dt.timedelta(hours=chooser.choice([0, 25]))
        elif host.collect(SETTINGS).stage is CollectStage.SWEPT:
            COUNTS["sweeps"] += 1

    def do_backup(self, host: Repository, chooser: random.Random, vm: str) -> None:
        base = host.points(vm).newest() if chooser.random() < 0.7 else None
        data, extents = self.changed(base, chooser)
        self.minutes += 1
        moment = dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(minutes=self.minutes)
        self.tried[moment] = bytes(data)
        spec = DiskSpec(disk_id=f"disk-{vm}", size_bytes=len(data))
        with host.write_session(uuid.uuid4().hex) as session:
            source = MemoryDisk(data)
            try:
                record = session.write_disk(
                    spec, source, extents, base.disks[0] if base else None, read_method="test"
                )
            except ObjectNotFound:
                assert base is not None  # it was forgotten and swept while this host slept
                return
            draft = PointDraft(
                vm_id=vm,
                vm_name=vm,
                job="j",
                session_id="s",
                session_started_at=moment,
                created_at=moment,
                consistency="crash",
                disks=(record,),
                previous_point_id=base.id if base else None,
            )
            try:
                point = session.commit(draft)
            except CommitFailed:
                COUNTS["withdrawn"] += 1
                for each in host.forgotten(vm):  # the operator may have had it in hand meanwhile
                    if each.point.created_at == moment:
                        self.must.pop(each.point.id, None)
                return
        if point.id not in self.may:  # else forgotten before this host heard of its commit
            self.must[point.id] = bytes(data)

    def changed(
        self, base: RestorePoint | None, chooser: random.Random
    ) -> tuple[bytearray, list[Extent]]:
        """New bytes and the extents that claim the change; few different chunks, so many shared."""
        if base is None:
            data = bytearray(b"".join(a_chunk(chooser.randrange(12)) for _ in range(6)))
            return data, [Extent(0, len(data))]
        data, extents = bytearray(self.tried[base.created_at]), []
        for number in sorted(chooser.sample(range(6), chooser.randrange(1, 4))):
            data[number * CHUNK : (number + 1) * CHUNK] = a_chunk(chooser.randrange(12))
            extents.append(Extent(number * CHUNK, (number + 1) * CHUNK))
        return data, extents

    def do_forget(self, host: Repository, chooser: random.Random) -> None:
        points = host.points().points
        if not points:
            return
        point = chooser.choice(points)
        data = self.tried[point.created_at]
        self.must.pop(point.id, None)
        self.may[point.id] = data
        try:
            host.forget(point)
        except PointInUse:
            self.must[point.id] = data

    def do_undelete(self, host: Repository, chooser: random.Random) -> None:
        try:
            forgotten = host.forgotten()
            if not forgotten:
                return
            chosen = chooser.choice(forgotten)
            if chosen.reason == "its commit failed":
                return
            point = chosen.point
            host.undelete(point)
        except (PointCollected, PointNotFound):
            return
        self.must[point.id] = self.tried[point.created_at]

    def do_repair(self, host: Repository) -> None:
        """Nothing is damaged, so whatever runs beside it, nothing that is there is taken for bad."""
        try:
            report = host.repair()
        except InvalidInput:
            return  # collection was deleting
        COUNTS["repairs"] += 1
        # A sleeper may have committed what a sweep has taken, and not have withdrawn it yet.
        there = [key for key in report.packs_quarantined if host._store.stat(key)]
        assert there == [], report.findings
        assert report.segments_quarantined == (), report.findings

    def check(self) -> None:
        """What must be there is there, and what is there is whole."""
        fresh = Repository(
            self.repository._store,
            self.repository._description,
            self.repository._master_key,
            self.clock,
        )
        with fresh:
            listing = fresh.points()
            assert not listing.damaged
            points = {point.id: point for point in listing.points}
            assert self.must.keys() <= points.keys()
            for point in listing.points:
                target = MemoryDisk(6 * CHUNK)
                fresh.open_disk(point, point.disks[0].disk_id).restore_to(
                    target, target_is_blank=True
                )
                assert target.data == self.tried[point.created_at]
                self.may.setdefault(point.id, self.tried[point.created_at])


def a_chunk(number: int) -> bytes:
    """One of few chunks; number 0 is zeros."""
    return random.Random(number).randbytes(CHUNK) if number else bytes(CHUNK)


def chunks_of(data: bytes) -> list[bytes]:
    return [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]


def run(examples: int, steps: int, count: Callable[[str, int], Any]) -> None:
    before = dict(COUNTS)
    run_state_machine_as_test(
        LifeOfPoints,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=examples < 50,
            suppress_health_check=list(HealthCheck),
        ),
    )
    for name, total in COUNTS.items():
        count(f"state machine: {name}", total - before[name])


def test_life_of_points(count: Callable[[str, int], Any]) -> None:
    """A short walk through what can happen to restore points at once."""
    run(25, 15, count)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_long_life_of_points(count: Callable[[str, int], Any]) -> None:
    """A long one."""
    run(200, 40, count)
