"""Where chunks lie, as arrays: one row per chunk, the same in maps, segments and the index.

A row says id, pack, and the range of the pack that holds the chunk's header and payload. A zero
chunk is a row of zeros: it has no id, no pack and length 0.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

ID_BYTES = 32
PACK_ID_BYTES = 16

PLACE = np.dtype([("id", "V32"), ("pack", "V16"), ("offset", "<u4"), ("length", "<u4")])
ZERO_ID = bytes(ID_BYTES)

Places: TypeAlias = np.ndarray[Any, np.dtype[np.void]]
"""An array of PLACE rows."""

Mask: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]
"""An array of bool, one per row of an array of places."""


def fixed_binary(values: np.ndarray[Any, Any]) -> pa.Array:
    """A column of void values as Arrow fixed-size binary."""
    width = values.dtype.itemsize
    data = pa.py_buffer(np.ascontiguousarray(values).tobytes())
    return pa.Array.from_buffers(pa.binary(width), len(values), [None, data])


def void_column(column: pa.ChunkedArray, width: int) -> np.ndarray[Any, Any]:
    """An Arrow fixed-size binary column, without nulls, as void values."""
    parts = []
    for array in column.chunks:
        if array.null_count or array.type != pa.binary(width):
            raise ValueError(f"a column is {array.type} with {array.null_count} nulls")
        start = array.offset * width
        data = memoryview(array.buffers()[1])[start : start + len(array) * width]
        parts.append(np.frombuffer(data, dtype=f"V{width}"))
    return np.concatenate(parts) if parts else np.empty(0, dtype=f"V{width}")


def is_zero(places: Places) -> Mask:
    """Which rows are zero chunks."""
    return np.asarray(places["length"] == 0)


def pack_runs(places: Places) -> tuple[list[bytes], np.ndarray[Any, np.dtype[np.int64]]]:
    """The packs of consecutive rows, and how many rows each run has."""
    if not len(places):
        return [], np.empty(0, dtype=np.int64)
    words = np.ascontiguousarray(places["pack"]).view("<u8").reshape(-1, PACK_ID_BYTES // 8)
    changes = np.flatnonzero((words[1:] != words[:-1]).any(axis=1)) + 1
    starts = np.concatenate([[0], changes])
    packs = [places["pack"][start].tobytes() for start in starts.tolist()]
    return packs, np.diff(np.append(starts, len(places)))


def in_packs(places: Places, packs: Set[bytes]) -> Mask:
    """Which rows lie in one of these packs."""
    if not packs or not len(places):
        return np.zeros(len(places), dtype=np.bool_)
    ids, counts = pack_runs(places)
    return np.repeat(np.array([pack_id in packs for pack_id in ids], dtype=np.bool_), counts)


def differ(left: Places, right: Places) -> Mask:
    """Which rows name other content; where they lie does not matter."""
    words = (len(left), ID_BYTES // 8)
    left_ids = np.ascontiguousarray(left["id"]).view("<u8").reshape(words)
    right_ids = np.ascontiguousarray(right["id"]).view("<u8").reshape(words)
    return np.asarray((left_ids != right_ids).any(axis=1))


def id_prefixes(places: Places) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """The first eight bytes of each id as a number, for sorted lookup."""
    ids = np.ascontiguousarray(places["id"]).view(np.uint8).reshape(len(places), ID_BYTES)
    return np.ascontiguousarray(ids[:, :8]).view(">u8").reshape(len(places)).astype(np.uint64)
