"""The steps that are measured, each run in a process of its own so that its peak memory is its own.

A step prints one JSON line: wall and CPU seconds, peak memory, and the transfer's figures.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import resource
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from repository import (
    DiskRecord,
    DiskSpec,
    Extent,
    ExtentKind,
    FileSource,
    FileTarget,
    PointDraft,
    Repository,
    RepositoryOptions,
    TransferCounters,
)
from repository.maps import (
    WINDOW_CHUNKS,
    DiskShape,
    LayerWriter,
    root_hash,
    store_layer,
    window_digest,
)
from repository.places import PLACE, Places

MiB = 1024 * 1024
GiB = 1024 * MiB
DISK_ID = "bench-disk"
CHANGED_BYTES_AT_SCALE = 64 * MiB


def measured(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the work returns, with its cost."""
    before, start_s = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    result = work()
    wall_s, after = time.perf_counter() - start_s, resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": wall_s, "cpu_s": cpu_s, "peak_mib": after.ru_maxrss / 1024, **result}


def backup(
    url: str, disk: Path, extents: list[Extent] | None, base_name: str | None, name: str
) -> dict[str, Any]:
    """Back the disk up and commit; without extents, what the file system says is data."""
    counters = TransferCounters()
    with Repository.open(url) as repository, FileSource(disk) as source:
        base = saved_record(url, base_name)
        with repository.write_session(f"bench-{name}") as session:
            record = session.write_disk(
                DiskSpec(disk_id=DISK_ID, size_bytes=source.size_bytes, label="bench"),
                source,
                source.extents() if extents is None else extents,
                base,
                counters=counters,
                read_method="bench",
            )
            point = session.commit(draft(record))
    record_path(url, name).write_text(record.model_dump_json())
    return {"point": point.id, **counters.figures().model_dump()}


def read_and_hash(disk: Path) -> dict[str, Any]:
    """The least that a re-read can cost: the data read into buffers and hashed, on all cores."""
    chunk_bytes, key = 8 * MiB, bytes(32)

    def one(extent: Extent) -> None:
        buffer = memoryview(bytearray(chunk_bytes))
        for start in range(extent.start_bytes, extent.end_bytes, chunk_bytes):
            view = buffer[: min(chunk_bytes, extent.end_bytes - start)]
            source.read_into(start, view)
            for offset in range(0, len(view), MiB):
                blake3(view[offset : offset + MiB], key=key).digest()

    with FileSource(disk) as source, ThreadPoolExecutor(os.cpu_count()) as pool:
        data = [extent for extent in source.extents() if extent.kind is ExtentKind.DATA]
        list(pool.map(one, data))
    return {}


def restore(url: str, point_id: str, path: Path) -> dict[str, Any]:
    """Restore the disk of a point, by its id or `newest`, to a new sparse file."""
    counters = TransferCounters()
    with Repository.open(url) as repository:
        newest = repository.points().newest() if point_id == "newest" else None
        reader = repository.open_disk(newest or repository.point(point_id), DISK_ID)
        with FileTarget(path, reader.size_bytes) as target:
            reader.restore_to(target, target_is_blank=True, counters=counters)
    return counters.figures().model_dump()


def incremental_at_scale(url: str, size_bytes: int) -> dict[str, Any]:
    """An incremental of 64 MiB against a base whose map says that all of this size is data."""
    with Repository.open(url) as repository, repository.write_session("bench-scale") as session:
        record = synthetic_base(repository, size_bytes)
        stride = size_bytes // CHANGED_BYTES_AT_SCALE * MiB
        extents = [Extent(start, start + MiB) for start in range(0, size_bytes, stride)]
        source = _Pattern(size_bytes)
        counters = TransferCounters()

        def work() -> dict[str, Any]:
            session.write_disk(
                DiskSpec(disk_id=DISK_ID, size_bytes=size_bytes, label="bench"),
                source,
                extents,
                record,
                counters=counters,
                read_method="bench",
            )
            return counters.figures().model_dump()

        return measured(work)


def synthetic_base(repository: Repository, size_bytes: int) -> DiskRecord:
    """A stored base map whose chunks all have distinct ids; the packs that it names do not exist."""
    chooser = np.random.default_rng(1)

    def window(number: int, chunk_count: int) -> Places:
        places = np.zeros(chunk_count, dtype=PLACE)
        places["id"] = np.frombuffer(chooser.bytes(32 * len(places)), dtype="V32")
        places["pack"] = np.void(blake3(b"%d" % number).digest()[:16])
        places["offset"] = np.arange(len(places)) % WINDOW_CHUNKS
        places["length"] = chooser.integers(300_000, 700_000, len(places))
        return places

    return store_map(repository, DISK_ID, size_bytes, window)


def store_map(
    repository: Repository, disk_id: str, size_bytes: int, places_of: Callable[[int, int], Places]
) -> DiskRecord:
    """Store a base map; `places_of` gives the rows of a window by its number and count of chunks."""
    shape = DiskShape(size_bytes, repository.options.chunk_size_bytes)
    records = repository._records
    layer, digests = LayerWriter(), []
    for window in range(shape.window_count):
        places = places_of(window, shape.chunks_in_window(window))
        layer.write_window(window, places, np.ones(len(places), dtype=np.bool_))
        digests.append(window_digest(places))
    ref = store_layer(
        repository._store,
        layer,
        disk_id,
        shape,
        digests,
        is_base=True,
        keys=records.keys,
        sealer=records.sealer,
    )
    return DiskRecord(
        disk_id=disk_id,
        label="bench",
        size_bytes=size_bytes,
        chunk_size_bytes=shape.chunk_size_bytes,
        maps=(ref,),
        root=root_hash(shape, digests),
        read_method="bench",
    )


class _Pattern:
    """A disk whose every chunk differs from every other."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes

    def read_into(self, offset_bytes: int, buffer: memoryview) -> None:
        buffer[:] = blake3(offset_bytes.to_bytes(8, "little")).digest(length=len(buffer))


def draft(record: DiskRecord) -> PointDraft:
    return PointDraft(
        vm_id="bench-vm",
        vm_name="bench",
        job="bench",
        session_id=uuid.uuid4().hex,
        session_started_at=dt.datetime.now(dt.UTC),
        created_at=dt.datetime.now(dt.UTC),
        consistency="crash",
        disks=(record,),
    )


def record_path(url: str, name: str) -> Path:
    return Path(url).with_name(f"record-{name}.json")


def saved_record(url: str, name: str | None) -> DiskRecord | None:
    if name is None:
        return None
    return DiskRecord.model_validate_json(record_path(url, name).read_text())


def main(arguments: list[str]) -> None:
    """`create URL LEVEL`, `backup URL DISK EXTENTS BASE NAME`, `read URL DISK`, `restore URL POINT FILE`, `scale URL SIZE`."""
    step, url, *rest = arguments
    if step == "create":
        Repository.create(url, options=RepositoryOptions(compression_level=int(rest[0]))).close()
        result: dict[str, Any] = {}
    elif step == "backup":
        disk, extents_file, base, name = rest
        extents = None
        if extents_file != "-":
            extents = [Extent(*pair) for pair in json.loads(Path(extents_file).read_text())]
        result = measured(
            lambda: backup(url, Path(disk), extents, None if base == "-" else base, name)
        )
    elif step == "read":
        result = measured(lambda: read_and_hash(Path(rest[0])))
    elif step == "restore":
        result = measured(lambda: restore(url, rest[0], Path(rest[1])))
    else:
        result = incremental_at_scale(url, int(rest[0]))
    print(json.dumps(result))
