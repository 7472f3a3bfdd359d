"""Disk maps: what a disk consists of, as a base layer and deltas over it.

A map is worked on in windows of 65,536 chunks (64 GiB of disk at 1 MiB), so that memory does not
follow the disk's size. A layer is one Parquet object whose row groups are windows: a base has a row
for every chunk (runs of zero chunks share one), a delta only what differs from the layers below.
Later layers win. Each layer carries the digest of every window of the disk as it is with that layer
on top; the digests add up to the root hash in the disk's record, so a window that nothing touched
costs an incremental backup nothing.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from blake3 import blake3

from repository.creating import create_own
from repository.errors import DamagedObject
from repository.extents import chunk_count
from repository.keys import RepositoryKeys
from repository.layout import map_key
from repository.places import (
    ID_BYTES,
    PACK_ID_BYTES,
    PLACE,
    Mask,
    Places,
    fixed_binary,
    is_zero,
    void_column,
)
from repository.points import DiskRecord, ObjectRef
from repository.ports import Buffer, Pace
from repository.sealing import Sealer
from repository.store import Store
from repository.tables import describe, open_table, open_writer
from repository.units import MiB

WINDOW_CHUNKS = 65536

_READ_STEP_BYTES = 32 * MiB
_ROOT_PREFIX = struct.Struct("<16sQI")
_ROOT_MAGIC = b"ahvault disk 1\0\0"

_SCHEMA = pa.schema(
    [
        pa.field("first", pa.uint64(), nullable=False),
        pa.field("count", pa.uint32(), nullable=False),
        pa.field("id", pa.binary(ID_BYTES), nullable=False),
        pa.field("pack", pa.binary(PACK_ID_BYTES), nullable=False),
        pa.field("offset", pa.uint32(), nullable=False),
        pa.field("length", pa.uint32(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class DiskShape:
    """How a disk divides into chunks and windows."""

    size_bytes: int
    chunk_size_bytes: int

    @property
    def chunk_count(self) -> int:
        return chunk_count(self.size_bytes, self.chunk_size_bytes)

    @property
    def window_count(self) -> int:
        return -(-self.chunk_count // WINDOW_CHUNKS)

    def chunks_in_window(self, window: int) -> int:
        """Chunks of one window; 0 for windows behind the end."""
        return max(0, min(WINDOW_CHUNKS, self.chunk_count - window * WINDOW_CHUNKS))

    def chunk_bytes(self, chunk: int) -> int:
        """Length of one chunk; only the last can be short."""
        return min(self.chunk_size_bytes, self.size_bytes - chunk * self.chunk_size_bytes)


def window_digest(places: Places) -> bytes:
    """BLAKE3 over the window's ids in order; a zero chunk counts as 32 zero bytes."""
    return blake3(places["id"].tobytes()).digest()


def root_hash(shape: DiskShape, digests: Sequence[bytes]) -> str:
    """The disk's root hash, hexadecimal, from the digests of all its windows."""
    prefix = _ROOT_PREFIX.pack(_ROOT_MAGIC, shape.size_bytes, shape.chunk_size_bytes)
    return blake3(prefix + b"".join(digests)).hexdigest()


class LayerWriter:
    """Writes one layer, window by window in rising order, into a temporary file."""

    def __init__(self) -> None:
        self._file: BinaryIO = tempfile.TemporaryFile(prefix="ahvault-map-")  # noqa: SIM115 - closed by close()
        self._writer = open_writer(self._file, _SCHEMA, searched=["first"])
        self.row_count = 0

    def write_window(self, window: int, places: Places, included: Mask) -> None:
        """Add the included rows of one window; nothing is written if there are none."""
        columns = _rows(window * WINDOW_CHUNKS, places, included)
        if len(columns[0]):
            self._writer.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA))
            self.row_count += len(columns[0])

    def finish(self, description: dict[str, Any]) -> memoryview:
        """The layer's bytes, valid until `close`."""
        describe(self._writer, description)
        self._writer.close()
        self._file.flush()
        return memoryview(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ))

    def close(self) -> None:
        """Give the temporary file back; views of it stay valid while they are held."""
        self._writer.close()
        self._file.close()


def _rows(first_chunk: int, places: Places, included: Mask) -> list[pa.Array]:
    """The columns of one window: single data chunks, and zero chunks as runs."""
    zero = is_zero(places) & included
    starts, counts = _runs_of(zero)
    data = np.flatnonzero(included & ~zero)
    offsets = np.concatenate([data, starts])
    order = np.argsort(offsets, kind="stable")
    rows = places[offsets[order]]
    lengths = np.concatenate([np.ones(len(data), np.uint32), counts.astype(np.uint32)])[order]
    return [
        pa.array(offsets[order].astype(np.uint64) + np.uint64(first_chunk)),
        pa.array(lengths),
        fixed_binary(rows["id"]),
        fixed_binary(rows["pack"]),
        pa.array(rows["offset"]),
        pa.array(rows["length"]),
    ]


def _runs_of(mask: Mask) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Starts and lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return edges[::2], edges[1::2] - edges[::2]


class MapLayer:
    """One layer, open for reading. Not thread-safe."""

    def __init__(self, key: str, source: Any, keys: RepositoryKeys) -> None:
        self.key = key
        self._table, description = open_table(key, "map", source, _SCHEMA)
        try:
            self.shape = DiskShape(
                int(description["size_bytes"]), int(description["chunk_size_bytes"])
            )
            self.window_digests = [bytes.fromhex(digest) for digest in description["windows"]]
            self.is_base = description["layer"] == "base"
            if description["repository"] != keys.repository_id.hex:
                raise DamagedObject(key, "it belongs to another repository")
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedObject(key, f"its description lacks {error}") from error
        self.row_count = self._table.metadata.num_rows
        self._groups = self._windows_to_groups()

    def _windows_to_groups(self) -> dict[int, int]:
        """Which row group is which window, by the rows themselves.

        Not by the statistics, cheap as they are: asking pyarrow for those of a forged footer ends the
        process, as the C++ exception is not translated there; reading the column is safe.
        """
        groups: dict[int, int] = {}
        try:
            for group in range(self._table.metadata.num_row_groups):
                rows = self._table.read_row_group(group, columns=["first"], use_threads=False)
                if rows.num_rows:
                    groups[int(rows["first"][0].as_py()) // WINDOW_CHUNKS] = group
        except (pa.ArrowException, OSError, ValueError, TypeError) as error:
            detail = f"its row groups cannot be told apart ({error})"
            raise DamagedObject(self.key, detail) from error
        return groups

    def overlay(self, window: int, places: Places, covered: Mask) -> None:
        """Put this layer's rows of one window over the places, which may be fewer than it has."""
        if window not in self._groups:
            return
        try:
            rows = self._table.read_row_group(self._groups[window], use_threads=False)
            first = rows["first"].to_numpy().astype(np.int64) - window * WINDOW_CHUNKS
            counts = rows["count"].to_numpy()
            values = np.empty(len(first), dtype=PLACE)
            values["id"] = void_column(rows["id"], ID_BYTES)
            values["pack"] = void_column(rows["pack"], PACK_ID_BYTES)
            values["offset"] = rows["offset"].to_numpy()
            values["length"] = rows["length"].to_numpy()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DamagedObject(self.key, f"window {window} does not read ({error})") from error
        inside = (first >= 0) & (first < len(places))
        single = inside & (counts == 1)
        places[first[single]] = values[single]
        covered[first[single]] = True
        for row in np.flatnonzero(inside & (counts > 1)):
            run = slice(int(first[row]), int(first[row]) + int(counts[row]))
            places[run] = values[row]
            covered[run] = True


class DiskMap:
    """The layers of one disk at one restore point, read window by window. Not thread-safe."""

    def __init__(
        self,
        shape: DiskShape,
        layers: Sequence[MapLayer],
        relocate: Callable[[Places], Places] | None = None,
    ) -> None:
        self.shape = shape
        self.layers = list(layers)
        self._relocate = relocate

    @property
    def window_digests(self) -> list[bytes]:
        """Of all windows of the disk, as the newest layer has them."""
        return self.layers[-1].window_digests

    def window(self, window: int) -> Places:
        """The rows of one window, proven against its digest; raises DamagedObject."""
        count = self.shape.chunks_in_window(window)
        places = np.zeros(count, dtype=PLACE)
        covered = np.zeros(count, dtype=np.bool_)
        for layer in self.layers:
            layer.overlay(window, places, covered)
        newest = self.layers[-1].key
        if not covered.all():
            raise DamagedObject(newest, f"chunks of window {window} are in no layer")
        if window_digest(places) != self.window_digests[window]:
            raise DamagedObject(newest, f"window {window} does not match its digest")
        return self._relocate(places) if self._relocate else places


def open_disk_map(
    store: Store,
    record: DiskRecord,
    keys: RepositoryKeys,
    sealer: Sealer,
    relocate: Callable[[Places], Places] | None = None,
) -> DiskMap:
    """Fetch and check the layers of a disk; raises DamagedObject, or the store's errors.

    `relocate` turns rows as stored into rows as they lie now, if chunks may have been moved.
    """
    shape = DiskShape(record.size_bytes, record.chunk_size_bytes)
    layers = [_open_layer(store, ref, keys, sealer) for ref in record.maps]
    if not layers:
        raise DamagedObject(f"disk {record.disk_id}", "its record names no map")
    newest = layers[-1]
    if newest.shape != shape or root_hash(shape, newest.window_digests) != record.root:
        raise DamagedObject(newest.key, f"it does not add up to the root hash of {record.disk_id}")
    if len(newest.window_digests) != shape.window_count:
        raise DamagedObject(newest.key, "it has another number of windows than its disk")
    return DiskMap(shape, layers, relocate)


def _open_layer(store: Store, ref: ObjectRef, keys: RepositoryKeys, sealer: Sealer) -> MapLayer:
    stored = _fetch(store, ref)
    if hashlib.sha256(stored).hexdigest() != ref.sha256:
        raise DamagedObject(ref.key, "its bytes do not match the digest in the commit record")
    plain = sealer.open_object(ref.key, stored)
    return MapLayer(ref.key, pa.BufferReader(pa.py_buffer(plain)), keys)


def _fetch(store: Store, ref: ObjectRef) -> Buffer:
    """The stored bytes; through a mapped temporary file when they are large."""
    if ref.size_bytes <= _READ_STEP_BYTES:
        data = store.get(ref.key)
        if len(data) != ref.size_bytes:
            raise DamagedObject(ref.key, f"it has {len(data)} bytes instead of {ref.size_bytes}")
        return data
    with tempfile.TemporaryFile(prefix="ahvault-map-") as spool:
        for offset in range(0, ref.size_bytes, _READ_STEP_BYTES):
            length = min(_READ_STEP_BYTES, ref.size_bytes - offset)
            spool.write(store.get_range(ref.key, offset, length))
        spool.flush()
        return memoryview(mmap.mmap(spool.fileno(), 0, access=mmap.ACCESS_READ))


def store_layer(
    store: Store,
    writer: LayerWriter,
    disk_id: str,
    shape: DiskShape,
    digests: Sequence[bytes],
    *,
    is_base: bool,
    keys: RepositoryKeys,
    sealer: Sealer,
    pace: Pace | None = None,
) -> ObjectRef:
    """Finish a layer and write it to the store; returns the reference to it."""
    key = map_key(disk_id, uuid.uuid4())
    plain = writer.finish(layer_description(disk_id, shape, digests, is_base=is_base, keys=keys))
    stored = sealer.close_object(key, plain)
    create_own(store, key, stored, pace=pace)
    digest = hashlib.sha256(stored).hexdigest()
    return ObjectRef(key=key, size_bytes=len(stored), sha256=digest)


def layer_description(
    disk_id: str,
    shape: DiskShape,
    digests: Sequence[bytes],
    *,
    is_base: bool,
    keys: RepositoryKeys,
) -> dict[str, Any]:
    """What a layer says of itself."""
    return {
        "kind": "map",
        "repository": keys.repository_id.hex,
        "disk": disk_id,
        "layer": "base" if is_base else "delta",
        "size_bytes": shape.size_bytes,
        "chunk_size_bytes": shape.chunk_size_bytes,
        "windows": [digest.hex() for digest in digests],
    }
