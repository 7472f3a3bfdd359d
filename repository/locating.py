"""Where chunks lie: what the segments say, without the packs that nothing may refer to any more.

A disk map says where each chunk lay when the map was written. Collection may have moved a chunk
since; then its pack is gone and the segments say where the chunk lies now.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Generator, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np

from repository.concurrency import run_in_order
from repository.errors import DamagedObject, ObjectNotFound, RepositoryError, UnsupportedFormat
from repository.generations import Generations, pack_ids
from repository.index import ChunkIndex
from repository.layout import SEGMENTS
from repository.places import Places, in_packs
from repository.quarantine import object_id, quarantined, quarantined_packs
from repository.records import RecordCodec
from repository.segments import Segment, decode_segment
from repository.store import Store

_LOG = logging.getLogger(__name__)

_READS_AT_ONCE = 8


def read_segments(
    store: Store, records: RecordCodec, names: Set[str] | None = None
) -> Generator[tuple[str, Segment | RepositoryError]]:
    """Every segment, or those of these names, with its name, or what is wrong with it.

    Those under quarantine are left out. Raises the store's errors.
    """
    bad = quarantined(store)
    listed = (info.key for info in store.list(SEGMENTS) if names is None or info.key in names)
    keys = [key for key in listed if object_id(key) not in bad]

    def read(key: str) -> Segment | RepositoryError:
        try:
            return decode_segment(key, store.get(key), records.keys, records.sealer)
        except (DamagedObject, ObjectNotFound, UnsupportedFormat) as error:
            return error

    with (
        ThreadPoolExecutor(_READS_AT_ONCE, "ahvault-index") as pool,
        closing(run_in_order(pool, read, keys, 2 * _READS_AT_ONCE)) as results,
    ):
        yield from results


def learn_chunks(
    index: ChunkIndex, store: Store, records: RecordCodec, avoided: Set[bytes]
) -> None:
    """Add what all segments say to the index, without these packs.

    A damaged segment is left out: its chunks are stored again, or found where they were.
    """
    with closing(read_segments(store, records)) as segments:
        for _, segment in segments:
            if isinstance(segment, RepositoryError):
                _LOG.warning("index segment left out: %s", segment)
            else:
                index.add(segment.places[~in_packs(segment.places, avoided)])


def known_chunks(store: Store, records: RecordCodec, avoided: Set[bytes]) -> ChunkIndex:
    """The index over all segments, without these packs. The caller closes it."""
    index = ChunkIndex()
    try:
        learn_chunks(index, store, records, avoided)
    except BaseException:
        index.close()
        raise
    return index


class ChunkLocator:
    """Finds chunks that were moved. Thread-safe; costs one listing until something was."""

    def __init__(self, store: Store, records: RecordCodec) -> None:
        self._store = store
        self._records = records
        self._generations = Generations(store, records)
        self._guard = threading.Lock()
        self._gone: frozenset[bytes] | None = None
        self._index: ChunkIndex | None = None

    def relocate(self, places: Places) -> Places:
        """The rows as they lie now. A row whose chunk is nowhere stays as it is."""
        with self._guard:
            if self._gone is None:
                _, gone = self._generations.newest_with(self._generations.gone_after)
                self._gone = quarantined_packs(self._store) | pack_ids(gone)
            lost = np.flatnonzero(in_packs(places, self._gone))
            if not len(lost):
                return places
            if self._index is None:
                self._index = known_chunks(self._store, self._records, self._gone)
                # A repository is often dropped without being closed; its temporary file goes too.
                weakref.finalize(self, self._index.close)
            found = self._index.find([places["id"][row].tobytes() for row in lost])
        moved = places.copy()
        for row, place in zip(lost.tolist(), found, strict=True):
            if place is not None:
                moved[row] = place[0]
        return moved

    def look_again(self) -> None:
        """Forget what was learnt: a pack has gone since."""
        with self._guard:
            self._gone = None
            self._close_index()

    def close(self) -> None:
        """Give the index back."""
        with self._guard:
            self._close_index()

    def _close_index(self) -> None:
        if self._index is not None:
            self._index.close()
            self._index = None
