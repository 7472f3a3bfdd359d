"""Copying what is still needed out of packs and segments that are mostly dead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Set

import numpy as np

from repository.codec import ChunkCodec
from repository.errors import DamagedObject, ObjectNotFound
from repository.layout import pack_key
from repository.packs import ChunkOpener, PackBuilder, StoredPack
from repository.places import Places, id_prefixes, in_packs, pack_runs
from repository.ports import Buffer
from repository.records import RecordCodec
from repository.references import marks_of
from repository.segments import encode_segment
from repository.store import Store
from repository.usage import Refs, Usage, among

SEGMENT_ROWS_MAX = 400_000


class Rewriter:
    """Copies needed chunks into new packs, and index rows into new segments."""

    def __init__(
        self,
        store: Store,
        records: RecordCodec,
        pack_target_bytes: int,
        session: str,
        check_stop: Callable[[], None],
    ) -> None:
        self._store = store
        self._records = records
        self._pack_target_bytes = pack_target_bytes
        self._session = session
        self._check_stop = check_stop
        self._opener = ChunkOpener(records.keys, records.sealer, ChunkCodec(level=1))
        self._builder = PackBuilder(records.keys, records.sealer)
        self._packs: list[StoredPack] = []
        self._copied: set[bytes] = set()
        self.stored_bytes = 0

    def copy_pack(self, places: Places, refs: Refs, usage: Usage) -> bool:
        """Copy the needed chunks of one pack, given all its rows; False if one cannot be read.

        Needed is what a reference names at this place, and what an earlier move has brought here.
        """
        is_needed = among(marks_of(places), refs["mark"]) | among(id_prefixes(places), usage.moved)
        needed = places[is_needed]
        pack_id = places["pack"][0].tobytes()
        opener = self._opener.for_pack(pack_id)
        payloads = []
        try:
            stored = memoryview(self._store.get(pack_key(pack_id)))
            for place in needed:
                start, length = int(place["offset"]), int(place["length"])
                chunk_id = place["id"].tobytes()
                payload = opener.payload(chunk_id, stored[start : start + length])
                payloads.append((chunk_id, *payload))
        except (DamagedObject, ObjectNotFound):
            return False  # verify tells; a damaged pack is nobody's to delete
        for chunk in payloads:
            self._append(*chunk)
        return True

    def _append(self, chunk_id: bytes, plain_bytes: int, codec: int, payload: Buffer) -> None:
        self._check_stop()
        if chunk_id in self._copied:
            return
        self._copied.add(chunk_id)
        self._builder.append(chunk_id, plain_bytes, codec, payload)
        if self._builder.size_bytes >= self._pack_target_bytes:
            self._send()

    def _send(self) -> None:
        if not len(self._builder):
            return
        pack, pieces = self._builder.finish()
        self._store.put_new(pack_key(pack.pack_id), *pieces)
        self.stored_bytes += pack.size_bytes
        self._packs.append(pack)
        self._builder = PackBuilder(self._records.keys, self._records.sealer)

    def finish(self) -> None:
        """Store the last pack, and the segments over all of them; durable on return."""
        self._send()
        self._store_segments(self._packs)

    def copy_segments(
        self, segments: Iterable[tuple[Places, dict[bytes, int]]], dropped: Set[bytes]
    ) -> None:
        """Index the packs of these segments anew, each once, without those dropped.

        A segment names a pack with all its rows, so one that was named before is left out.
        """

        def kept() -> Iterator[StoredPack]:
            done = set(dropped)
            for places, sizes in segments:
                rows = places[~in_packs(places, done)]
                pack_ids, counts = pack_runs(rows)
                ends = np.cumsum(counts)
                for pack_id, start, end in zip(pack_ids, ends - counts, ends, strict=True):
                    yield StoredPack(pack_id, sizes[pack_id], rows[start:end])
                done.update(pack_ids)

        self._store_segments(kept())

    def _store_segments(self, packs: Iterable[StoredPack]) -> None:
        group: list[StoredPack] = []
        rows = 0
        for pack in packs:
            if group and rows + len(pack.places) > SEGMENT_ROWS_MAX:
                self._store_segment(group)
                group, rows = [], 0
            group.append(pack)
            rows += len(pack.places)
        if group:
            self._store_segment(group)

    def _store_segment(self, packs: Sequence[StoredPack]) -> None:
        self._check_stop()
        key, stored = encode_segment(packs, self._session, self._records.keys, self._records.sealer)
        self._store.put_new(key, stored)
        self.stored_bytes += len(stored)


def rows_of_pack(places: Places, pack_id: bytes) -> Places:
    """The rows that lie in one pack."""
    return places[np.flatnonzero(in_packs(places, {pack_id}))]
