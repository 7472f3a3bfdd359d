"""A store that keeps the protocol's letter but not its spirit costs time, never data."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from repository import (
    CollectionRefused,
    CollectSettings,
    CollectStage,
    CommitFailed,
    Repository,
    StoreDenied,
    SystemClock,
)
from repository.layout import POINTS, SEGMENTS
from repository.store import ObjectInfo
from tests.repository.fault_store import FaultStore

CHUNK = 64 * 1024
AT_ONCE = CollectSettings(undelete_hours=0, grace_hours=0)
MakeDisk = Callable[..., Any]


class WeirdStore(FaultStore):
    """Hides objects from listings, and brings deleted ones back."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.hidden: Callable[[str], bool] = lambda _key: False
        self.keeps_deleted = False

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return (info for info in super().list(prefix) if not self.hidden(info.key))

    def delete(self, key: str) -> None:
        if not self.keeps_deleted:
            super().delete(key)


@pytest.fixture
def weird(bench: Any) -> tuple[Any, WeirdStore]:
    """A repository whose store can be told to be weird."""
    store = WeirdStore(bench.repository._store)
    known = bench.repository
    bench.repository = Repository(store, known._description, known._master_key, known._clock)
    return bench, store


def test_a_stale_listing_of_the_index_costs_space_only(weird: Any, make_disk: MakeDisk) -> None:
    """Segments that are not listed yet: the chunks are stored again, and every point is whole."""
    bench, store = weird
    disk = make_disk(bytes(range(256)) * (4 * CHUNK // 256))
    first = bench.commit(bench.write(disk))
    store.hidden = lambda key: key.startswith(SEGMENTS)
    second = bench.commit(bench.write(disk))
    assert bench.read(first) == bench.read(second) == disk.data
    assert bench.repository.verify().is_clean


def test_a_truncated_listing_of_points_stops_collection(weird: Any, make_disk: MakeDisk) -> None:
    """A point missing from the listing, though its successor names it: nothing is deleted."""
    bench, store = weird
    first = bench.commit(bench.write(make_disk(b"a" * CHUNK)))
    second = bench.commit(bench.write(make_disk(b"b" * CHUNK)), previous_point_id=first.id)
    bench.repository.forget(bench.commit(bench.write(make_disk(b"c" * CHUNK)), vm_id="vm-2"))
    store.hidden = lambda key: key.startswith(POINTS) and first.id in key
    with pytest.raises(CollectionRefused):
        bench.repository.collect(AT_ONCE)
    store.hidden = lambda _key: False
    assert "delete" not in {operation for operation, key in store.operations if "data/" in key}
    assert bench.read(first)
    assert bench.read(second)


def test_deleted_objects_that_reappear_harm_nobody(weird: Any, make_disk: MakeDisk) -> None:
    """What a sweep deleted is back: it stays hidden, is not relied on, and all else is whole."""
    bench, store = weird
    disk = make_disk(b"k" * CHUNK + bytes(range(256)) * (CHUNK // 256))
    bench.repository.forget(bench.commit(bench.write(disk), vm_id="vm-2"))
    old = [info.key for info in store.inner.list("data/")]
    store.keeps_deleted = True
    bench.repository.collect(AT_ONCE)
    kept = bench.commit(bench.write(disk))
    assert [point.id for point in bench.repository.points().points] == [kept.id]
    for key in old:  # and now they are really gone
        store.inner.delete(key)
    assert bench.read(kept) == disk.data


def test_objects_that_may_not_be_deleted_yet_are_tried_again(
    weird: Any, make_disk: MakeDisk
) -> None:
    """Retention locks: collection says that it is incomplete, and finishes once they have ended."""
    bench, store = weird
    bench.repository.forget(bench.commit(bench.write(make_disk(b"x" * CHUNK))))

    def locked(operation: str, key: str) -> None:
        if operation == "delete" and key.startswith("data/"):
            raise StoreDenied(operation, key, "retained until tomorrow")

    store.plan = locked
    assert bench.repository.collect(AT_ONCE).stage is CollectStage.INCOMPLETE
    store.plan = lambda _operation, _key: None
    assert bench.repository.collect(AT_ONCE).stage is CollectStage.SWEPT
    assert [*store.inner.list("data/")] == []


class WrongClock(SystemClock):
    """A clock that is off by so many days."""

    def __init__(self, days: float) -> None:
        self._off = dt.timedelta(days=days)

    def now(self) -> dt.datetime:
        return super().now() + self._off


@pytest.mark.parametrize("days", [-400, -3, 3, 400])
def test_a_clock_that_is_wrong_costs_work_never_data(
    bench: Any, make_disk: MakeDisk, make_draft: Callable[..., Any], days: float
) -> None:
    """A collector with another time plans and sweeps beside a running backup: that commits whole, or fails and is run again."""
    data = bytes(range(256)) * (4 * CHUNK // 256)
    forgotten = bench.commit(bench.write(make_disk(data)), vm_id="vm-2")
    bench.repository.forget(forgotten)
    kept = bench.commit(bench.write(make_disk(b"k" * CHUNK)), vm_id="vm-3")
    with bench.repository.write_session("writer") as session:
        record = bench.write(make_disk(data), session=session)
        for later in (days, days + 3):
            collector = Repository.open(bench.url, clock=WrongClock(later))
            collector.collect(CollectSettings(undelete_hours=0))
        try:
            session.commit(make_draft(record))
        except CommitFailed:
            assert [point.id for point in bench.reopened().points().points] == [kept.id]
    bench.repository = bench.reopened()
    again = bench.commit(bench.write(make_disk(data)))
    assert bench.repository.verify().is_clean
    for point in bench.repository.points().points:
        assert bench.read(point) == (b"k" * CHUNK if point.id == kept.id else data)
    assert bench.read(again) == data
