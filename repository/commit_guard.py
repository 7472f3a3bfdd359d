"""What a writer does about collection around a commit (peers-and-format 7.5, step 3).

Before the commit record is written, every disk that was written before the newest plan was known is
checked against what that plan condemns; chunks that lie only in condemned packs are copied into
packs of our own, which still works, for nothing is deleted before the plan's outcome. After the
record is written, generations that began in between are cancelled or, if their sweep was decided
without our point, compared with what the point needs. `collect.py` has the whole argument.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set

import numpy as np

from repository.errors import CommitFailed, ObjectNotFound
from repository.generations import Generation, Generations, pack_ids
from repository.index import ChunkIndex
from repository.layout import pack_key
from repository.locating import known_chunks
from repository.maps import DiskMap, DiskShape, LayerWriter, store_layer
from repository.packs import ChunkOpener, PackBuilder, StoredPack
from repository.places import PLACE, Places, in_packs
from repository.points import DiskRecord, RestorePoint
from repository.ports import Buffer
from repository.records import RecordCodec
from repository.store import Store
from repository.units import Clock
from repository.wholeness import is_whole, map_names, open_if_there


class CommitGuard:
    """Keeps one session's commits safe from collection."""

    def __init__(
        self,
        store: Store,
        records: RecordCodec,
        opener: ChunkOpener,
        pack_target_bytes: int,
        store_pack: Callable[[StoredPack, list[Buffer]], None],
        clock: Clock,
    ) -> None:
        self._store = store
        self._records = records
        self._opener = opener
        self._pack_target_bytes = pack_target_bytes
        self._store_pack = store_pack
        self._clock = clock
        self._generations = Generations(store, records)

    def before(self, disks: Sequence[DiskRecord]) -> tuple[int, tuple[DiskRecord, ...]]:
        """The newest generation, and the disks as they may be committed under it.

        Raises CommitFailed if something they need is already deleted.
        """
        newest = self._generations.newest()
        if newest is None:
            return 0, tuple(disks)
        late = [disk for disk in disks if disk.gc_generation < newest.number]
        if not late:
            return newest.number, tuple(disks)
        newest, avoided = self._generations.newest_with(self._generations.avoided_by)
        if newest is None:
            raise CommitFailed("gc/", "the generations that were there are gone")
        index = known_chunks(self._store, self._records, pack_ids(avoided))
        try:
            safe = {disk.disk_id: self._rescued(disk, avoided, index) for disk in late}
        finally:
            index.close()
        return newest.number, tuple(safe.get(disk.disk_id, disk) for disk in disks)

    def after(self, point: RestorePoint) -> None:
        """Make sure that no generation begun since `before` deletes what the point needs.

        Raises CommitFailed if one has; the caller then withdraws the point.
        """
        for generation in self._generations.since(point.gc_generation):
            outcome = generation.outcome
            if outcome is None:
                if point.id in generation.plan.points:
                    continue
                why = f"restore point {point.id} was committed beside the plan"
                outcome = self._generations.cancel(generation.number, why, self._clock.now())
            if outcome.is_sweep and point.id not in outcome.points:
                self._refuse_if_swept(point, generation)

    def _refuse_if_swept(self, point: RestorePoint, generation: Generation) -> None:
        _, gone = self._generations.newest_with(self._generations.gone_after)
        if not is_whole(self._store, self._records, point.disks, gone):
            raise CommitFailed(
                point.key,
                f"generation {generation.number} of collection was decided while this "
                "session slept, and takes what the restore point needs",
            )

    def _rescued(self, disk: DiskRecord, avoided: Set[str], index: ChunkIndex) -> DiskRecord:
        """The disk, referring to nothing that is condemned."""
        disk_map = open_if_there(self._store, self._records, disk)
        packs = pack_ids(avoided)
        if disk_map is None:
            raise CommitFailed(f"disk {disk.disk_id}", "its map was collected meanwhile")
        if not map_names(disk) & avoided and not _touches(disk_map, packs):
            return disk
        copier = _Copier(self._store, self._records, self._opener, self)
        layer = LayerWriter()
        try:
            for number in range(disk_map.shape.window_count):
                places = copier.copied(disk_map.window(number), packs, index)
                layer.write_window(number, places, np.ones(len(places), dtype=np.bool_))
            copier.finish()
            ref = store_layer(
                self._store,
                layer,
                disk.disk_id,
                DiskShape(disk.size_bytes, disk.chunk_size_bytes),
                disk_map.window_digests,
                is_base=True,
                keys=self._records.keys,
                sealer=self._records.sealer,
            )
        finally:
            layer.close()
        return disk.model_copy(update={"maps": (ref,)})

    def store_if_full(self, builder: PackBuilder, *, always: bool = False) -> PackBuilder:
        """Store the pack once it is big enough; returns the one to go on with."""
        if len(builder) and (always or builder.size_bytes >= self._pack_target_bytes):
            self._store_pack(*builder.finish())
            return PackBuilder(self._records.keys, self._records.sealer)
        return builder


class _Copier:
    """Copies chunks out of condemned packs."""

    def __init__(
        self, store: Store, records: RecordCodec, opener: ChunkOpener, guard: CommitGuard
    ) -> None:
        self._store = store
        self._opener = opener
        self._guard = guard
        self._builder = PackBuilder(records.keys, records.sealer)
        self._done: dict[bytes, Places] = {}

    def copied(self, places: Places, packs: Set[bytes], index: ChunkIndex) -> Places:
        """The rows of one window, each where the chunk lies safely."""
        rows = np.flatnonzero(in_packs(places, packs) & (places["length"] > 0))
        if not len(rows):
            return places
        safe = places.copy()
        found = index.find([places["id"][row].tobytes() for row in rows])
        for row, place in zip(rows.tolist(), found, strict=True):
            safe[row] = (place if place is not None else self._copy(places[row]))[0]
        return safe

    def finish(self) -> None:
        """Store what is left."""
        self._builder = self._guard.store_if_full(self._builder, always=True)

    def _copy(self, place: np.void) -> Places:
        chunk_id, pack_id = place["id"].tobytes(), place["pack"].tobytes()
        if chunk_id not in self._done:
            try:
                stored = self._store.get_range(
                    pack_key(pack_id), int(place["offset"]), int(place["length"])
                )
            except ObjectNotFound as error:
                detail = "the session slept while collection deleted what it had found"
                raise CommitFailed(pack_key(pack_id), detail) from error
            payload = self._opener.for_pack(pack_id).payload(chunk_id, memoryview(stored))
            entry = self._builder.append(chunk_id, *payload)
            row = (chunk_id, self._builder.pack_id, entry.offset_bytes, entry.length_bytes)
            self._done[chunk_id] = np.array([row], dtype=PLACE)
            self._builder = self._guard.store_if_full(self._builder)
        return self._done[chunk_id]


def _touches(disk_map: DiskMap, packs: Set[bytes]) -> bool:
    """Whether any chunk of the disk lies in one of these packs, as far as the map knows."""
    return any(
        bool(in_packs(disk_map.window(number), packs).any())
        for number in range(disk_map.shape.window_count)
    )
