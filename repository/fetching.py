"""Reading chunks back: which ranges of which packs to ask for, and what they hold."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from repository.errors import DamagedObject, ObjectNotFound
from repository.layout import pack_key
from repository.locating import ChunkLocator
from repository.maps import DiskShape
from repository.packs import ChunkOpener, PackOpener
from repository.places import Places
from repository.ports import Buffer
from repository.store import Store
from repository.units import MiB

GAP_BYTES_MAX = MiB
RANGE_BYTES_MAX = 8 * MiB


@dataclass(frozen=True, slots=True)
class FetchRange:
    """One ranged read of one pack, and the chunks of one disk that lie in it."""

    pack_id: bytes
    start_bytes: int
    end_bytes: int
    chunks: tuple[int, ...]
    """Numbers of the chunks within the disk, in the order of the rows."""
    places: Places


class Fetched(NamedTuple):
    """A range with its stored bytes."""

    wanted: FetchRange
    stored: memoryview


def plan_fetches(chunks: np.ndarray[Any, Any], places: Places) -> list[FetchRange]:
    """The fewest ranged reads for these data chunks, in the order of the disk.

    Reads of one pack merge over gaps of up to 1 MiB and grow up to 8 MiB. Pure.
    """
    by_pack: dict[bytes, list[int]] = {}
    for row, pack in enumerate(places["pack"].tolist()):
        by_pack.setdefault(bytes(pack), []).append(row)
    ranges = [
        _range(pack_id, rows, chunks, places)
        for pack_id, all_rows in by_pack.items()
        for rows in _split(all_rows, places)
    ]
    return sorted(ranges, key=lambda fetch: fetch.chunks[0])


def _split(rows: list[int], places: Places) -> Iterator[list[int]]:
    """The rows of one pack by offset, cut where a gap or the size says so."""
    offsets, lengths = places["offset"].tolist(), places["length"].tolist()
    group: list[int] = []
    start = end = 0
    for row in sorted(rows, key=lambda row: offsets[row]):
        row_end = offsets[row] + lengths[row]
        if group and (offsets[row] - end > GAP_BYTES_MAX or row_end - start > RANGE_BYTES_MAX):
            yield group
            group = []
        if not group:
            start = offsets[row]
        group.append(row)
        end = row_end
    if group:
        yield group


def _range(
    pack_id: bytes, rows: list[int], chunks: np.ndarray[Any, Any], places: Places
) -> FetchRange:
    selected = places[rows]
    ends = selected["offset"].astype(np.int64) + selected["length"]
    return FetchRange(
        pack_id,
        int(selected["offset"].min()),
        int(ends.max()),
        tuple(int(chunk) for chunk in chunks[rows]),
        selected,
    )


class ChunkFetcher:
    """Fetches and opens the chunks of one disk. Thread-safe.

    A repository may be open for days while others collect, repair and back up. So a chunk that is not
    where it was known to be, or is damaged there, is looked for once more before that is the answer.
    """

    def __init__(
        self, store: Store, opener: ChunkOpener, shape: DiskShape, locator: ChunkLocator
    ) -> None:
        self._store = store
        self._opener = opener
        self._shape = shape
        self._locator = locator
        self._guard = threading.Lock()
        self._has_looked_again = False

    def fetch(self, wanted: FetchRange) -> list[Fetched]:
        """The stored bytes of the range, from where its chunks lie now if they were moved.

        Raises DamagedObject or the store's errors.
        """
        try:
            return [Fetched(wanted, self._stored(wanted))]
        except (DamagedObject, ObjectNotFound) as error:
            moved = self._moved(wanted.places, error)
            if moved is None:
                raise
            ranges = plan_fetches(np.array(wanted.chunks), moved)
            return [Fetched(part, self._stored(part)) for part in ranges]

    def _moved(self, places: Places, error: Exception) -> Places | None:
        """Where the chunks lie now; None if that is where they were looked for.

        A pack that is gone makes all be learnt anew, since collection may go on meanwhile; damage does
        so once per disk, because a bad pack has many bad chunks.
        """
        with self._guard:
            if isinstance(error, ObjectNotFound) or not self._has_looked_again:
                self._locator.look_again()
                self._has_looked_again = True
        moved = self._locator.relocate(places)
        return None if moved.tobytes() == places.tobytes() else moved

    def _stored(self, wanted: FetchRange) -> memoryview:
        length_bytes = wanted.end_bytes - wanted.start_bytes
        key = pack_key(wanted.pack_id)
        return memoryview(self._store.get_range(key, wanted.start_bytes, length_bytes))

    def open(
        self, fetched: Sequence[Fetched], scratch: memoryview | None = None
    ) -> Iterator[tuple[int, Buffer]]:
        """The number and the plain bytes of each chunk that was fetched, proven by its id.

        With `scratch` the bytes lie there, and only until the next chunk is asked for. Raises
        DamagedObject, naming the pack.
        """
        for wanted, stored in fetched:
            yield from self._opened(wanted, stored, scratch)

    def _opened(
        self, wanted: FetchRange, stored: memoryview, scratch: memoryview | None
    ) -> Iterator[tuple[int, Buffer]]:
        opener = self._opener.for_pack(wanted.pack_id)
        last_id, plain = b"", memoryview(b"")
        for chunk, place in zip(wanted.chunks, wanted.places, strict=True):
            chunk_id = place["id"].tobytes()
            if chunk_id != last_id:
                offset = int(place["offset"]) - wanted.start_bytes
                piece = stored[offset : offset + int(place["length"])]
                plain = memoryview(self._plain(opener, chunk, place, piece, scratch))
                last_id = chunk_id
            if len(plain) != self._shape.chunk_bytes(chunk):
                detail = f"chunk {chunk} has {len(plain)} bytes"
                raise DamagedObject(pack_key(wanted.pack_id), detail)
            yield chunk, plain

    def _plain(
        self,
        opener: PackOpener,
        chunk: int,
        place: np.void,
        piece: memoryview,
        scratch: memoryview | None,
    ) -> Buffer:
        """The plain bytes of one chunk: these, or, if they are damaged, those that were stored since."""
        chunk_id = place["id"].tobytes()
        try:
            return opener.open(chunk_id, piece, scratch)
        except DamagedObject as error:
            moved = self._moved(np.array([place]), error)
            if moved is None:
                raise
            (fetch,) = plan_fetches(np.array([chunk]), moved)
            return self._opener.for_pack(fetch.pack_id).open(chunk_id, self._stored(fetch))
