"""Does a source, or another map, hold what a disk map says? Compares by chunk id, so nothing is fetched.

Used to catch a change list that lies: chunks that it calls unchanged are read from the source and
their ids compared with the map that the next restore point would inherit them from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import Any

import numpy as np

from repository.extents import Extent, chunk_count
from repository.keys import RepositoryKeys
from repository.maps import WINDOW_CHUNKS, DiskMap
from repository.pipeline import holds_only_zeros
from repository.places import ZERO_ID, Places, differ, in_packs
from repository.ports import DiskSource


def differing_extents(
    disk_map: DiskMap, keys: RepositoryKeys, source: DiskSource, extents: Sequence[Extent]
) -> list[Extent]:
    """The chunks touched by the extents whose bytes in the source are not those of the map.

    One extent per chunk, aligned to chunks; only chunks that lie wholly inside both disks count,
    because the id of a short last chunk depends on where the disk ends.
    """
    shape = disk_map.shape
    whole = min(shape.size_bytes, source.size_bytes) // shape.chunk_size_bytes
    buffer = memoryview(bytearray(shape.chunk_size_bytes))
    windows: dict[int, Places] = {}
    differing = []
    for chunk in _chunks_of(extents, shape.chunk_size_bytes, whole):
        window, row = divmod(chunk, WINDOW_CHUNKS)
        if window not in windows:
            windows = {window: disk_map.window(window)}
        start_bytes = chunk * shape.chunk_size_bytes
        source.read_into(start_bytes, buffer)
        chunk_id = ZERO_ID if holds_only_zeros(buffer) else keys.chunk_id(buffer)
        if windows[window]["id"][row].tobytes() != chunk_id:
            differing.append(Extent(start_bytes, start_bytes + shape.chunk_size_bytes))
    return differing


def changed_chunks(old: DiskMap, new: DiskMap) -> list[Extent]:
    """Runs of whole chunks, inside both disks, that the two maps say different things of.

    Reads no data, and only the windows whose digests differ.
    """
    shape = new.shape
    whole = min(old.shape.size_bytes, shape.size_bytes) // shape.chunk_size_bytes
    extents: list[Extent] = []
    for window in range(chunk_count(whole, WINDOW_CHUNKS)):
        if old.window_digests[window] == new.window_digests[window]:
            continue
        first = window * WINDOW_CHUNKS
        count = min(WINDOW_CHUNKS, whole - first)
        changed = differ(old.window(window)[:count], new.window(window)[:count])
        extents += _runs(np.flatnonzero(changed) + first, shape.chunk_size_bytes)
    return extents


def chunks_in_packs(disk_map: DiskMap, packs: Set[bytes]) -> list[Extent]:
    """Runs of chunks of the disk that lie in one of these packs."""
    shape = disk_map.shape
    extents: list[Extent] = []
    for window in range(shape.window_count):
        there = np.flatnonzero(in_packs(disk_map.window(window), packs))
        extents += _runs(there + window * WINDOW_CHUNKS, shape.chunk_size_bytes)
    if extents and extents[-1].end_bytes > shape.size_bytes:
        extents[-1] = Extent(extents[-1].start_bytes, shape.size_bytes)
    return extents


def _runs(chunks: np.ndarray[Any, Any], chunk_size_bytes: int) -> Iterator[Extent]:
    """Rising chunk numbers as extents, neighbours in one."""
    if not len(chunks):
        return
    for run in np.split(chunks, np.flatnonzero(np.diff(chunks) != 1) + 1):
        first, last = int(run[0]), int(run[-1])
        yield Extent(first * chunk_size_bytes, (last + 1) * chunk_size_bytes)


def _chunks_of(extents: Sequence[Extent], chunk_size_bytes: int, limit: int) -> list[int]:
    """Numbers of the chunks that the extents touch, ascending, each once, below the limit."""
    touched = {
        chunk
        for extent in extents
        for chunk in range(
            extent.start_bytes // chunk_size_bytes, chunk_count(extent.end_bytes, chunk_size_bytes)
        )
    }
    return sorted(chunk for chunk in touched if chunk < limit)
