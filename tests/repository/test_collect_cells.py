"""Operation against operation: every cell of the table at the top of `repository/collect.py`.

One operation is paused inside a store call of its own, the other one is run to its end there, and
then the first goes on. A test is called after its cell: `test_<row>_during_<column>`.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from repository import (
    CollectReport,
    CollectSettings,
    CollectStage,
    CommitFailed,
    Extent,
    InvalidInput,
    PointCollected,
    PointInUse,
    Repository,
    RestorePoint,
    SystemClock,
)
from repository.generations import Generations

CHUNK = 64 * 1024
MakeDisk = Callable[..., Any]
AT_ONCE = CollectSettings(undelete_hours=0, grace_hours=0)
WITH_REST = CollectSettings(undelete_hours=0, grace_hours=48)
FIRST = random.Random(1).randbytes(8 * CHUNK)
SECOND = random.Random(2).randbytes(8 * CHUNK)


class LateClock(SystemClock):
    """A clock that can be put forward."""

    def __init__(self) -> None:
        self.ahead = dt.timedelta()

    def now(self) -> dt.datetime:
        return super().now() + self.ahead


@dataclass
class Scene:
    """One host that is paused inside a store call, and another that acts meanwhile."""

    bench: Any
    store: Any
    clock: LateClock
    other: Repository
    make_disk: MakeDisk
    draft: Callable[..., Any]

    def at(self, operation: str, prefix: str, act: Callable[[], object], *, after: bool) -> None:
        """At the first such operation of the paused host, let the other one act."""
        waiting = [act]

        def hook(seen: str, key: str) -> None:
            if waiting and seen == operation and key.startswith(prefix):
                waiting.pop()()

        setattr(self.store, "after" if after else "plan", hook)

    def commit(self, data: bytes, **more: Any) -> RestorePoint:
        return self.bench.commit(self.bench.write(self.make_disk(data)), **more)

    def collect_later(self, settings: CollectSettings = WITH_REST) -> CollectReport:
        """The other host collects, when the rest is over and all leases have run out."""
        self.clock.ahead += dt.timedelta(hours=49)
        return self.other.collect(settings)

    def is_whole(self, point: RestorePoint, data: bytes) -> bool:
        self.store.plan = self.store.after = lambda _operation, _key: None
        fresh = self.bench.reopened()
        assert fresh.verify().is_clean
        assert point.id in [each.id for each in fresh.points().points]
        self.bench.repository._locator.look_again()
        return bool(self.bench.read(point) == data)


@pytest.fixture
def scene(faulty: Any, make_disk: MakeDisk, make_draft: Callable[..., Any]) -> Scene:
    bench, store = faulty
    clock = LateClock()
    known = bench.repository
    bench.repository = Repository(store, known._description, known._master_key, clock)
    other = Repository.open(bench.url, clock=clock)
    return Scene(bench, store, clock, other, make_disk, make_draft)


def planned(scene: Scene) -> RestorePoint:
    """A forgotten point, condemned by an open plan."""
    old = scene.commit(FIRST)
    scene.other.forget(old)
    assert scene.other.collect(WITH_REST).stage is CollectStage.PLANNED
    return old


def test_backup_during_plan(scene: Scene) -> None:
    """A backup that commits while the plan is made: what it refers to is spared."""
    scene.other.forget(scene.commit(FIRST))
    made = []
    paused = scene.bench.repository
    scene.bench.repository = scene.other
    scene.at("list", "points/", lambda: made.append(scene.commit(FIRST)), after=True)
    paused.collect(WITH_REST)
    scene.bench.repository = paused
    assert scene.collect_later().stage is CollectStage.SWEPT
    assert scene.is_whole(made[0], FIRST)


@pytest.mark.parametrize("place", ["after the disk", "before the commit", "after the commit"])
def test_plan_during_backup(scene: Scene, place: str) -> None:
    """A plan condemns what a running backup has found known: it copies, or cancels the plan."""
    old = scene.commit(FIRST)
    scene.other.forget(old)
    plan = lambda: scene.other.collect(WITH_REST)  # noqa: E731 - said once, used thrice
    with scene.bench.repository.write_session("writer") as session:
        record = scene.bench.write(scene.make_disk(FIRST), session=session)
        if place == "after the disk":
            plan()
        else:
            scene.at("put_new", "points/", plan, after=place == "after the commit")
        point = session.commit(scene.draft(record))
        newest = Generations(scene.other._store, scene.other._records).newest()
        assert newest is not None
        assert newest.is_open is (place == "after the disk" or point.id in newest.plan.points)
    scene.collect_later()
    assert scene.is_whole(point, FIRST)


def test_sweep_waits_for_a_backup_that_began_before_the_plan(scene: Scene) -> None:
    """While the lease of such a session lasts, no outcome is decided; after it, it is."""
    old = scene.commit(FIRST)
    scene.other.forget(old)
    with scene.bench.repository.write_session("writer") as session:
        record = scene.bench.write(scene.make_disk(FIRST), session=session)
        assert scene.other.collect(AT_ONCE).stage is CollectStage.WAITING
        report = scene.other.collect(CollectSettings(undelete_hours=0, grace_hours=24))
        assert "began before the plan" in report.reason
        point = session.commit(scene.draft(record))
    assert scene.collect_later().stage is CollectStage.SWEPT
    assert scene.is_whole(point, FIRST)


def test_backup_that_sleeps_over_plan_and_sweep_fails_its_commit(scene: Scene) -> None:
    """Its lease ran out and what it had found known is gone: CommitFailed, and no broken point."""
    old = scene.commit(FIRST)
    scene.other.forget(old)
    with scene.bench.repository.write_session("sleeper") as session:
        record = scene.bench.write(scene.make_disk(FIRST), session=session)
        scene.other.collect(WITH_REST)
        assert scene.collect_later().stage is CollectStage.SWEPT
        with pytest.raises(CommitFailed):
            session.commit(scene.draft(record))
    assert scene.bench.reopened().points().points == []
    assert scene.is_whole(scene.commit(FIRST), FIRST)


@pytest.mark.parametrize("after", [False, True])
def test_sweep_during_commit(scene: Scene, after: bool) -> None:
    """Plan and sweep both happen around the one write of the commit record, the writer asleep."""
    old = scene.commit(FIRST)
    scene.other.forget(old)

    def plan_and_sweep() -> None:
        scene.clock.ahead += dt.timedelta(hours=49)  # the lease has run out
        scene.other.collect(WITH_REST)
        scene.collect_later()

    with scene.bench.repository.write_session("sleeper") as session:
        record = scene.bench.write(scene.make_disk(FIRST), session=session)
        scene.at("put_new", "points/", plan_and_sweep, after=after)
        if after:  # the plan saw the record
            point = session.commit(scene.draft(record))
            assert scene.is_whole(point, FIRST)
        else:
            with pytest.raises(CommitFailed, match="slept"):
                session.commit(scene.draft(record))
            scene.store.plan = lambda _operation, _key: None
            assert scene.bench.reopened().points().points == []


def test_backup_during_sweep(scene: Scene) -> None:
    """A session that begins after the plan refers to nothing condemned, whenever the sweep comes."""
    planned(scene)
    with scene.bench.repository.write_session("writer") as session:
        record = scene.bench.write(scene.make_disk(FIRST + SECOND), session=session)
        assert record.figures.known_chunks == 0
        assert scene.collect_later().stage is CollectStage.SWEPT
        point = session.commit(scene.draft(record))
    assert scene.is_whole(point, FIRST + SECOND)


def test_a_record_that_travelled_is_checked(scene: Scene) -> None:
    """Written under one session, planned against, committed under another: the commit copies."""
    old = scene.commit(FIRST)
    record = scene.bench.write(scene.make_disk(FIRST))
    scene.other.forget(old)
    scene.other.collect(WITH_REST)
    point = scene.bench.commit(record)
    assert scene.collect_later().stage is CollectStage.SWEPT
    assert scene.is_whole(point, FIRST)


def test_restore_during_sweep(scene: Scene) -> None:
    """A disk opened before its chunks moved restores after the old packs are gone."""
    data = bytearray(FIRST + SECOND)
    old = scene.commit(bytes(data))
    for chunk in range(0, 16, 2):
        data[chunk * CHUNK] ^= 1
    new = scene.bench.commit(scene.bench.write(scene.make_disk(data), base=old.disks[0]))
    scene.other.forget(old)
    reader = scene.bench.repository.open_disk(new, "disk-1")
    reader.read_into(0, memoryview(bytearray(16)))
    assert scene.other.collect(AT_ONCE).rewritten_packs
    target = scene.make_disk(len(data))
    reader.restore_to(target, target_is_blank=True)
    assert target.data == data


def test_restore_during_plan(scene: Scene) -> None:
    """A plan deletes nothing, so a restore of a condemned point beside it ends well."""
    old = scene.commit(FIRST)
    reader = scene.bench.repository.open_disk(old, "disk-1")
    scene.other.forget(old)
    scene.at("get_range", "data/", lambda: scene.other.collect(WITH_REST), after=False)
    target = scene.make_disk(len(FIRST))
    reader.restore_to(target, target_is_blank=True)
    assert target.data == FIRST


def test_forget_during_plan(scene: Scene) -> None:
    """A point forgotten while a plan is made is kept by it, or goes with the next generation."""
    scene.other.forget(scene.commit(SECOND))
    point = scene.commit(FIRST, vm_id="vm-2")
    scene.at("list", "index/", lambda: scene.other.forget(point), after=False)
    assert point.id not in scene.bench.repository.collect(WITH_REST).points
    assert scene.collect_later().stage is CollectStage.SWEPT
    assert scene.bench.read(point) == FIRST
    scene.other.undelete(point)
    assert scene.is_whole(point, FIRST)


def test_forget_during_sweep(scene: Scene) -> None:
    """A point forgotten after the plan is not touched by its sweep."""
    planned(scene)
    point = scene.commit(SECOND, vm_id="vm-2")
    scene.other.forget(point)
    assert scene.collect_later().stage is CollectStage.SWEPT
    scene.other.undelete(point)
    assert scene.is_whole(point, SECOND)


def test_forget_during_backup(scene: Scene) -> None:
    """The base of a running backup is not forgotten; the backup ends whole."""
    base = scene.commit(FIRST)
    with scene.bench.repository.write_session("writer") as session:
        record = scene.bench.write(
            scene.make_disk(FIRST), [Extent(0, 1)], base.disks[0], session=session
        )
        with pytest.raises(PointInUse):
            scene.other.forget(base)
        point = session.commit(scene.draft(record))
    assert scene.is_whole(point, FIRST)


def test_undelete_during_plan(scene: Scene) -> None:
    """Brought back after the plan's look: the sweep sees it and takes nothing of it."""
    old = scene.commit(FIRST)
    scene.other.forget(old)
    scene.at("put_new", "gc/", lambda: scene.other.undelete(old), after=False)
    scene.bench.repository.collect(WITH_REST)
    scene.collect_later()
    assert scene.is_whole(old, FIRST)


def test_undelete_between_plan_and_sweep(scene: Scene) -> None:
    """The plan is cancelled; nothing is deleted."""
    old = planned(scene)
    scene.other.undelete(old)
    newest = Generations(scene.other._store, scene.other._records).newest()
    assert newest is not None
    assert newest.outcome is not None
    assert not newest.outcome.is_sweep
    scene.collect_later()
    assert scene.is_whole(old, FIRST)


def test_undelete_during_sweep(scene: Scene) -> None:
    """Before the outcome it wins, and the sweep finds itself cancelled; after it, it is too late."""
    old = planned(scene)
    scene.clock.ahead += dt.timedelta(hours=49)
    scene.at("put_new", "gc/0000000001/outcome", lambda: scene.other.undelete(old), after=False)
    assert scene.bench.repository.collect(WITH_REST).stage is CollectStage.CANCELLED
    assert scene.is_whole(old, FIRST)
    scene.other.forget(old)
    scene.other.collect(WITH_REST)
    scene.clock.ahead += dt.timedelta(hours=49)
    refused = []

    def too_late() -> None:
        with pytest.raises(PointCollected):
            scene.other.undelete(old)
        refused.append(old)

    scene.at("put_new", "gc/0000000002/outcome", too_late, after=True)
    assert scene.bench.repository.collect(WITH_REST).stage is CollectStage.SWEPT
    assert refused
    assert scene.bench.reopened().points().points == []


def test_undelete_after_a_sweep_beside_the_commit(scene: Scene) -> None:
    """The sweep of a generation that the writer slept through took nothing from its point: it comes
    back, although the generation has never seen it."""
    scene.other.forget(scene.commit(FIRST))
    point = commit_beside(scene, SECOND, lambda: slept_through(scene))
    scene.other.forget(point)
    scene.other.undelete(point)
    assert scene.is_whole(point, SECOND)


def test_a_commit_beside_a_sweep_whose_chunks_were_stored_again(scene: Scene) -> None:
    """What the sweep took from the sleeper's point, another backup has brought back by then."""
    scene.other.forget(scene.commit(FIRST))
    paused = scene.bench.repository

    def meanwhile() -> None:
        slept_through(scene)
        scene.bench.repository = scene.other
        scene.commit(FIRST, vm_id="vm-2")
        scene.bench.repository = paused

    point = commit_beside(scene, FIRST, meanwhile)
    scene.other.forget(point)
    scene.other.undelete(point)
    assert scene.is_whole(point, FIRST)


def test_undelete_of_a_point_that_a_sweep_beside_the_commit_broke(scene: Scene) -> None:
    """What such a sweep took chunks from does not come back, not even under a later generation."""
    scene.other.forget(scene.commit(FIRST))
    with pytest.raises(CommitFailed, match="slept"):
        commit_beside(scene, FIRST, lambda: slept_through(scene))
    (broken,) = scene.other.forgotten()
    with pytest.raises(PointCollected):
        scene.other.undelete(broken.point)
    scene.other.forget(scene.commit(SECOND, vm_id="vm-2"))
    assert scene.other.collect(WITH_REST).stage is CollectStage.PLANNED
    with pytest.raises(PointCollected):
        scene.other.undelete(broken.point)
    assert scene.other.points().points == []


def commit_beside(scene: Scene, data: bytes, meanwhile: Callable[[], None]) -> RestorePoint:
    """Back the disk up; something happens when all is written, before the point is."""
    with scene.bench.repository.write_session("writer") as session:
        record = scene.bench.write(scene.make_disk(data), session=session)
        scene.at("put_new", "points/", meanwhile, after=False)
        return session.commit(scene.draft(record))


def slept_through(scene: Scene) -> None:
    """A whole generation by the other host, while all leases have run out."""
    assert scene.other.collect(WITH_REST).stage is CollectStage.PLANNED
    assert scene.collect_later().stage is CollectStage.SWEPT


def test_plan_during_plan(scene: Scene) -> None:
    """Of two plans at once one wins; the loser leaves nothing behind."""
    kept = scene.commit(SECOND, vm_id="vm-2")
    scene.other.forget(scene.commit(FIRST))
    scene.at("put_new", "gc/0000000001/plan", lambda: scene.other.collect(WITH_REST), after=False)
    assert "another collector" in scene.bench.repository.collect(WITH_REST).reason
    lists = [info.key for info in scene.other._store.list("gc/") if "parquet" in info.key]
    assert len(lists) == 2
    assert scene.collect_later().stage is CollectStage.SWEPT
    assert scene.is_whole(kept, SECOND)


def test_plan_during_sweep(scene: Scene) -> None:
    """There is no next plan before a sweep is over: the second collector helps to end it."""
    kept = scene.commit(SECOND, vm_id="vm-2")
    planned(scene)
    scene.clock.ahead += dt.timedelta(hours=49)
    seen = []
    scene.at("delete", "data/", lambda: seen.append(scene.other.collect(WITH_REST)), after=False)
    assert scene.bench.repository.collect(WITH_REST).stage is CollectStage.SWEPT
    assert [(report.stage, report.generation) for report in seen] == [(CollectStage.SWEPT, 1)]
    assert scene.is_whole(kept, SECOND)


def test_sweep_during_sweep(scene: Scene) -> None:
    """Two sweeps decide at once: one outcome holds, and both delete what it names."""
    kept = scene.commit(SECOND, vm_id="vm-2")
    planned(scene)
    scene.clock.ahead += dt.timedelta(hours=49)
    act = lambda: scene.other.collect(WITH_REST)  # noqa: E731 - the other host's whole sweep
    scene.at("put_new", "gc/0000000001/outcome", act, after=False)
    assert scene.bench.repository.collect(WITH_REST).stage is CollectStage.SWEPT
    assert scene.is_whole(kept, SECOND)


def act_of(scene: Scene, name: str, forgotten: RestorePoint, other: RestorePoint) -> None:
    """One whole operation of the other host."""
    if name == "backup":
        paused, scene.bench.repository = scene.bench.repository, scene.other
        scene.commit(FIRST + SECOND, vm_id="vm-3")
        scene.bench.repository = paused
    elif name == "restore":
        target = scene.make_disk(len(SECOND))
        scene.other.open_disk(other, "disk-1").restore_to(target, target_is_blank=True)
        assert target.data == SECOND
    elif name == "forget":
        scene.other.forget(other)
    elif name == "undelete":
        scene.other.undelete(forgotten)
    elif name == "repair":
        scene.other.repair()
    elif name == "give_up":
        give_up_one(scene)
    else:
        assert scene.other.collect(WITH_REST).stage is CollectStage.PLANNED


@pytest.mark.parametrize(
    "name", ["backup", "restore", "forget", "undelete", "plan", "repair", "give_up"]
)
def test_others_during_restore(scene: Scene, name: str) -> None:
    """Whatever another host does in the middle, the restore ends with the right bytes."""
    forgotten, other = scene.commit(FIRST), scene.commit(SECOND, vm_id="vm-2")
    point = scene.commit(FIRST + SECOND, vm_id="vm-4")
    scene.other.forget(forgotten)
    reader = scene.bench.repository.open_disk(point, "disk-1")
    done: list[str] = []

    def act() -> None:
        act_of(scene, name, forgotten, other)
        done.append(name)

    scene.at("get_range", "data/", act, after=False)
    target = scene.make_disk(reader.size_bytes)
    reader.restore_to(target, target_is_blank=True)
    assert done == [name]
    assert target.data == FIRST + SECOND


@pytest.mark.parametrize("name", ["backup", "restore", "undelete", "give_up"])
def test_others_during_backup(scene: Scene, name: str) -> None:
    """Whatever another host does between two packs, the backup is whole."""
    forgotten, other = scene.commit(FIRST), scene.commit(SECOND, vm_id="vm-2")
    scene.other.forget(forgotten)
    data = random.Random(7).randbytes(8 * CHUNK)
    done: list[str] = []

    def act() -> None:
        scene.store.plan = lambda _operation, _key: None
        act_of(scene, name, forgotten, other)
        done.append(name)

    scene.at("put_new", "data/", act, after=False)
    point = scene.commit(data, vm_id="vm-4")
    assert done == [name]
    assert scene.is_whole(point, data)


def give_up_one(scene: Scene) -> None:
    """Spoil the record of a point of its own VM, and give that up."""
    paused, scene.bench.repository = scene.bench.repository, scene.other
    lost = scene.commit(SECOND[: 2 * CHUNK], vm_id="vm-lost")
    scene.bench.repository = paused
    path = Path(scene.bench.url, lost.key)
    path.write_bytes(path.read_bytes()[:-9])
    assert Repository.open(scene.bench.url).give_up([lost.id], dry_run=False).lost


def two_copies(scene: Scene) -> tuple[RestorePoint, Path, int]:
    """A point, and a second copy of its chunks in packs of its own; returns where the first lies."""
    point = scene.commit(FIRST)
    segments = list(Path(scene.bench.url, "index").iterdir())
    hidden = [path.rename(path.with_name(f".{path.name}")) for path in segments]
    scene.other.forget(scene.commit(FIRST, vm_id="vm-2"))  # it knew of no chunk
    for path in hidden:
        path.rename(path.with_name(path.name[1:]))
    place = scene.other.open_disk(point, "disk-1")._window(0)[0]
    name = place["pack"].tobytes().hex()
    return point, Path(scene.bench.url, "data", name[:2], name), int(place["offset"])


def spoil(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset + 100] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("place", ["begun before", "begun after"])
def test_repair_during_plan(scene: Scene, place: str) -> None:
    """The good copy that the plan condemns is spared: the plan is cancelled, or its sweep sees why."""
    point, path, offset = two_copies(scene)
    spoil(path, offset)
    if place == "begun before":
        scene.at("put_new", "gc/", scene.other.repair, after=False)
        scene.bench.repository.collect(WITH_REST)
    else:
        scene.bench.repository.collect(WITH_REST)
        scene.other.repair()
        newest = Generations(scene.other._store, scene.other._records).newest()
        assert newest is not None
        assert newest.outcome is not None
        assert not newest.outcome.is_sweep
    scene.collect_later()
    scene.collect_later()
    assert scene.is_whole(point, FIRST)
    assert path.exists()


@pytest.mark.parametrize("after", [False, True])
def test_repair_during_sweep(scene: Scene, after: bool) -> None:
    """Before the outcome it cancels the sweep; after it, it is refused until all is deleted."""
    point, path, offset = two_copies(scene)
    scene.bench.repository.collect(WITH_REST)
    scene.clock.ahead += dt.timedelta(hours=49)
    spoil(path, offset)
    refused = []

    def repair() -> None:
        try:
            scene.other.repair()
        except InvalidInput:
            refused.append(True)

    scene.at("put_new", "gc/0000000001/outcome", repair, after=after)
    stage = scene.bench.repository.collect(WITH_REST).stage
    assert (stage, bool(refused)) == (
        CollectStage.SWEPT if after else CollectStage.CANCELLED,
        after,
    )
    scene.other.repair()
    scene.collect_later()
    scene.collect_later()
    assert path.exists()
    if not after:
        assert scene.is_whole(point, FIRST)


def test_repair_during_backup(scene: Scene) -> None:
    """What a running backup had found known may be found bad meanwhile: told, and the next one heals."""
    old = scene.commit(FIRST)
    place = scene.other.open_disk(old, "disk-1")._window(0)[0]
    name = place["pack"].tobytes().hex()
    path = Path(scene.bench.url, "data", name[:2], name)
    with scene.bench.repository.write_session("writer") as session:
        record = scene.bench.write(scene.make_disk(FIRST), session=session)
        spoil(path, int(place["offset"]))
        scene.other.repair()
        point = session.commit(scene.draft(record))
    concerned = {
        part.point_id for found in scene.other.verify().findings for part in found.concerned
    }
    assert concerned == {old.id, point.id}
    scene.bench.repository = scene.bench.reopened()
    scene.commit(FIRST)
    assert scene.is_whole(point, FIRST)
    assert scene.is_whole(old, FIRST)


def test_plan_during_repair(scene: Scene) -> None:
    """A plan made while repair has written packs that no segment names yet spares them."""
    old = scene.commit(FIRST)
    place = scene.other.open_disk(old, "disk-1")._window(0)[1]
    name = place["pack"].tobytes().hex()
    path = Path(scene.bench.url, "data", name[:2], name)
    spoil(path, int(place["offset"]))
    act = lambda: scene.other.collect(WITH_REST)  # noqa: E731 - the other host's plan
    scene.at("put_new", "index/", act, after=False)
    report = scene.bench.repository.repair()
    assert report.chunks_saved
    scene.collect_later()
    path.unlink()
    reader = scene.bench.reopened().open_disk(old, "disk-1")
    saved = bytearray(CHUNK)
    reader.read_into(0, memoryview(saved))
    assert saved == FIRST[:CHUNK]


def test_sweep_during_repair(scene: Scene) -> None:
    """A sweep of a plan made during a repair waits for the repair's end."""
    scene.other.forget(scene.commit(SECOND, vm_id="vm-2"))
    old = scene.commit(FIRST)
    place = scene.other.open_disk(old, "disk-1")._window(0)[1]
    name = place["pack"].tobytes().hex()
    spoil(Path(scene.bench.url, "data", name[:2], name), int(place["offset"]))
    seen: list[CollectReport] = []

    def plan_and_sweep() -> None:
        scene.store.plan = lambda _operation, _key: None
        scene.other.collect(WITH_REST)
        seen.append(scene.other.collect(CollectSettings(undelete_hours=0, grace_hours=24)))

    scene.at("put_new", "data/", plan_and_sweep, after=False)
    scene.bench.repository.repair()
    assert seen[0].stage is CollectStage.WAITING
    assert "repair" in seen[0].reason
    assert scene.collect_later().stage is CollectStage.SWEPT


@pytest.mark.parametrize("name", ["backup", "restore", "forget", "undelete", "repair", "give_up"])
def test_others_during_repair(scene: Scene, name: str) -> None:
    """Whatever another host does in the middle of a repair, what can be saved is saved."""
    forgotten, other = scene.commit(SECOND), scene.commit(SECOND, vm_id="vm-2")
    point = scene.commit(FIRST, vm_id="vm-4")
    scene.other.forget(forgotten)
    place = scene.other.open_disk(point, "disk-1")._window(0)[1]
    pack = place["pack"].tobytes().hex()
    path = Path(scene.bench.url, "data", pack[:2], pack)
    spoil(path, int(place["offset"]))
    done: list[str] = []

    def act() -> None:
        scene.store.plan = lambda _operation, _key: None
        act_of(scene, name, forgotten, other)
        done.append(name)

    scene.at("put_new", "data/", act, after=False)
    assert scene.bench.repository.repair().chunks_saved
    assert done == [name]
    lost = {
        extent
        for finding in scene.bench.reopened().verify().findings
        for part in finding.concerned
        for extent in part.extents
        if part.point_id == point.id
    }
    assert lost <= {Extent(CHUNK, 2 * CHUNK)}


@pytest.mark.parametrize("operation", ["plan", "sweep"])
def test_give_up_during_collection(scene: Scene, operation: str) -> None:
    """Given up in the middle of a plan or a sweep, a point goes with a later generation."""
    kept = scene.commit(FIRST)
    scene.other.forget(scene.commit(SECOND, vm_id="vm-2"))
    done: list[bool] = []

    def act() -> None:
        give_up_one(scene)
        done.append(True)

    if operation == "plan":
        scene.at("put_new", "gc/0000000001/plan", act, after=False)
        assert scene.bench.repository.collect(WITH_REST).stage is CollectStage.PLANNED
    else:
        scene.bench.repository.collect(WITH_REST)
        scene.clock.ahead += dt.timedelta(hours=49)
        scene.at("put_new", "gc/0000000001/outcome", act, after=False)
        assert scene.bench.repository.collect(WITH_REST).stage is CollectStage.SWEPT
    assert done
    assert list(Path(scene.bench.url, "points", "vm-lost").iterdir())
    for _ in range(4):
        scene.collect_later()
    assert not list(Path(scene.bench.url, "points", "vm-lost").iterdir())
    assert scene.is_whole(kept, FIRST)


def test_verify_during_plan(scene: Scene) -> None:
    """A pack that chunks were moved to after the packs were listed is not taken for missing."""
    data = bytearray(FIRST + SECOND)
    old = scene.commit(bytes(data))
    for chunk in range(0, 16, 2):
        data[chunk * CHUNK] ^= 1
    new = scene.bench.commit(scene.bench.write(scene.make_disk(data), base=old.disks[0]))
    scene.other.forget(old)
    scene.at("list", "data/", lambda: scene.other.collect(AT_ONCE), after=True)
    assert scene.bench.repository.verify().findings == ()
    assert scene.is_whole(new, bytes(data))
