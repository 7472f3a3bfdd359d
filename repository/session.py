"""A write session: disks in, restore points out.

The session owns the threads, the index and the segments. Order of writing, on which everything
rests: packs, then the segments that name them, then maps, and last the commit record. A session
that dies in between leaves objects that nothing refers to but the index, where the next session
finds the chunks and need not store them again.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from repository.catalogue import Catalogue
from repository.codec import ChunkCodec
from repository.commit_guard import CommitGuard
from repository.controls import TransferControls
from repository.counters import TransferCounters
from repository.creating import create_own
from repository.disk_writer import BaseDisk, DiskWriter
from repository.errors import (
    CommitFailed,
    InvalidInput,
    RepositoryError,
)
from repository.extents import Extent
from repository.generations import Generations, pack_ids
from repository.index import ChunkIndex
from repository.layout import pack_key
from repository.leases import Lease
from repository.locating import learn_chunks
from repository.maps import open_disk_map
from repository.options import RepositoryOptions
from repository.packs import ChunkOpener, StoredPack
from repository.pipeline import Tools
from repository.points import DiskRecord, DiskSpec, PointDraft, RestorePoint
from repository.ports import Buffer, DiskSource, Pace, Throttle
from repository.quarantine import quarantined_packs
from repository.records import RecordCodec
from repository.sampling import chunks_in_packs
from repository.segments import encode_segment
from repository.store import Store
from repository.units import Clock

_LOG = logging.getLogger(__name__)

# A killed session loses at most this much of its work for the next one.
PACKS_PER_SEGMENT = 8
SEGMENT_AGE_S_MAX = 300.0

_INDEX_THREADS = 8
# Made as they are needed. Every disk has at most two uploads on their way; one that waits for a limit
# must not hold up a disk that is under none.
_UPLOAD_THREADS = 64
_BATCHES_PER_CORE = 4


class WriteSession:
    """Writes disks and commits restore points; made by `Repository.write_session`.

    Thread-safe: the disks of one or many VMs may be written in parallel through one session.
    Several processes may have sessions of the same id open. Use it as a context manager: leaving it
    makes everything stored so far known to later sessions, also after an error.
    """

    def __init__(
        self,
        session_id: str,
        store: Store,
        records: RecordCodec,
        options: RepositoryOptions,
        catalogue: Catalogue,
        lease: Lease,
        clock: Clock,
    ) -> None:
        self.session_id = session_id
        self._store = store
        self._records = records
        self._options = options
        self._catalogue = catalogue
        self._lease = lease
        self._clock = clock
        self._generation = 0
        self._unindexed: list[StoredPack] = []
        self._flushed_at_s = clock.monotonic_s()
        self._guard = threading.Lock()
        cores = os.cpu_count() or 1
        self._index = ChunkIndex()
        self._compute = ThreadPoolExecutor(cores, "ahvault-compute")
        self._uploads = ThreadPoolExecutor(_UPLOAD_THREADS, "ahvault-upload")
        self._tools = Tools(
            keys=records.keys,
            sealer=records.sealer,
            codec=ChunkCodec(options.compression_level, options.chunk_size_bytes),
            index=self._index,
            compute=self._compute,
            uploads=self._uploads,
            batches_in_flight=_BATCHES_PER_CORE * cores,
            pack_target_bytes=options.pack_target_bytes,
            store_pack=self._store_pack,
            keep_alive=lease.keep_alive,
            distrusted_packs=set(),
        )
        self._guard_of_commits = CommitGuard(
            store,
            records,
            ChunkOpener(records.keys, records.sealer, self._tools.codec),
            options.pack_target_bytes,
            lambda pack, pieces: self._store_pack(pack, pieces, TransferCounters(), None),
            clock,
        )

    def load_index(self) -> None:
        """Learn what the repository holds, without what collection has condemned."""
        self._lease.renew()
        generations = Generations(self._store, self._records)
        newest, avoided = generations.newest_with(generations.avoided_by)
        self._generation = newest.number if newest else 0
        self._tools.distrusted_packs.update(quarantined_packs(self._store))
        unwanted = pack_ids(avoided) | self._tools.distrusted_packs
        learn_chunks(self._index, self._store, self._records, unwanted)

    def write_disk(
        self,
        spec: DiskSpec,
        source: DiskSource,
        extents: Sequence[Extent],
        base: DiskRecord | None,
        *,
        counters: TransferCounters | None = None,
        throttle: Throttle | None = None,
        stop: threading.Event | None = None,
        read_method: str,
        read_reason: str = "",
        source_facts: Mapping[str, Any] | None = None,
    ) -> DiskRecord:
        """Read what the extents ask for, store what is new, and return the disk's record.

        `extents` say what may differ from `base`, or from all zeros if there is none; the rest is
        inherited unread. Extents need not be aligned: a chunk that one touches is read whole. A
        chunk that turns out to equal the base's costs nothing. Where the disk is larger than its
        base, everything new that is not claimed ZERO is read.

        Durable on return, but not a restore point before `commit`. The record may travel to another
        process. Errors: InvalidInput for extents or sizes that cannot be; Stopped; the StoreError
        family; DamagedObject if the base's maps cannot be read (write without base then: the
        chunks are still known); and whatever the source raises. After any of them the threads of
        this transfer have ended, and what was stored is reused by the next attempt.
        """
        controls = TransferControls.of(counters, throttle, stop)
        if base is not None:
            self._lease.build_on(base)
        writer = DiskWriter(
            self._store,
            self._tools,
            spec,
            self._options.chunk_size_bytes,
            self._base(base),
            controls,
        )
        try:
            record = writer.write(
                source,
                extents,
                read_method=read_method,
                read_reason=read_reason,
                source_facts=source_facts or {},
            )
            return record.model_copy(update={"gc_generation": self._generation})
        finally:
            self._flush_if_due(controls.counters, packs_min=1)

    def unreliable_extents(self, record: DiskRecord) -> list[Extent]:
        """What of a disk lies in packs under quarantine: read it again, and it is stored anew (H4).

        Costs nothing while there is no such pack. Raises DamagedObject for the record's maps.
        """
        if not self._tools.distrusted_packs:
            return []
        keys, sealer = self._records.keys, self._records.sealer
        disk_map = open_disk_map(self._store, record, keys, sealer)
        return chunks_in_packs(disk_map, self._tools.distrusted_packs)

    def commit(self, draft: PointDraft) -> RestorePoint:
        """Make the restore point exist: one object, created last and read back before this returns.

        An answer lost on the way is resolved by reading back. Errors: InvalidInput for a draft that
        cannot be; CommitFailed if what is stored is not what was written, or if collection deleted
        what a disk needs while this process slept; the StoreError family, after which it is unknown
        whether the point exists: `Repository.points` tells.
        """
        self._lease.keep_alive()
        generation, disks = self._guard_of_commits.before(draft.disks)
        if disks != draft.disks:  # chunks were copied: their packs are indexed before the commit
            self._flush_if_due(TransferCounters(), packs_min=1)
        safe = draft.model_copy(update={"disks": disks})
        point = self._catalogue.commit(safe, self._clock.now(), generation)
        try:
            self._guard_of_commits.after(point)
        except CommitFailed:
            self._catalogue.withdraw(point, self._clock.now())
            raise
        return point

    def close(self) -> None:
        """Make what was stored known to later sessions and end the threads."""
        try:
            self._flush_if_due(TransferCounters(), packs_min=1)
        finally:
            self._compute.shutdown()
            self._uploads.shutdown()
            self._index.close()
            self._lease.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except RepositoryError as closing_error:
            if error is None:
                raise
            _LOG.warning("after an error, the index could not be completed: %s", closing_error)

    def _base(self, record: DiskRecord | None) -> BaseDisk | None:
        if record is None:
            return None
        if record.chunk_size_bytes != self._options.chunk_size_bytes:
            raise InvalidInput(
                f"base of disk {record.disk_id}",
                f"has chunks of {record.chunk_size_bytes} bytes, this repository "
                f"of {self._options.chunk_size_bytes}",
            )
        disk_map = open_disk_map(self._store, record, self._records.keys, self._records.sealer)
        return BaseDisk(record, disk_map)

    def _store_pack(
        self,
        pack: StoredPack,
        pieces: list[Buffer],
        counters: TransferCounters,
        pace: Pace | None,
    ) -> None:
        create_own(self._store, pack_key(pack.pack_id), *pieces, pace=pace)
        counters.add(requests=1, stored_bytes=pack.size_bytes)
        self._lease.keep_alive()
        self._index.add(pack.places)
        with self._guard:
            self._unindexed.append(pack)
        self._flush_if_due(counters, packs_min=PACKS_PER_SEGMENT)

    def _flush_if_due(self, counters: TransferCounters, *, packs_min: int) -> None:
        """Write a segment over the packs stored since the last one, if enough or old enough."""
        with self._guard:
            age_s = self._clock.monotonic_s() - self._flushed_at_s
            due = len(self._unindexed) >= packs_min or age_s > SEGMENT_AGE_S_MAX
            if not due or not self._unindexed:
                return
            packs, self._unindexed = self._unindexed, []
            self._flushed_at_s = self._clock.monotonic_s()
        try:
            key, stored = encode_segment(
                packs, self.session_id, self._records.keys, self._records.sealer
            )
            create_own(self._store, key, stored)
        except BaseException:
            with self._guard:  # still to be indexed by whoever flushes next
                self._unindexed = packs + self._unindexed
            raise
        counters.add(requests=1)
