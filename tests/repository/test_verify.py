"""Verification finds what is wrong, names it, and says whom it concerns."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from repository import (
    DamagedObject,
    Extent,
    FindingKind,
    RepositoryError,
    RestorePoint,
    Stopped,
    VerifyLevel,
    VerifyProgress,
)

CHUNK = 64 * 1024
MakeDisk = Callable[..., Any]


@dataclass
class Filled:
    """A repository with two VMs, three restore points, a report and a live record."""

    bench: Any
    first: RestorePoint
    second: RestorePoint
    other: RestorePoint

    @property
    def root(self) -> Path:
        return Path(self.bench.url)

    def files(self, prefix: str = "") -> list[Path]:
        return sorted(path for path in (self.root / prefix).rglob("*") if path.is_file())

    def key(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


@pytest.fixture
def filled(bench: Any, make_disk: MakeDisk) -> Filled:
    chooser = random.Random(5)
    disk = make_disk(chooser.randbytes(10 * CHUNK) + bytes(2 * CHUNK) + b"x" * 3 * CHUNK + b"end")
    base = bench.write(disk)
    first = bench.commit(base)
    disk.data[CHUNK : CHUNK + 4] = b"new!"
    second = bench.commit(
        bench.write(disk, [Extent(CHUNK, CHUNK + 4)], base), previous_point_id=first.id
    )
    other_disk = make_disk(chooser.randbytes(3 * CHUNK))
    other = bench.commit(bench.write(other_disk, disk_id="disk-9"), vm_id="vm-2", vm_name="db01")
    bench.repository.save_report("session-1", {"result": "ok"})
    bench.repository.live.put("journal", "vm-1", {"made": ["recovery point"]})
    return Filled(bench, first, second, other)


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def concerned_points(findings: Any) -> set[str]:
    return {part.point_id for finding in findings for part in finding.concerned}


@pytest.mark.parametrize("level", list(VerifyLevel))
def test_a_sound_repository_is_clean(filled: Filled, level: VerifyLevel) -> None:
    """No finding at any level, and the counts say what was looked at."""
    report = filled.bench.repository.verify(level)
    assert report.is_clean
    assert (report.points_checked, report.disks_checked) == (3, 3)
    assert (report.bytes_checked > 0) == (level >= VerifyLevel.STORED)
    assert (report.chunks_checked > 0) == (level >= VerifyLevel.CONTENT)


@pytest.mark.parametrize("kind", ["data", "index", "maps", "points", "reports", "live"])
def test_one_flipped_bit_is_found_and_named(filled: Filled, kind: str) -> None:
    """In every kind of object a flipped bit gives a finding under the object's own name."""
    chooser = random.Random(kind)
    for path in filled.files(kind):
        sound = path.read_bytes()
        for _ in range(6):
            bit = chooser.randrange(len(sound) * 8)
            flip(path, bit)
            report = filled.bench.repository.verify()
            assert filled.key(path) in {finding.key for finding in report.findings}, bit
            path.write_bytes(sound)
    assert filled.bench.repository.verify().is_clean


def test_the_concerned_are_named(filled: Filled) -> None:
    """A bad pack or map names the restore points that need it, and no others."""
    base_map = filled.root / filled.first.disks[0].maps[0].key
    delta_map = filled.root / filled.second.disks[0].maps[1].key
    other_map = filled.root / filled.other.disks[0].maps[0].key
    expected = {
        base_map: {filled.first.id, filled.second.id},
        delta_map: {filled.second.id},
        other_map: {filled.other.id},
    }
    for path, points in expected.items():
        flip(path, 999)
        report = filled.bench.repository.verify(VerifyLevel.RECORDS)
        assert concerned_points(report.findings) == points
        flip(path, 999)


def test_byte_ranges_are_those_that_do_not_restore(filled: Filled) -> None:
    """For a bit flipped in one chunk's payload, the extents are that chunk's, in every point."""
    place = _places(filled, filled.first)[3]
    path = filled.root / "data" / place["pack"].tobytes().hex()[:2] / place["pack"].tobytes().hex()
    flip(path, (int(place["offset"]) + 1000) * 8)
    (finding,) = filled.bench.repository.verify().findings
    assert finding.kind is FindingKind.DAMAGED
    assert {(part.point_id, part.disk_id, part.extents) for part in finding.concerned} == {
        (point.id, "disk-1", (Extent(3 * CHUNK, 4 * CHUNK),))
        for point in (filled.first, filled.second)
    }
    with pytest.raises(DamagedObject, match=filled.key(path)):
        filled.bench.read(filled.second)
    reader = filled.bench.repository.open_disk(filled.second, "disk-1")
    reader.read_into(4 * CHUNK, memoryview(bytearray(CHUNK)))  # the rest still reads


def test_damage_outside_chunks_says_that_all_still_reads(filled: Filled) -> None:
    """A bit flipped in a pack's table is found, and said to cost no chunk."""
    path = max(filled.files("data"), key=lambda path: path.stat().st_size)
    flip(path, (path.stat().st_size - 100) * 8)
    (finding,) = filled.bench.repository.verify().findings
    assert "every chunk that a restore point needs still reads" in finding.detail
    assert finding.concerned
    assert filled.bench.read(filled.first)


def test_missing_and_truncated_packs_are_found_by_listing(filled: Filled) -> None:
    """Level PRESENCE tells a missing pack and one of the wrong size, without reading any."""
    gone, short = filled.files("data")[:2]
    gone.unlink()
    short.write_bytes(short.read_bytes()[:-1])
    report = filled.bench.repository.verify(VerifyLevel.PRESENCE)
    assert {(finding.key, finding.kind) for finding in report.findings} == {
        (filled.key(gone), FindingKind.MISSING),
        (filled.key(short), FindingKind.WRONG_SIZE),
    }
    assert report.bytes_checked == 0
    assert all(finding.concerned for finding in report.findings)


def test_a_missing_map_is_found(filled: Filled) -> None:
    """A map that is gone names the restore point that cannot do without it."""
    path = filled.root / filled.other.disks[0].maps[0].key
    path.unlink()
    (finding,) = filled.bench.repository.verify(VerifyLevel.RECORDS).findings
    assert (finding.key, finding.kind) == (filled.key(path), FindingKind.MISSING)
    assert concerned_points([finding]) == {filled.other.id}


def test_an_exchanged_object_is_found(filled: Filled) -> None:
    """A sound object under another's name is damage too."""
    for prefix in ("data", "points/vm-1"):
        left, right = filled.files(prefix)[:2]
        sound = left.read_bytes()
        left.write_bytes(right.read_bytes())
        assert filled.key(left) in {f.key for f in filled.bench.repository.verify().findings}
        left.write_bytes(sound)


def test_a_map_that_points_wrong_is_found(filled: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a chunk is not where a sound map says, level CONTENT tells which bytes are lost."""
    disk = filled.bench.repository.open_disk(filled.other, "disk-9")
    wrong = disk._window(0).copy()
    wrong["offset"][1] += 1
    monkeypatch.setattr("repository.maps.DiskMap.window", lambda _map, _number: wrong)
    report = filled.bench.repository.verify(points=[filled.other])
    (finding,) = report.findings
    assert finding.kind is FindingKind.WRONG_CONTENT
    assert finding.concerned[0].extents == (Extent(CHUNK, 2 * CHUNK),)


def test_chosen_points_are_checked_alone(filled: Filled) -> None:
    """Damage elsewhere does not show when only one restore point is asked for."""
    path = filled.root / filled.other.disks[0].maps[0].key
    flip(path, 77)
    repository = filled.bench.repository
    assert repository.verify(points=[filled.first, filled.second]).is_clean
    assert not repository.verify(points=[filled.other]).is_clean


def test_one_bad_record_hides_no_other(filled: Filled) -> None:
    """With one commit record damaged, the others are listed and restored."""
    path = filled.root / filled.first.key
    flip(path, 500)
    listing = filled.bench.reopened().points()
    assert [point.id for point in listing.points] == [filled.second.id, filled.other.id]
    assert [damaged.key for damaged in listing.damaged] == [filled.first.key]
    assert filled.bench.read(filled.second)


def test_damaged_repository_file_says_so(filled: Filled) -> None:
    """Each bit of `repo.json` counts: opening says that it is damaged."""
    path = filled.root / "repo.json"
    sound = path.read_bytes()
    for bit in random.Random(1).sample(range(len(sound) * 8), 200):
        flip(path, bit)
        with pytest.raises(DamagedObject, match=r"repo\.json"):
            filled.bench.reopened()
        path.write_bytes(sound)


def test_progress_is_reported_and_stop_stops(filled: Filled) -> None:
    """Progress ends at everything; a stop event ends the run with Stopped."""
    seen: list[VerifyProgress] = []
    filled.bench.repository.verify(on_progress=seen.append)
    assert seen[-1].objects_done == seen[-1].objects_total == len(filled.files("data"))
    assert seen[-1].bytes_done == seen[-1].bytes_total
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        filled.bench.repository.verify(stop=stop)


@pytest.mark.long
def test_ten_thousand_flips(filled: Filled, count: Callable[[str, int], None]) -> None:
    """Every one of 10,000 random flipped bits, in any object, is found by verify or by opening."""
    chooser = random.Random(10_000)
    files = filled.files()
    sizes = [path.stat().st_size for path in files]
    for _ in range(10_000):
        path = chooser.choices(files, [size + 1000 for size in sizes])[0]
        bit = chooser.randrange(path.stat().st_size * 8)
        flip(path, bit)
        try:
            found = {
                finding.key for finding in filled.bench.reopened().verify(remembers=False).findings
            }
        except RepositoryError as error:
            found = {getattr(error, "key", "")}
        assert filled.key(path) in found, (path, bit)
        flip(path, bit)
    count("bits flipped in a plain repository, all found", 10_000)


def _places(filled: Filled, point: RestorePoint) -> Any:
    return filled.bench.repository.open_disk(point, "disk-1")._window(0)
