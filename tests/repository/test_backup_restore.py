"""Disks come back byte for byte: full, incremental, resized, discarded, new, shared."""

from __future__ import annotations

import datetime as dt
import random
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repository import (
    DiskNotFound,
    DiskRecord,
    DiskSpec,
    Extent,
    ExtentKind,
    FileSource,
    FileTarget,
    InvalidInput,
    PointDraft,
    PointNotFound,
    Repository,
    RepositoryOptions,
    TransferCounters,
)

KiB = 1024
CHUNK = 64 * KiB
RANDOM = random.Random(20261123)
MakeDisk = Callable[..., Any]


def some_bytes(length: int, chooser: random.Random = RANDOM) -> bytes:
    """Bytes that compress by about a half."""
    return b"".join(chooser.randbytes(64) + bytes(64) for _ in range(length // 128 + 1))[:length]


def layered_disk(chunks: int) -> bytearray:
    """Data, zeros and repeats, with a short last chunk."""
    disk = bytearray(some_bytes(chunks * CHUNK + 777))
    disk[2 * CHUNK : 4 * CHUNK] = bytes(2 * CHUNK)
    disk[5 * CHUNK : 6 * CHUNK] = disk[:CHUNK]
    return disk


def test_full_backup_restores_equal(any_bench: Any, make_disk: MakeDisk) -> None:
    """A disk with data, zeros, repeats and a short end restores equal from every store."""
    disk = make_disk(layered_disk(12))
    point = any_bench.commit(any_bench.write(disk))
    reopened = any_bench.reopened()
    assert reopened.point(point.id) == point
    assert any_bench.read(point) == disk.data


def test_incremental_reads_only_what_it_must(any_bench: Any, make_disk: MakeDisk) -> None:
    """An unaligned change of few bytes reads one chunk, and both points restore equal."""
    disk = make_disk(layered_disk(12))
    first = any_bench.write(disk)
    before = bytes(disk.data)
    disk.data[7 * CHUNK + 5 : 7 * CHUNK + 9] = b"new!"
    disk.read_bytes = 0
    second = any_bench.write(disk, [Extent(7 * CHUNK + 5, 7 * CHUNK + 9)], first)
    assert disk.read_bytes == CHUNK
    assert second.maps[:-1] == first.maps
    assert any_bench.read(any_bench.commit(first)) == before
    assert any_bench.read(any_bench.commit(second)) == disk.data


def test_full_read_against_a_base_is_still_incremental(bench: Any, make_disk: MakeDisk) -> None:
    """B2: reading everything again stores only what differs, and nothing if nothing does."""
    disk = make_disk(layered_disk(12))
    first = bench.write(disk)
    counters = TransferCounters()
    again = bench.write(disk, None, first, counters=counters)
    assert (again.maps, again.root) == (first.maps, first.root)
    assert (counters.new_chunks, counters.stored_bytes) == (0, 0)
    disk.data[:3] = b"abc"
    counters = TransferCounters()
    changed = bench.write(disk, None, first, counters=counters)
    assert counters.new_chunks == 1
    assert bench.read(bench.commit(changed)) == disk.data


def test_counters_add_up(bench: Any, make_disk: MakeDisk) -> None:
    """Every byte read is zero, known or new, and what was stored is what lies in the store."""
    disk = make_disk(layered_disk(12))
    counters = TransferCounters()
    record = bench.write(disk, counters=counters)
    assert counters.read_bytes == disk.size_bytes
    assert counters.read_bytes == counters.zero_bytes + counters.known_bytes + counters.new_bytes
    assert counters.zero_chunks == 2
    assert counters.known_chunks == 1
    packs = [path for path in (Path(bench.url) / "data").rglob("*") if path.is_file()]
    assert counters.stored_bytes == sum(path.stat().st_size for path in packs)
    # The segment is written once the record is made, so its request is counted after it.
    assert record.figures.model_copy(update={"requests": counters.requests}) == counters.figures()


@pytest.mark.parametrize("old_chunks", [3, 4])
@pytest.mark.parametrize("old_tail", [0, 100])
@pytest.mark.parametrize("new_tail", [0, 100, 5000])
@pytest.mark.parametrize("new_chunks", [1, 3, 4, 9])
def test_resized_disks_restore_equal(
    bench: Any, make_disk: MakeDisk, old_chunks: int, old_tail: int, new_chunks: int, new_tail: int
) -> None:
    """A disk that grew or shrank, aligned or not, needs no extents for that and restores equal."""
    old = make_disk(some_bytes(old_chunks * CHUNK + old_tail))
    base = bench.write(old)
    new_size = new_chunks * CHUNK + new_tail
    new = make_disk((bytes(old.data) + some_bytes(new_size))[:new_size])
    record = bench.write(new, [], base)
    assert bench.read(bench.commit(record)) == new.data
    assert bench.read(bench.commit(base)) == old.data


def test_nothing_comes_back_after_shrinking_and_growing(bench: Any, make_disk: MakeDisk) -> None:
    """Data behind a smaller end is gone when the disk grows again."""
    full = bench.write(make_disk(some_bytes(8 * CHUNK)))
    small_disk = make_disk(some_bytes(2 * CHUNK))
    small = bench.write(small_disk, None, full)
    grown_disk = make_disk(bytes(small_disk.data) + bytes(6 * CHUNK))
    zeros = [Extent(2 * CHUNK, 8 * CHUNK, ExtentKind.ZERO)]
    grown = bench.write(grown_disk, zeros, small)
    assert bench.read(bench.commit(grown)) == grown_disk.data


def test_discard_becomes_zeros_without_reading(bench: Any, make_disk: MakeDisk) -> None:
    """Zero extents that cover whole chunks are not read; a disk can shrink to nothing by discard."""
    disk = make_disk(some_bytes(8 * CHUNK + 10))
    base = bench.write(disk)
    emptied = make_disk(8 * CHUNK + 10)
    record = bench.write(emptied, [Extent(0, emptied.size_bytes, ExtentKind.ZERO)], base)
    assert emptied.read_bytes == 0
    point = bench.commit(record)
    assert bench.read(point) == emptied.data
    whole = Extent(0, emptied.size_bytes, ExtentKind.ZERO)
    assert bench.repository.open_disk(point, "disk-1").extents() == [whole]


def test_empty_disk_is_a_disk(bench: Any, make_disk: MakeDisk) -> None:
    """A disk of no bytes can be stored, read and grown."""
    record = bench.write(make_disk(0))
    assert bench.read(bench.commit(record)) == b""
    grown = make_disk(some_bytes(100))
    assert bench.read(bench.commit(bench.write(grown, [], record))) == grown.data


def test_a_disk_over_several_map_windows(bench: Any, make_disk: MakeDisk, tmp_path: Path) -> None:
    """Changes in some windows of a 13 GiB disk leave the digests of the others as they were."""
    size = 13 * KiB**3 + 5000
    path = tmp_path / "image"
    spots = {0: b"first", 5 * KiB**3: b"second window", size - 9: b"the end"}
    with path.open("wb") as file:
        file.truncate(size)
        for offset, text in spots.items():
            file.seek(offset)
            file.write(text)
    with FileSource(path) as source:
        base = bench.write(source, source.extents())
    with path.open("r+b") as file:
        file.seek(9 * KiB**3)
        file.write(b"late")
    with FileSource(path) as source:
        record = bench.write(source, [Extent(9 * KiB**3, 9 * KiB**3 + 4)], base)
    reader = bench.repository.open_disk(bench.commit(record), "disk-1")
    for offset, text in {**spots, 9 * KiB**3: b"late", 7 * KiB**3: bytes(8)}.items():
        piece = memoryview(bytearray(len(text)))
        reader.read_into(offset, piece)
        assert bytes(piece) == text
    data = [extent for extent in reader.extents() if extent.kind is ExtentKind.DATA]
    assert [extent.start_bytes // KiB**3 for extent in data] == [0, 5, 9, 13]


def test_many_incrementals_get_a_new_base(bench: Any, make_disk: MakeDisk) -> None:
    """After eight deltas the map is written whole again, and every point still restores."""
    disk = make_disk(some_bytes(20 * CHUNK))
    record = bench.write(disk)
    states = []
    for number in range(20):
        disk.data[number * CHUNK] ^= 0xFF
        record = bench.write(disk, [Extent(number * CHUNK, number * CHUNK + 1)], record)
        assert len(record.maps) <= 9
        states.append((bench.commit(record), bytes(disk.data)))
    assert 1 in {len(point.disks[0].maps) for point, _ in states}
    assert all(bench.read(point) == data for point, data in states)


def test_disks_and_vms_share_chunks(bench: Any, make_disk: MakeDisk) -> None:
    """A second VM with the same content stores nothing new, in another session too."""
    disk = make_disk(some_bytes(10 * CHUNK))
    bench.write(disk)
    counters = TransferCounters()
    other = bench.write(make_disk(disk.data), disk_id="disk-of-other", counters=counters)
    assert (counters.new_chunks, counters.stored_bytes) == (0, 0)
    assert bench.read(bench.commit(other, vm_id="vm-2"), "disk-of-other") == disk.data


def test_disks_written_in_parallel_through_one_session(bench: Any, make_disk: MakeDisk) -> None:
    """Six threads write disks that share half their chunks; all restore equal."""
    shared = some_bytes(8 * CHUNK)
    disks = {f"disk-{number}": make_disk(shared + some_bytes(8 * CHUNK)) for number in range(6)}
    records: dict[str, DiskRecord] = {}
    with bench.repository.write_session("parallel") as session:

        def write(disk_id: str) -> None:
            records[disk_id] = bench.write(disks[disk_id], disk_id=disk_id, session=session)

        threads = [threading.Thread(target=write, args=(disk_id,)) for disk_id in disks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    point = bench.commit(*records.values())
    assert all(bench.read(point, disk_id) == disk.data for disk_id, disk in disks.items())
    assert bench.repository.verify().is_clean


def test_a_record_travels_between_processes(bench: Any, make_disk: MakeDisk) -> None:
    """A disk record survives JSON, so that transfer and commit can be different machines."""
    disk = make_disk(layered_disk(8))
    record = DiskRecord.model_validate_json(bench.write(disk).model_dump_json())
    assert bench.read(bench.commit(record)) == disk.data


def test_random_reads_equal_the_disk(bench: Any, make_disk: MakeDisk) -> None:
    """Reads at any offset and length, from several threads, give the disk's bytes."""
    disk = make_disk(layered_disk(30))
    reader = bench.repository.open_disk(bench.commit(bench.write(disk)), "disk-1")
    wrong = []

    def read_some(seed: int) -> None:
        chooser = random.Random(seed)
        for _ in range(50):
            start = chooser.randrange(disk.size_bytes)
            piece = memoryview(bytearray(chooser.randrange(disk.size_bytes - start) % (5 * CHUNK)))
            reader.read_into(start, piece)
            if piece != disk.data[start : start + len(piece)]:
                wrong.append(start)

    threads = [threading.Thread(target=read_some, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    with pytest.raises(InvalidInput):
        reader.read_into(disk.size_bytes - 1, memoryview(bytearray(2)))


def test_a_restore_point_is_a_source(bench: Any, make_disk: MakeDisk, tmp_path: Path) -> None:
    """A disk of a restore point can be backed up into another repository, extents and all."""
    disk = make_disk(layered_disk(12))
    reader = bench.repository.open_disk(bench.commit(bench.write(disk)), "disk-1")
    other = type(bench)(str(tmp_path / "other"))
    copy = other.commit(other.write(reader, reader.extents()))
    assert other.read(copy) == disk.data


def test_export_to_a_sparse_file(bench: Any, make_disk: MakeDisk, tmp_path: Path) -> None:
    """A restore to a new file is equal, leaves holes, and refuses a file that exists."""
    disk = make_disk(bytearray(some_bytes(CHUNK)) + bytes(200 * CHUNK) + b"end")
    point = bench.commit(bench.write(disk))
    path = tmp_path / "disk.raw"
    reader = bench.repository.open_disk(point, "disk-1")
    with FileTarget(path, reader.size_bytes) as target:
        reader.restore_to(target, target_is_blank=True)
    assert path.read_bytes() == disk.data
    assert path.stat().st_blocks * 512 < 10 * CHUNK
    with pytest.raises(FileExistsError):
        FileTarget(path, 10)


def test_what_is_asked_for_wrongly_is_refused(bench: Any, make_disk: MakeDisk) -> None:
    """Unknown points and disks, small targets, wrong sizes, foreign bases: typed errors."""
    disk = make_disk(some_bytes(3 * CHUNK))
    record = bench.write(disk)
    point = bench.commit(record)
    with pytest.raises(PointNotFound, match="0123"):
        bench.repository.point("0123")
    with pytest.raises(DiskNotFound, match="its disks: disk-1"):
        bench.repository.open_disk(point, "disk-9")
    with pytest.raises(InvalidInput, match="restore target"):
        bench.repository.open_disk(point, "disk-1").restore_to(make_disk(5), target_is_blank=True)
    with pytest.raises(InvalidInput, match="twice"):
        bench.commit(record, record)
    foreign = record.model_copy(update={"chunk_size_bytes": 2 * CHUNK})
    with pytest.raises(InvalidInput, match="chunks of"):
        bench.write(disk, [], foreign)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_history_restores_equal(data: st.DataObject) -> None:
    """Whatever is written, discarded, resized and rewritten: every point equals the model."""
    chooser = random.Random(data.draw(st.integers(0, 2**32)))
    options = RepositoryOptions(chunk_size_bytes=CHUNK, pack_target_bytes=2 * CHUNK)
    repository = Repository.create(f"memory://{uuid.uuid4().hex}", options=options)
    model, record, history = bytearray(), None, []
    with repository.write_session("history") as session:
        for _ in range(data.draw(st.integers(1, 12))):
            extents = _mutate(model, chooser)
            if record is None and model:
                extents = [Extent(0, len(model))]
            source = _Source(model)
            spec = DiskSpec(disk_id="d", size_bytes=len(model))
            record = session.write_disk(spec, source, extents, record, read_method="test")
            history.append((session.commit(_draft(record)), bytes(model)))
    for point, expected in history:
        piece = memoryview(bytearray(len(expected)))
        repository.open_disk(point, "d").read_into(0, piece)
        assert piece == expected
    assert repository.verify().is_clean


class _Source:
    def __init__(self, data: bytearray) -> None:
        self._data = bytes(data)
        self.size_bytes = len(data)

    def read_into(self, offset_bytes: int, buffer: memoryview) -> None:
        buffer[:] = self._data[offset_bytes : offset_bytes + len(buffer)]


def _draft(record: DiskRecord) -> Any:
    return PointDraft(
        vm_id="v",
        vm_name="v",
        job="j",
        session_id="s",
        session_started_at=dt.datetime.now(dt.UTC),
        created_at=dt.datetime.now(dt.UTC),
        consistency="crash",
        disks=(record,),
    )


def _mutate(model: bytearray, chooser: random.Random) -> list[Extent]:
    """Change the model in place; returns extents that claim at least what changed."""
    size = chooser.choice([len(model), chooser.randrange(6 * CHUNK), chooser.randrange(7) * CHUNK])
    del model[size:]
    model.extend(
        some_bytes(size - len(model), chooser)
        if chooser.random() < 0.5
        else bytes(size - len(model))
    )
    bounds = sorted({chooser.randrange(size + 1) for _ in range(chooser.randrange(8))})
    extents = []
    for start, end in zip(bounds[::2], bounds[1::2], strict=False):
        zero = chooser.random() < 0.4
        model[start:end] = bytes(end - start) if zero else some_bytes(end - start, chooser)
        extents.append(Extent(start, end, ExtentKind.ZERO if zero else ExtentKind.DATA))
    return extents
