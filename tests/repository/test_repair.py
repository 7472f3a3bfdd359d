"""Repair saves what is good, relies on nothing bad, deletes nothing, and lets backups heal."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repository import (
    CollectSettings,
    CollectStage,
    DamagedObject,
    Extent,
    FindingKind,
    InvalidInput,
    RestorePoint,
    StoreDenied,
    VerifyLevel,
)
from repository.quarantine import quarantine
from tests.repository.fault_store import Died

CHUNK = 64 * 1024
MakeDisk = Callable[..., Any]


def files(bench: Any, prefix: str) -> list[Path]:
    return sorted(path for path in Path(bench.url, prefix).rglob("*") if path.is_file())


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def place_of(bench: Any, point: RestorePoint, chunk: int) -> tuple[Path, int]:
    """The pack file that a chunk of the first disk lies in, and where."""
    place = bench.repository.open_disk(point, point.disks[0].disk_id)._window(0)[chunk]
    name = place["pack"].tobytes().hex()
    return Path(bench.url, "data", name[:2], name), int(place["offset"])


def spoil(bench: Any, point: RestorePoint, chunk: int) -> Path:
    """Flip a bit in the payload of one chunk."""
    path, offset = place_of(bench, point, chunk)
    flip(path, offset + 100)
    return path


@pytest.fixture(params=["bench", "encrypted_bench"])
def filled(request: pytest.FixtureRequest, make_disk: MakeDisk) -> Any:
    """A repository, a disk of noise and its restore point."""
    bench = request.getfixturevalue(request.param)
    disk = make_disk(random.Random(3).randbytes(10 * CHUNK))
    return bench, disk, bench.commit(bench.write(disk))


def test_the_good_chunks_of_a_bad_pack_are_saved(filled: Any) -> None:
    """After repair only the spoiled chunk is still a finding; all others read from new packs."""
    bench, disk, point = filled
    path = spoil(bench, point, 1)
    damaged = path.read_bytes()
    report = bench.repository.repair()
    assert report.packs_quarantined == (path.relative_to(bench.url).as_posix(),)
    assert report.chunks_saved > 0
    assert path.read_bytes() == damaged
    found = bench.repository.verify().findings
    ranges = [extent for finding in found for part in finding.concerned for extent in part.extents]
    assert ranges == [Extent(CHUNK, 2 * CHUNK)]
    path.unlink()  # nothing but the one chunk needs the bad pack any more
    reader = bench.reopened().open_disk(point, "disk-1")
    content = bytearray(8 * CHUNK)
    reader.read_into(2 * CHUNK, memoryview(content))
    assert content == disk.data[2 * CHUNK :]


@pytest.mark.parametrize("with_base", [True, False])
def test_the_next_backup_that_reads_the_chunk_heals_it(filled: Any, with_base: bool) -> None:
    """Reading the same bytes again makes the old restore point whole, also against its base."""
    bench, disk, point = filled
    spoil(bench, point, 4)
    bench.repository.repair()
    with pytest.raises(DamagedObject):
        bench.read(point)
    base = point.disks[0] if with_base else None
    newer = bench.commit(bench.write(disk, base=base), vm_id="vm-1")
    repository = bench.repository = bench.reopened()
    assert repository.verify().is_clean
    assert bench.read(point) == disk.data
    assert bench.read(newer) == disk.data


@pytest.mark.parametrize("how", ["flipped", "torn"])
@pytest.mark.parametrize("by", ["itself", "another process"])
def test_an_open_handle_reads_what_was_mended_meanwhile(filled: Any, how: str, by: str) -> None:
    """Repair and a backup make the point whole; who had the repository open all along sees it."""
    bench, disk, point = filled
    assert bench.read(point) == disk.data  # what it knows of chunks it knows from here on
    open_all_along = bench.repository
    path, offset = place_of(bench, point, 4)
    if how == "flipped":
        flip(path, offset + 100)
    else:
        path.write_bytes(path.read_bytes()[: offset + 100])
    bench.repository = open_all_along if by == "itself" else bench.reopened()
    bench.repository.repair()
    for reads in (open_all_along, bench.repository):
        with pytest.raises(DamagedObject):
            reads.open_disk(point, "disk-1").read_into(0, memoryview(bytearray(10 * CHUNK)))
    bench.commit(bench.write(disk))
    bench.repository = open_all_along
    assert bench.read(point) == disk.data
    content = bytearray(disk.size_bytes)
    open_all_along.open_disk(point, "disk-1").read_into(0, memoryview(content))
    assert content == disk.data


def test_a_missing_pack_is_never_deduplicated_against(filled: Any) -> None:
    """After repair a full backup stores what the missing pack held, and everything is whole."""
    bench, disk, point = filled
    path, _ = place_of(bench, point, 0)
    path.unlink()
    report = bench.repository.repair()
    assert [finding.kind for finding in report.findings] == [FindingKind.MISSING]
    bench.commit(bench.write(disk))
    bench.repository = bench.reopened()
    assert bench.repository.verify().is_clean
    assert bench.read(point) == disk.data


@pytest.mark.parametrize("how", ["damaged", "missing"])
def test_the_index_is_made_again_from_the_packs(filled: Any, how: str) -> None:
    """With its segments bad or gone the repository deduplicates again after repair, and is clean."""
    bench, disk, _ = filled
    for path in files(bench, "index"):
        flip(path, 50) if how == "damaged" else path.unlink()
    packs = files(bench, "data")
    report = bench.repository.repair()
    assert report.packs_indexed == len(packs)
    assert len(report.segments_quarantined) == (1 if how == "damaged" else 0)
    bench.commit(bench.write(disk))
    assert files(bench, "data") == packs
    bench.repository = bench.reopened()
    assert bench.repository.verify().is_clean


def test_a_torn_pack_gives_what_it_holds(filled: Any) -> None:
    """A pack cut in the middle, without table and footer, still gives its whole chunks."""
    bench, _, point = filled
    path, _ = place_of(bench, point, 0)
    path.write_bytes(path.read_bytes()[: int(2.5 * CHUNK)])
    report = bench.repository.repair()
    assert report.chunks_saved == 2
    reader = bench.reopened().open_disk(point, "disk-1")
    reader.read_into(0, memoryview(bytearray(2 * CHUNK)))


def test_a_dry_run_changes_nothing(filled: Any) -> None:
    """It says the same as the real run and writes no object."""
    bench, _, point = filled
    spoil(bench, point, 1)
    flip(files(bench, "index")[0], 50)
    before = files(bench, "")
    planned = bench.repository.repair(dry_run=True)
    assert files(bench, "") == before
    done = bench.repository.repair()
    assert done.packs_quarantined == planned.packs_quarantined
    assert done.chunks_saved == planned.chunks_saved
    after = files(bench, "quarantine")
    assert bench.repository.repair().packs_indexed == 0
    assert files(bench, "quarantine") == after


def test_a_sound_repository_is_left_alone(filled: Any) -> None:
    """Nothing to repair: no object is written but what the verification notes in its ledger."""
    bench, _, _ = filled
    before = files(bench, "")
    report = bench.repository.repair()
    assert (report.findings, report.packs_quarantined, report.packs_indexed) == ((), (), 0)
    assert set(files(bench, "")) - set(before) == set(files(bench, "ledger"))


def test_collection_takes_nothing_under_quarantine_until_told(filled: Any) -> None:
    """Healed and needed by nobody, it stays and is reported; released, it goes, and nothing else."""
    bench, disk, point = filled
    path = spoil(bench, point, 1)
    bad_segment = files(bench, "index")[0]
    flip(bad_segment, 50)
    bench.repository.repair()
    bench.commit(bench.write(disk))
    bench.repository = bench.reopened()
    at_once = CollectSettings(undelete_hours=0, grace_hours=0)
    report = bench.repository.collect(at_once)
    assert report.quarantined_objects == 2
    assert report.quarantined_bytes == path.stat().st_size + bad_segment.stat().st_size
    assert bad_segment.exists()
    released = at_once.model_copy(update={"discard_quarantined": True})
    assert bench.repository.collect(released).stage is CollectStage.SWEPT
    assert not path.exists()
    assert not bad_segment.exists()
    bench.repository = bench.reopened()
    assert bench.repository.verify(VerifyLevel.CONTENT).is_clean
    assert bench.read(point) == disk.data


def test_repair_is_refused_while_objects_are_deleted(faulty: Any, make_disk: MakeDisk) -> None:
    """After a sweep was decided and before it is done; then it is let in."""
    bench, store = faulty
    bench.repository.forget(bench.commit(bench.write(make_disk(CHUNK * 2 * b"x"))))

    def deny(operation: str, key: str) -> None:
        if operation == "delete" and key.startswith("data/"):
            raise StoreDenied(operation, key, "retention")

    store.plan = deny
    at_once = CollectSettings(undelete_hours=0, grace_hours=0)
    assert bench.repository.collect(at_once).stage is CollectStage.INCOMPLETE
    with pytest.raises(InvalidInput, match="collect"):
        bench.repository.repair()
    store.plan = lambda _operation, _key: None
    assert bench.repository.collect(at_once).stage is CollectStage.SWEPT
    assert bench.repository.repair().findings == ()


def test_what_is_needed_goes_not_even_when_told(filled: Any) -> None:
    """A bad pack that still gives the only copy of good chunks is no garbage, released or not."""
    bench, _, point = filled
    path = spoil(bench, point, 1)
    bench.repository.repair()
    settings = CollectSettings(undelete_hours=0, grace_hours=0, discard_quarantined=True)
    bench.repository.collect(settings)
    assert path.exists()  # its lost chunk is still what the point needs
    assert bench.repository.collect(settings).quarantined_objects == 0


def test_what_is_put_under_quarantine_after_the_plan_is_not_swept(
    faulty: Any, make_disk: MakeDisk
) -> None:
    """Condemned first, quarantined later: the sweep leaves it, whoever put it there."""
    bench, _ = faulty
    bench.repository.forget(bench.commit(bench.write(make_disk(CHUNK * 2 * b"x"))))
    bench.commit(bench.write(make_disk(CHUNK * 2 * b"y"), disk_id="disk-2"), vm_id="vm-2")
    (condemned, *_), kept = files(bench, "data"), bench.repository
    kept.collect(CollectSettings(undelete_hours=0))
    for path in files(bench, "data"):
        key = path.relative_to(bench.url).as_posix()
        quarantine(kept._store, kept._records, key, {"at": "", "finding": "", "detail": ""})
    clock_ahead = CollectSettings(undelete_hours=0, grace_hours=0)
    assert kept.collect(clock_ahead).stage is CollectStage.SWEPT
    assert condemned.exists()


@pytest.mark.parametrize("step", [17, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("after", [False, True])
def test_a_dead_repair_leaves_nothing_in_the_way(
    faulty: Any, make_disk: MakeDisk, count: Callable[[str, int], None], step: int, after: bool
) -> None:
    """Killed before or after each of its operations, nothing more is lost, and the next run ends the work."""
    bench, store = faulty
    point = bench.commit(bench.write(make_disk(random.Random(3).randbytes(10 * CHUNK))))
    spoil(bench, point, 1)
    root, kept = Path(bench.url), Path(f"{bench.url}-kept")
    shutil.copytree(root, kept)
    for number in range(1, 400, step):
        shutil.rmtree(root)
        shutil.copytree(kept, root)
        store.die_at(number, after=after)
        try:
            bench.repository.repair()
        except Died:
            store.live_again()
            assert lost_of(bench, point) == {Extent(CHUNK, 2 * CHUNK)}
            bench.repository.repair()
            assert lost_of(bench, point) == {Extent(CHUNK, 2 * CHUNK)}
            continue
        assert number > 20
        count("crash points of repair", number // step)
        return
    pytest.fail("it never came to an end")


def lost_of(bench: Any, point: RestorePoint) -> set[Extent]:
    """What verification says is lost of a point."""
    return {
        extent
        for finding in bench.repository.verify().findings
        for part in finding.concerned
        for extent in part.extents
        if part.point_id == point.id
    }


@pytest.mark.parametrize("how", ["spoiled", "missing"])
def test_what_cannot_be_read_is_zeros_and_told_if_that_is_allowed(
    filled: Any, make_disk: MakeDisk, how: str
) -> None:
    """Every chunk that reads is restored; the extents told are exactly those that are not."""
    bench, disk, point = filled
    if how == "spoiled":
        spoil(bench, point, 1)
        lost = {1}
    else:
        path, _ = place_of(bench, point, 1)
        lost = {chunk for chunk in range(10) if place_of(bench, point, chunk)[0] == path}
        path.unlink()
    target = make_disk(b"\xaa" * disk.size_bytes)
    told: list[Extent] = []
    reader = bench.repository.open_disk(point, "disk-1")
    reader.restore_to(target, target_is_blank=False, on_damage=told.append)
    expected = bytearray(disk.data)
    for chunk in lost:
        expected[chunk * CHUNK : (chunk + 1) * CHUNK] = bytes(CHUNK)
    assert target.data == expected
    assert {extent.start_bytes // CHUNK for extent in told} == lost


@pytest.mark.parametrize(
    "kind", ["data", "index", "maps", "points", "reports", "live", "tomb", "holds", "quarantine"]
)
def test_one_damaged_object_stops_nothing_else(bench: Any, make_disk: MakeDisk, kind: str) -> None:
    """Whatever object of one VM is bad, the other VM is listed, backed up, restored and verified."""
    mine = bench.commit(bench.write(make_disk(b"m" * 3 * CHUNK), disk_id="disk-m"), vm_id="vm-m")
    held = bench.commit(bench.write(make_disk(b"h" * 3 * CHUNK), disk_id="disk-m"), vm_id="vm-m")
    bench.repository.hold(held, "kept")
    bench.repository.forget(mine)
    bench.repository.save_report("session-m", {"result": "ok"})
    bench.repository.live.put("journal", "vm-m", {"made": []})
    spoil(bench, held, 0)
    if kind == "quarantine":
        bench.repository.repair()
    victims = files(bench, kind)
    assert victims
    for path in victims:
        path.write_bytes(path.read_bytes()[:-9])
    bench.repository = bench.reopened()
    disk = make_disk(random.Random(9).randbytes(3 * CHUNK))
    point = bench.commit(bench.write(disk), vm_id="vm-other")
    assert point.id in {found.id for found in bench.repository.points().points}
    assert bench.read(point) == disk.data
    findings = bench.repository.verify().findings
    assert {path.relative_to(bench.url).as_posix() for path in victims} <= {
        finding.key for finding in findings
    }
    assert point.id not in {part.point_id for found in findings for part in found.concerned}
