"""Forgetting, bringing back, holding: nothing is deleted, and doubt keeps."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repository import DamagedObject, Extent, PointHeld, PointInUse, Repository
from repository.leases import open_leases
from repository.marks import TOMB_MARKS, Marks
from repository.units import SystemClock
from tests.repository.fault_store import Died

CHUNK = 64 * 1024
MakeDisk = Callable[..., Any]


def noise(chunks: int, seed: int = 3) -> bytes:
    return random.Random(seed).randbytes(chunks * CHUNK)


def ids(points: Any) -> list[str]:
    return [point.id for point in points]


def test_forgetting_hides_and_undelete_brings_back(any_bench: Any, make_disk: MakeDisk) -> None:
    """A forgotten point leaves the listing, keeps its bytes, and comes back as it was."""
    repository = any_bench.repository
    first = any_bench.commit(any_bench.write(make_disk(noise(4))))
    second = any_bench.commit(any_bench.write(make_disk(noise(4, seed=4))))
    repository.forget(first, "too old")
    assert ids(repository.points().points) == [second.id]
    assert ids(any_bench.reopened().points("vm-1").points) == [second.id]
    (forgotten,) = repository.forgotten()
    assert (forgotten.point.id, forgotten.reason) == (first.id, "too old")
    assert any_bench.read(repository.point(first.id)) == noise(4)
    repository.undelete(first)
    assert ids(repository.points().points) == [first.id, second.id]
    assert repository.forgotten() == []
    repository.forget(first, "again")
    assert ids(repository.points().points) == [second.id]
    assert repository.verify().is_clean


def test_marking_twice_writes_once(bench: Any, make_disk: MakeDisk) -> None:
    """A state that holds already needs no object; neither does undoing what was never done."""
    point = bench.commit(bench.write(make_disk(noise(1))))
    bench.repository.undelete(point)
    bench.repository.release(point)
    bench.repository.forget(point)
    bench.repository.forget(point)
    marks = [path for path in Path(bench.url).rglob("*.json") if point.id in str(path.parent)]
    assert len(marks) == 1


def test_of_two_marks_at_once_the_keeping_one_wins(bench: Any, make_disk: MakeDisk) -> None:
    """Two hosts that write the same number: the point is kept, whichever came last."""
    point = bench.commit(bench.write(make_disk(noise(1))))
    bench.repository.forget(point)
    folder = Path(bench.url) / "tomb" / "vm-1" / point.id
    (mark,) = folder.iterdir()
    for twin in ("000001-restored-" + "0" * 32, "000001-restored-" + "f" * 32):
        path = folder / f"{twin}.json"
        path.write_bytes(mark.read_bytes())
        assert ids(bench.repository.points().points) == [point.id]
        path.unlink()
    assert bench.repository.points().points == []


def test_a_held_point_is_not_forgotten(bench: Any, make_disk: MakeDisk) -> None:
    """Forgetting names the reason of the hold; after the release it works."""
    point = bench.commit(bench.write(make_disk(noise(1))))
    bench.repository.hold(point, "audit 2026")
    assert bench.reopened().holds() == {point.id: "audit 2026"}
    with pytest.raises(PointHeld, match="audit 2026"):
        bench.repository.forget(point)
    bench.repository.release(point)
    assert bench.repository.holds() == {}
    bench.repository.forget(point)
    assert bench.repository.points().points == []


def test_the_base_of_a_running_session_is_not_forgotten(bench: Any, make_disk: MakeDisk) -> None:
    """While a session builds on a point, forgetting waits; other points are free to go."""
    base = bench.commit(bench.write(make_disk(noise(4))))
    other = bench.commit(bench.write(make_disk(noise(4, seed=4))))
    with bench.repository.write_session("incremental") as session:
        bench.write(make_disk(noise(4)), [Extent(0, 1)], base.disks[0], session=session)
        with pytest.raises(PointInUse, match="incremental"):
            bench.repository.forget(base)
        bench.repository.forget(other)
    bench.repository.forget(base)
    assert bench.repository.points().points == []


def test_leases_end_with_their_sessions(bench: Any) -> None:
    """A lease lives as long as its session; a damaged one counts as running, one of 25 h does not."""
    repository = bench.repository
    now = SystemClock().now()
    with repository.write_session("one"):
        (lease,) = open_leases(repository.live, now)
        assert lease.session_id == "one"
    assert open_leases(repository.live, now) == []
    old = {"session_id": "x", "alive_at": "2020-01-01T00:00:00+00:00", "gc_generation": 0}
    repository.live.put("leases", "old", {**old, "bases": []})
    repository.live.put("leases", "strange", old)
    assert [lease.session_id for lease in open_leases(repository.live, now)] == [""]


def test_a_damaged_mark_is_told(bench: Any, make_disk: MakeDisk) -> None:
    """What the record says must be what its name says; the listing still works from names."""
    point = bench.commit(bench.write(make_disk(noise(1))))
    bench.repository.forget(point)
    (path,) = (Path(bench.url) / "tomb" / "vm-1" / point.id).iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    marks = Marks(bench.repository._store, bench.repository._records, TOMB_MARKS)
    with pytest.raises(DamagedObject):
        marks.read(marks.newest()[point.id])
    assert bench.repository.points().points == []
    assert path.name in str([finding.key for finding in bench.repository.verify().findings])


@pytest.mark.parametrize("after", [False, True])
def test_forgetting_may_die_anywhere(faulty: Any, make_disk: MakeDisk, after: bool) -> None:
    """Killed before or after any operation, the point is forgotten or not, and always whole."""
    bench, store = faulty
    point = bench.commit(bench.write(make_disk(noise(2))))
    for operation in range(1, 50):
        store.die_at(operation, after=after)
        try:
            bench.repository.forget(point)
            bench.repository.undelete(point)
            break
        except Died:
            pass
        finally:
            store.live_again()
        repository = Repository.open(bench.url)
        assert repository.verify().is_clean
        assert bench.read(repository.point(point.id)) == noise(2)
        bench.repository.undelete(point)
    else:
        pytest.fail("it never came to an end")
    assert operation > 5
