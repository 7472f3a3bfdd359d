"""The chunk pipeline of one disk: read -> id and zero test -> known? -> compress -> pack -> upload.

One batch of four chunks is read and computed in one thread of a pool, which has one thread per core;
several batches are in flight, and a source that can is told of each ahead of its turn, so that
reading and computing overlap and every core is busy. The thread that called `write_disk` takes the
results in disk order and packs them; packs are uploaded beside it. What is
in flight is bounded, and so is memory. The first error, or the stop event, ends all of it: what was
not begun is cancelled, what was begun is waited for, and the error is raised to the caller.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import thread_time

import numpy as np

from repository.buffers import ThreadBuffers
from repository.codec import ChunkCodec
from repository.concurrency import settle
from repository.controls import TransferControls
from repository.counters import TransferCounters
from repository.index import ChunkIndex
from repository.keys import RepositoryKeys
from repository.maps import DiskShape
from repository.packs import PackBuilder, PackEntry, StoredPack
from repository.places import PLACE, ZERO_ID, Places
from repository.ports import Buffer, DiskSource, Pace, ReadsAhead
from repository.sealing import Sealer
from repository.units import MiB

BATCH_BYTES = 4 * MiB
UPLOADS_IN_FLIGHT = 2

_ZERO_PLACE = np.zeros(1, dtype=PLACE)


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive chunks to read at once, and the base's rows of the same chunks, if any."""

    first_chunk: int
    count: int
    base: Places | None


@dataclass(frozen=True, slots=True)
class NewChunk:
    """A chunk that the repository did not hold when it was looked up."""

    chunk_id: bytes
    plain_bytes: int
    codec: int
    payload: bytes


Outcome = NewChunk | Places
"""What became of a chunk: to be stored, or a row of a place (zero, inherited, or known)."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What every transfer of a session shares."""

    keys: RepositoryKeys
    sealer: Sealer
    codec: ChunkCodec
    index: ChunkIndex
    compute: ThreadPoolExecutor
    uploads: ThreadPoolExecutor
    batches_in_flight: int
    pack_target_bytes: int
    store_pack: Callable[[StoredPack, list[Buffer], TransferCounters, Pace | None], None]
    """Writes a finished pack at this pace and makes its chunks known once it is durable."""
    keep_alive: Callable[[], None]
    """Tells others that the session is at work, if that is due."""
    distrusted_packs: set[bytes]
    """Under quarantine: a chunk that the base has there is stored again. Filled before any work."""


class BatchReader:
    """Reads and computes batches; called from the pool's threads."""

    def __init__(
        self,
        tools: Tools,
        shape: DiskShape,
        source: DiskSource,
        controls: TransferControls,
    ) -> None:
        self._tools = tools
        self._shape = shape
        self._source = source
        self._controls = controls
        self._counters = controls.counters
        self._buffers = ThreadBuffers()  # results never refer to them
        self._ahead = source if isinstance(source, ReadsAhead) else None

    def expect(self, batch: Batch) -> None:
        """Let the source begin to fetch a batch that is to be processed soon."""
        if self._ahead is not None:
            self._ahead.read_ahead(*self._range(batch))

    def process(self, batch: Batch) -> list[Outcome]:
        """The outcome of each chunk of the batch, in order."""
        chunks = self._read(batch)
        with self._counters.timing("compute_s", thread_time):
            outcomes = self._known(batch, chunks)
            return [
                self._compressed(chunk, *found)
                for chunk, found in zip(chunks, outcomes, strict=True)
            ]

    def _read(self, batch: Batch) -> list[memoryview]:
        self._controls.check_stop("reading the disk")
        size = self._shape.chunk_size_bytes
        start, length = self._range(batch)
        view = self._buffers.get(batch.count * size)[:length]
        with self._counters.timing("read_s"):
            self._source.read_into(start, view)
        self._counters.add(read_bytes=length, read_chunks=batch.count)
        return [view[offset : offset + size] for offset in range(0, length, size)]

    def _range(self, batch: Batch) -> tuple[int, int]:
        """Offset and length of the batch on the disk, in bytes."""
        size = self._shape.chunk_size_bytes
        start = batch.first_chunk * size
        return start, min(batch.count * size, self._shape.size_bytes - start)

    def _known(
        self, batch: Batch, chunks: Sequence[memoryview]
    ) -> list[tuple[bytes, Places | None]]:
        """For each chunk its id and, unless it is new, the row of its place."""
        ids = [
            ZERO_ID if holds_only_zeros(chunk) else self._tools.keys.chunk_id(chunk)
            for chunk in chunks
        ]
        found: list[tuple[bytes, Places | None]] = [(chunk_id, None) for chunk_id in ids]
        unknown = []
        for number, chunk_id in enumerate(ids):
            if chunk_id == ZERO_ID:
                found[number] = (chunk_id, _ZERO_PLACE)
            elif batch.base is not None and self._is_inherited(batch.base[number], chunk_id):
                found[number] = (chunk_id, batch.base[number : number + 1])
            else:
                unknown.append(number)
        places = self._tools.index.find([ids[number] for number in unknown]) if unknown else []
        for number, place in zip(unknown, places, strict=True):
            found[number] = (ids[number], place)
        return found

    def _is_inherited(self, base: np.void, chunk_id: bytes) -> bool:
        """Whether the base's row has the chunk, in a pack that can be relied on."""
        if base["id"].tobytes() != chunk_id:
            return False
        distrusted = self._tools.distrusted_packs
        return not distrusted or base["pack"].tobytes() not in distrusted

    def _compressed(self, chunk: memoryview, chunk_id: bytes, place: Places | None) -> Outcome:
        if place is not None:
            return place
        self._controls.check_stop("reading the disk")
        return NewChunk(chunk_id, len(chunk), *self._tools.codec.compress(chunk))


def holds_only_zeros(chunk: memoryview) -> bool:
    """Whether all bytes are zero; looks at the start first, where most data shows."""
    if any(chunk[:16]):
        return False
    words = len(chunk) // 8 * 8
    return not np.frombuffer(chunk[:words], dtype=np.uint64).any() and not any(chunk[words:])


class PackStream:
    """Packs the new chunks of one disk in disk order and uploads full packs. One thread uses it."""

    def __init__(self, tools: Tools, controls: TransferControls) -> None:
        self._tools = tools
        self._controls = controls
        self._counters = controls.counters
        self._builder = PackBuilder(tools.keys, tools.sealer)
        self._uploads: deque[Future[None]] = deque()
        # Chunks of this disk's packs that are not yet durable. Others learn of them afterwards,
        # from the index: a disk must never refer to a pack whose upload may still fail.
        self._pending: dict[bytes, Places] = {}

    def place(self, chunk: NewChunk) -> Places:
        """The row where the chunk will lie; a chunk met before in this disk is not stored again."""
        known = self._pending.get(chunk.chunk_id)
        if known is not None:
            self._counters.add(known_bytes=chunk.plain_bytes, known_chunks=1)
            return known
        entry = self._builder.append(chunk.chunk_id, chunk.plain_bytes, chunk.codec, chunk.payload)
        self._counters.add(new_bytes=chunk.plain_bytes, new_chunks=1)
        place = _row(self._builder.pack_id, entry)
        self._pending[chunk.chunk_id] = place
        if self._builder.size_bytes >= self._tools.pack_target_bytes:
            self._send()
        return place

    def finish(self) -> None:
        """Upload what is left and wait until everything is durable."""
        if len(self._builder):
            self._send()
        while self._uploads:
            self._uploads.popleft().result()

    def abandon(self) -> None:
        """Give up: nothing new is begun, what is on its way is waited for."""
        settle(self._uploads)

    def _send(self) -> None:
        builder, self._builder = self._builder, PackBuilder(self._tools.keys, self._tools.sealer)
        while len(self._uploads) >= UPLOADS_IN_FLIGHT:
            self._uploads.popleft().result()
        self._uploads.append(self._tools.uploads.submit(self._upload, builder))

    def _upload(self, builder: PackBuilder) -> None:
        self._controls.check_stop("the transfer")
        pack, pieces = builder.finish()
        with self._controls.sending() as pace:
            self._tools.store_pack(pack, pieces, self._counters, pace)


def _row(pack_id: bytes, entry: PackEntry) -> Places:
    row = (entry.chunk_id, pack_id, entry.offset_bytes, entry.length_bytes)
    return np.array([row], dtype=PLACE)
