"""Collection frees what nobody needs, keeps what anybody does, and can die anywhere."""

from __future__ import annotations

import datetime as dt
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repository import (
    CollectionRefused,
    CollectSettings,
    CollectStage,
    Extent,
    PointCollected,
    Repository,
    Stopped,
    StoreDenied,
    StoreUnavailable,
    SystemClock,
    TransferCounters,
    VerifyLevel,
)
from repository.locating import read_segments

CHUNK = 64 * 1024
MakeDisk = Callable[..., Any]
AT_ONCE = CollectSettings(undelete_hours=0, grace_hours=0)


class LateClock(SystemClock):
    """A clock that can be put forward."""

    def __init__(self) -> None:
        self.ahead = dt.timedelta()

    def now(self) -> dt.datetime:
        return super().now() + self.ahead


def noise(chunks: int, seed: int = 3) -> bytes:
    return random.Random(seed).randbytes(chunks * CHUNK)


def files(bench: Any, prefix: str = "") -> set[str]:
    root = Path(bench.url)
    found = (root / prefix).rglob("*")
    return {path.relative_to(root).as_posix() for path in found if path.is_file()}


def test_what_a_forgotten_point_alone_needed_goes(any_bench: Any, make_disk: MakeDisk) -> None:
    """Its packs, maps, record and marks are deleted; the other point restores and verifies."""
    repository = any_bench.repository
    shared, own = noise(8), noise(8, seed=4)
    first = any_bench.commit(any_bench.write(make_disk(shared + own)))
    second = any_bench.commit(any_bench.write(make_disk(shared), disk_id="disk-2"), vm_id="vm-2")
    repository.forget(first)
    report = repository.collect(AT_ONCE)
    assert report.stage is CollectStage.SWEPT
    assert report.points == (first.id,)
    assert report.freed_bytes > 7 * CHUNK
    names = {info.key for info in repository._store.list("")}
    assert not [name for name in names if first.id in name]
    assert len([name for name in names if name.startswith("points/")]) == 1
    assert any_bench.reopened().verify().is_clean
    assert any_bench.read(second, "disk-2") == shared
    assert repository.forgotten() == []
    assert repository.collect(AT_ONCE).stage is CollectStage.NOTHING


def test_chunks_move_out_of_packs_that_are_mostly_dead(any_bench: Any, make_disk: MakeDisk) -> None:
    """Three of four chunks of every pack die: the rest is copied, and read from where it lies."""
    data = bytearray(noise(32))
    old = any_bench.commit(any_bench.write(make_disk(data)))
    base = old.disks[0]
    for chunk in range(32):
        if chunk % 4:
            data[chunk * CHUNK : chunk * CHUNK + 8] = b"new data"
    new = any_bench.commit(any_bench.write(make_disk(data), base=base))
    before = sum(info.size_bytes for info in any_bench.repository._store.list("data/"))
    reader = any_bench.repository.open_disk(new, "disk-1")
    any_bench.repository.forget(old)
    report = any_bench.repository.collect(AT_ONCE)
    assert report.rewritten_packs >= 6
    after = sum(info.size_bytes for info in any_bench.repository._store.list("data/"))
    assert after < before - 20 * CHUNK
    assert any_bench.read(new) == data
    whole = bytearray(len(data))
    reader.read_into(0, memoryview(whole))  # opened before anything was moved
    assert whole == data
    assert any_bench.reopened().verify().is_clean
    again = TransferCounters()
    any_bench.write(make_disk(data), counters=again)
    assert again.new_chunks == 0
    for _ in range(3):  # a second move, and nothing to do after that
        stage = any_bench.repository.collect(AT_ONCE).stage
    assert stage is CollectStage.NOTHING
    assert any_bench.read(new) == data


def test_a_dry_run_tells_and_writes_nothing(bench: Any, make_disk: MakeDisk) -> None:
    """The dry run's numbers are those of the run after it, and no object changes."""
    point = bench.commit(bench.write(make_disk(noise(12))))
    bench.commit(bench.write(make_disk(noise(3))))
    bench.repository.forget(point)
    before = files(bench)
    told = bench.repository.collect(AT_ONCE, dry_run=True)
    assert files(bench) == before
    done = bench.repository.collect(AT_ONCE)
    assert told.object_counts == done.object_counts
    assert told.freed_bytes == done.freed_bytes
    assert told.delete_requests == done.deleted_objects == len(before - files(bench))


def test_time_to_change_ones_mind(bench: Any, make_disk: MakeDisk) -> None:
    """Within the window nothing is planned; then a plan rests; then it is swept. Not earlier."""
    clock = LateClock()
    repository = Repository.open(bench.url, clock=clock)
    point = bench.commit(bench.write(make_disk(noise(4))))
    repository.forget(point)
    assert repository.collect().stage is CollectStage.NOTHING
    clock.ahead = dt.timedelta(days=7, minutes=1)
    assert repository.collect().stage is CollectStage.PLANNED
    assert repository.verify().is_clean
    clock.ahead += dt.timedelta(hours=47)
    waiting = repository.collect()
    assert (waiting.stage, waiting.deleted_objects) == (CollectStage.WAITING, 0)
    assert "rests until" in waiting.reason
    clock.ahead += dt.timedelta(hours=2)
    assert repository.collect().stage is CollectStage.SWEPT
    assert files(bench, "data") == set()


def test_what_a_killed_session_left_goes(bench: Any, make_disk: MakeDisk) -> None:
    """Packs, maps and segments that no point ever named are collected; the point beside stays."""
    kept = bench.commit(bench.write(make_disk(noise(4))))
    bench.write(make_disk(noise(20, seed=9)), disk_id="never-committed")
    report = bench.repository.collect(AT_ONCE)
    assert report.stage is CollectStage.SWEPT
    assert files(bench, "maps/never-committed") == set()
    assert sum((Path(bench.url) / name).stat().st_size for name in files(bench, "data")) < 6 * CHUNK
    assert bench.read(kept) == noise(4)


def index_rows(repository: Repository) -> list[bytes]:
    """The chunk of every row of the index."""
    found = read_segments(repository._store, repository._records)
    return [each.tobytes() for _, segment in found for each in segment.places["id"]]  # type: ignore[union-attr]


@pytest.mark.usefixtures("merges_often")
def test_many_small_segments_become_few(any_bench: Any, make_disk: MakeDisk) -> None:
    """Whoever opens the repository reads one object in their place; those of a running session stay until it has ended."""
    repository = any_bench.repository
    disks = [noise(12, seed=seed) for seed in range(5)]
    points = [any_bench.commit(any_bench.write(make_disk(each))) for each in disks]

    def segments() -> set[str]:
        return {info.key for info in repository._store.list("index/")}

    before = segments()
    assert len(before) == 5
    with repository.write_session("running") as running:
        any_bench.write(make_disk(noise(30, seed=9)), disk_id="disk-9", session=running)
        own = segments() - before
        assert own
        patient = CollectSettings(undelete_hours=0, grace_hours=48)
        assert repository.collect(patient).object_counts == {"index": 5}
        assert repository.cancel_collection("it is only looked at").stage is CollectStage.CANCELLED
    report = repository.collect(AT_ONCE)
    assert report.stage is CollectStage.SWEPT
    assert len(segments()) == 1
    assert not segments() & (before | own)
    assert len(index_rows(repository)) == len(set(index_rows(repository))) == 5 * 12
    assert [any_bench.read(point) for point in points] == disks
    assert any_bench.reopened().verify(VerifyLevel.CONTENT).is_clean
    assert repository.collect(AT_ONCE).stage is CollectStage.NOTHING
    again = TransferCounters()
    any_bench.write(make_disk(b"".join(disks)), counters=again)
    assert again.new_chunks == 0


@pytest.mark.usefixtures("merges_often")
@pytest.mark.parametrize("rows_of_small", [1000, 30])
@pytest.mark.parametrize("is_killed", [False, True])
def test_an_interrupted_merge_is_not_copied_again(
    faulty: Any,
    make_disk: MakeDisk,
    monkeypatch: pytest.MonkeyPatch,
    rows_of_small: int,
    *,
    is_killed: bool,
) -> None:
    """However often a plan is cancelled, or its collector dies before it is there, each row ends up in the index once."""
    monkeypatch.setattr("repository.collect_rewrite.SMALL_ROWS", rows_of_small)
    bench, store = faulty
    calm = store.plan
    for seed in range(5):
        bench.commit(bench.write(make_disk(noise(12, seed=seed))))

    def dies_before_the_plan(operation: str, key: str) -> None:
        if operation == "put_new" and key.startswith("gc/"):
            raise StoreUnavailable(operation, key, "the machine is gone")

    for _ in range(3):
        if is_killed:
            store.plan = dies_before_the_plan
            with pytest.raises(StoreUnavailable):
                bench.repository.collect()
            store.plan = calm
        else:
            assert bench.repository.collect().stage is CollectStage.PLANNED
            bench.repository.cancel_collection("somebody changed his mind")
    for _ in range(3):
        stage = bench.repository.collect(AT_ONCE).stage
    assert stage is CollectStage.NOTHING
    assert len(index_rows(bench.repository)) == len(set(index_rows(bench.repository))) == 5 * 12
    assert bench.reopened().verify(VerifyLevel.CONTENT).is_clean


@pytest.mark.usefixtures("merges_often")
def test_a_segment_whose_copy_was_lost_stays(bench: Any, make_disk: MakeDisk) -> None:
    """The merged one rots while the plan rests: the sweep deletes nothing that alone names a pack."""
    clock = LateClock()
    repository = Repository.open(bench.url, clock=clock)
    for seed in range(3):
        bench.commit(bench.write(make_disk(noise(12, seed=seed))))
    before = files(bench, "index")
    assert repository.collect().object_counts == {"index": 3}
    (merged,) = files(bench, "index") - before
    (Path(bench.url) / merged).unlink()
    clock.ahead = dt.timedelta(hours=49)
    assert repository.collect().deleted_objects == 0
    assert files(bench, "index") == before
    assert repository.verify(VerifyLevel.CONTENT).is_clean


def test_few_or_large_segments_stay(
    bench: Any, make_disk: MakeDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer small ones than it takes cost nobody anything, and a large one is never copied."""
    for seed in range(4):
        bench.commit(bench.write(make_disk(noise(4, seed=seed))))
    assert bench.repository.collect(AT_ONCE).stage is CollectStage.NOTHING
    monkeypatch.setattr("repository.collect_rewrite.SMALL_SEGMENTS_MIN", 2)
    monkeypatch.setattr("repository.collect_rewrite.SMALL_ROWS", 4)
    assert bench.repository.collect(AT_ONCE).stage is CollectStage.NOTHING
    monkeypatch.setattr("repository.collect_rewrite.SMALL_ROWS", 5)
    monkeypatch.setattr("repository.collect_rewrite._MERGED_ROWS_MAX", 9)
    assert bench.repository.collect(AT_ONCE).object_counts == {"index": 2}


@pytest.mark.parametrize("prefix", ["points", "maps", "index"])
def test_whatever_cannot_be_read_stops_everything(
    bench: Any, make_disk: MakeDisk, prefix: str
) -> None:
    """One flipped bit in a record, a map or a segment: nothing is planned and nothing deleted."""
    gone = bench.commit(bench.write(make_disk(noise(4))))
    bench.commit(bench.write(make_disk(noise(4, seed=4)), disk_id="disk-2"), vm_id="vm-2")
    bench.repository.forget(gone)
    kept = {"points": "points/vm-2", "maps": "maps/disk-2", "index": "index"}[prefix]
    path = Path(bench.url) / sorted(files(bench, kept))[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    before = files(bench)
    with pytest.raises(CollectionRefused):
        bench.reopened().collect(AT_ONCE)
    assert files(bench) == before


def test_an_incomplete_listing_stops_everything(bench: Any, make_disk: MakeDisk) -> None:
    """A predecessor that is not listed and was never collected means that the listing has a gap."""
    first = bench.commit(bench.write(make_disk(noise(4))))
    bench.commit(bench.write(make_disk(noise(4))), previous_point_id=first.id)
    (Path(bench.url) / first.key).unlink()
    with pytest.raises(CollectionRefused, match=first.id):
        bench.reopened().collect(AT_ONCE)


def test_a_collected_predecessor_is_no_gap(bench: Any, make_disk: MakeDisk) -> None:
    """Points whose predecessors were swept, also generations ago, do not stop collection."""
    previous = None
    for number in range(4):
        record = bench.write(make_disk(noise(2, seed=number)))
        point = bench.commit(record, previous_point_id=previous.id if previous else None)
        if previous:
            bench.repository.forget(previous)
            assert bench.repository.collect(AT_ONCE).stage is CollectStage.SWEPT
        previous = point
    assert bench.read(previous) == noise(2, seed=3)
    lists = [name for name in files(bench, "gc") if name.endswith(".parquet")]
    assert len(lists) == 3  # those of the newest generation alone


def test_objects_locked_for_a_while_are_deleted_later(faulty: Any, make_disk: MakeDisk) -> None:
    """A store that refuses some deletes leaves the generation unfinished; a later run ends it."""
    bench, store = faulty
    bench.repository.forget(bench.commit(bench.write(make_disk(noise(4)))))

    def locked(operation: str, key: str) -> None:
        if operation == "delete" and key.startswith("data/"):
            raise StoreDenied(operation, key, "retained until tomorrow")

    store.plan = locked
    report = bench.repository.collect(AT_ONCE)
    assert report.stage is CollectStage.INCOMPLETE
    assert "retained until tomorrow" in report.reason
    store.plan = lambda _operation, _key: None
    assert bench.repository.collect(AT_ONCE).stage is CollectStage.SWEPT
    assert files(bench, "data") == set()


def test_a_second_run_reads_new_maps_alone(
    faulty: Any, make_disk: MakeDisk, tmp_path: Path
) -> None:
    """With the cache, what is read follows what is new; a damaged cache costs time, not truth."""
    bench, store = faulty
    points = [
        bench.commit(bench.write(make_disk(noise(2, seed=n)), disk_id=f"d{n}"), vm_id=f"vm-{n}")
        for n in range(6)
    ]
    settings, cache = AT_ONCE, tmp_path / "cache"

    def maps_read() -> int:
        store.operations.clear()
        bench.repository.collect(settings, cache=cache)
        return sum(op == "get" and key.startswith("maps/") for op, key in store.operations)

    assert maps_read() == 6
    bench.commit(bench.write(make_disk(noise(2, seed=9)), disk_id="d9"), vm_id="vm-9")
    assert maps_read() == 1
    for path in cache.iterdir():
        path.write_bytes(b"\0" * path.stat().st_size)
    assert maps_read() == 7
    bench.repository.forget(points[0])
    assert bench.repository.collect(settings, cache=cache).points == (points[0].id,)
    assert bench.repository.verify().is_clean


def test_stopping_leaves_nothing_half_done(bench: Any, make_disk: MakeDisk) -> None:
    """A stop event raises Stopped, also in the middle of deleting; the next run ends it."""
    bench.repository.forget(bench.commit(bench.write(make_disk(noise(30)))))
    stop = threading.Event()
    with pytest.raises(Stopped):
        bench.repository.collect(AT_ONCE, stop=stop, on_progress=lambda _progress: stop.set())
    assert bench.repository.verify().is_clean
    assert bench.repository.collect(AT_ONCE).stage is CollectStage.SWEPT
    assert files(bench, "data") == set()


def test_a_cancelled_generation_deletes_nothing(bench: Any, make_disk: MakeDisk) -> None:
    """The operator gives the plan up: it is never swept, and the next generation plans anew."""
    clock = LateClock()
    repository = Repository.open(bench.url, clock=clock)
    repository.forget(bench.commit(bench.write(make_disk(noise(4)))))
    settings = CollectSettings(undelete_hours=0)
    assert repository.collect(settings).stage is CollectStage.PLANNED
    assert repository.cancel_collection("not today").stage is CollectStage.CANCELLED
    clock.ahead = dt.timedelta(days=30)
    assert repository.collect(settings).generation == 2
    assert len(files(bench, "points")) == 1


def test_stores_without_exclusive_creation_need_a_word(make_disk: MakeDisk, faulty: Any) -> None:
    """Where two collectors could not tell who is first, the operator must vouch for one."""
    bench, store = faulty
    bench.repository.forget(bench.commit(bench.write(make_disk(noise(1)))))
    store.inner._has_links = False
    with pytest.raises(CollectionRefused, match="only-collector"):
        bench.repository.collect(AT_ONCE)
    alone = AT_ONCE.model_copy(update={"is_only_collector": True})
    assert bench.repository.collect(alone).stage is CollectStage.SWEPT


def test_too_late_to_bring_back(bench: Any, make_disk: MakeDisk) -> None:
    """A point whose sweep is decided but not finished cannot come back, and stays hidden."""
    point = bench.commit(bench.write(make_disk(noise(4))))
    bench.repository.forget(point)
    stop = threading.Event()
    with pytest.raises(Stopped):
        bench.repository.collect(AT_ONCE, stop=stop, on_progress=lambda _progress: stop.set())
    with pytest.raises(PointCollected):
        bench.repository.undelete(point)
    assert bench.repository.points().points == []
    bench.repository.collect(AT_ONCE)
    bench.repository.collect(AT_ONCE)
    assert files(bench, "tomb") == set()


def test_a_point_younger_than_the_last_sweep_comes_back(bench: Any, make_disk: MakeDisk) -> None:
    """A sweep that was over before the point was made has taken nothing from it."""
    old = bench.commit(bench.write(make_disk(noise(4))))
    bench.repository.forget(old)
    assert bench.repository.collect(AT_ONCE).stage is CollectStage.SWEPT
    data = noise(5, seed=7)
    point = bench.commit(bench.write(make_disk(data)))
    bench.repository.forget(point)
    bench.repository.undelete(point)
    assert bench.repository.points().points == [point]
    assert bench.read(point) == data


@pytest.mark.parametrize("newest", ["open", "cancelled"])
def test_what_an_earlier_generation_deleted_does_not_come_back(
    bench: Any, make_disk: MakeDisk, newest: str
) -> None:
    """Whoever still knows a point that was swept hears so, though the newest plan has no sweep."""
    point = bench.commit(bench.write(make_disk(noise(4))))
    bench.repository.forget(point)
    assert bench.repository.collect(AT_ONCE).stage is CollectStage.SWEPT
    other = bench.commit(bench.write(make_disk(noise(4, seed=7))))
    bench.repository.forget(other)
    rest = AT_ONCE.model_copy(update={"grace_hours": 48})
    assert bench.repository.collect(rest).stage is CollectStage.PLANNED
    if newest == "cancelled":
        bench.repository.cancel_collection("second thoughts")
    with pytest.raises(PointCollected):
        bench.repository.undelete(point)
    bench.repository.undelete(other)
    assert bench.repository.points().points == [other]


def test_an_incremental_over_moved_chunks(bench: Any, make_disk: MakeDisk) -> None:
    """A base whose chunks were moved serves incrementals, rebases and restores as before."""
    data = bytearray(noise(16))
    old = bench.commit(bench.write(make_disk(data)))
    for chunk in range(0, 16, 2):
        data[chunk * CHUNK : chunk * CHUNK + 3] = b"new"
    point = bench.commit(bench.write(make_disk(data), base=old.disks[0]))
    bench.repository.forget(old)
    bench.repository.collect(AT_ONCE)
    for number in range(11):
        data[number * CHUNK] ^= 0xFF
        extents = [Extent(number * CHUNK, number * CHUNK + 1)]
        point = bench.commit(bench.write(make_disk(data), extents, point.disks[0]))
        assert bench.read(point) == data
        bench.repository.collect(AT_ONCE)
    assert bench.reopened().verify().is_clean
