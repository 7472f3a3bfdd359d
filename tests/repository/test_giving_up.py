"""An operator's way past what cannot be read: said by name, seen before, and nothing else touched."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repository import (
    CollectionRefused,
    CollectSettings,
    CollectStage,
    InvalidInput,
    PointHeld,
    PointNotFound,
    RestorePoint,
)

CHUNK = 64 * 1024
MakeDisk = Callable[..., Any]
AT_ONCE = CollectSettings(grace_hours=0)
"""Forgotten points can still be brought back for a week."""


def noise(seed: int) -> bytes:
    return random.Random(seed).randbytes(4 * CHUNK)


@pytest.fixture
def chain(bench: Any, make_disk: MakeDisk) -> list[RestorePoint]:
    """Three points of one VM, each other data, each naming the one before."""
    points: list[RestorePoint] = []
    for seed in range(3):
        previous = points[-1].id if points else None
        points.append(bench.commit(bench.write(make_disk(noise(seed))), previous_point_id=previous))
    return points


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def how_damaged(bench: Any, point: RestorePoint, how: str) -> str:
    """Damage the point; returns what the refusal of collection says to give up."""
    record = Path(bench.url, point.key)
    if how == "record":
        tear(record)
        return point.key
    if how == "record gone":
        record.unlink()
    else:
        tear(Path(bench.url, point.disks[0].maps[-1].key))
    return point.id


@pytest.mark.parametrize("how", ["record", "record gone", "map"])
def test_collection_goes_on_once_the_point_is_given_up(
    bench: Any, make_disk: MakeDisk, chain: list[RestorePoint], how: str
) -> None:
    """Refused with the command's argument in the message; then a dry run tells and changes nothing; then it goes, alone."""
    forgotten = bench.commit(bench.write(make_disk(noise(9))), vm_id="vm-2")
    name = how_damaged(bench, chain[1], how)
    bench.repository = bench.reopened()
    bench.repository.forget(forgotten)
    with pytest.raises(CollectionRefused, match=f"ahvault give-up {name}`"):
        bench.repository.collect(AT_ONCE)
    before = sorted(Path(bench.url).rglob("*"))
    report = bench.repository.give_up([name])
    assert sorted(Path(bench.url).rglob("*")) == before
    (lost,) = report.lost
    assert (lost.point_id, lost.vm_id) == (chain[1].id, "vm-1")
    assert lost.later_points == (chain[2].id,)
    assert report.refusal == ""
    assert report.collection is not None
    assert report.collection.freed_bytes > 3 * CHUNK
    assert report.collection.points == (() if how == "record gone" else (chain[1].id,))

    bench.repository.give_up([name], "the disk under it died", dry_run=False)
    assert bench.repository.collect(AT_ONCE).stage is CollectStage.SWEPT
    assert bench.repository.collect(AT_ONCE).stage in (CollectStage.NOTHING, CollectStage.SWEPT)
    bench.repository = bench.reopened()
    assert not Path(bench.url, chain[1].key).exists()
    assert [point.id for point in bench.repository.points().points] == [chain[0].id, chain[2].id]
    assert bench.repository.verify().is_clean
    for seed in (0, 2):
        assert bench.read(chain[seed]) == noise(seed)
    bench.repository.undelete(forgotten)
    assert bench.read(forgotten) == noise(9)


def test_the_word_can_be_taken_back(bench: Any, chain: list[RestorePoint]) -> None:
    """The record was mended before collection took it: undelete brings the point back whole."""
    record = Path(bench.url, chain[1].key)
    good = record.read_bytes()
    tear(record)
    bench.repository = bench.reopened()
    bench.repository.give_up([chain[1].id], dry_run=False)
    assert bench.repository.verify().is_clean  # acknowledged, so no news any more
    record.write_bytes(good)
    bench.repository = bench.reopened()
    (found,) = bench.repository.forgotten()
    bench.repository.undelete(found.point)
    assert bench.repository.collect(AT_ONCE).stage is CollectStage.NOTHING
    assert bench.read(chain[1]) == noise(1)


def test_what_is_whole_is_not_given_up(bench: Any, chain: list[RestorePoint]) -> None:
    """InvalidInput names the command to use; an unknown or a held point is refused as such."""
    with pytest.raises(InvalidInput, match="ahvault forget"):
        bench.repository.give_up([chain[0].id], dry_run=False)
    with pytest.raises(PointNotFound):
        bench.repository.give_up(["0" * 32])
    bench.repository.hold(chain[0], "audit")
    tear(Path(bench.url, chain[0].key))
    bench.repository = bench.reopened()
    with pytest.raises(PointHeld):
        bench.repository.give_up([chain[0].id])


def test_one_refusal_at_a_time(bench: Any, chain: list[RestorePoint]) -> None:
    """With a second damaged point the outlook says why collection is still refused; named both, it is not."""
    for point in chain[:2]:
        tear(Path(bench.url, point.key))
    bench.repository = bench.reopened()
    alone = bench.repository.give_up([chain[0].id])
    assert alone.collection is None
    assert chain[1].key in alone.refusal
    assert bench.repository.give_up([point.id for point in chain[:2]]).collection is not None


def test_a_damaged_forgotten_record_hides_no_other(bench: Any, chain: list[RestorePoint]) -> None:
    """The list of what can be brought back leaves it out."""
    for point in chain[:2]:
        bench.repository.forget(point)
    tear(Path(bench.url, chain[0].key))
    assert [each.point.id for each in bench.reopened().forgotten()] == [chain[1].id]
