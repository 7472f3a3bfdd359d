"""Repair: take what is still good out of what is bad, and let nothing rely on the rest.

Starts from what verification found. Of a bad pack every chunk that still opens is copied into a new
pack; what is lost comes back with the next backup that reads it, because a quarantined pack is known
to nobody (`quarantine.py`). An index segment that is bad or missing is made again from the packs
themselves. Nothing is deleted. Can be stopped or killed anywhere and run again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from repository.codec import ChunkCodec
from repository.creating import create_own
from repository.errors import DamagedObject, InvalidInput, ObjectNotFound, Stopped
from repository.findings import Finding, FindingKind
from repository.generations import Generations
from repository.layout import PACKS, SEGMENTS, pack_key
from repository.leases import Lease
from repository.locating import read_segments
from repository.open_findings import concerned_as_data
from repository.packs import (
    CHUNK_HEADER,
    CHUNK_MAGIC,
    ChunkOpener,
    PackBuilder,
    StoredPack,
    places_of,
    read_pack_table,
)
from repository.quarantine import object_id, quarantine, quarantined_packs
from repository.records import RecordCodec
from repository.segments import Segment, encode_segment
from repository.store import Store
from repository.units import Clock

_PACKS_PER_SEGMENT = 64


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What was done or, in a dry run, what would be done."""

    is_dry_run: bool
    findings: tuple[Finding, ...]
    """What verification found before."""
    packs_quarantined: tuple[str, ...]
    segments_quarantined: tuple[str, ...]
    packs_indexed: int
    """Packs that no readable segment named, and that one names now."""
    chunks_saved: int
    """Chunks of bad packs that still open, copied into new packs."""
    saved_bytes: int
    """Their plain bytes."""

    @property
    def not_repairable(self) -> tuple[Finding, ...]:
        """What repair has no means against: records, maps, and what a newer version wrote."""
        handled = {*self.packs_quarantined, *self.segments_quarantined}
        return tuple(finding for finding in self.findings if finding.key not in handled)


class Repairer:
    """One run of repair."""

    def __init__(
        self,
        store: Store,
        records: RecordCodec,
        pack_target_bytes: int,
        clock: Clock,
        lease: Lease,
        stop: threading.Event,
    ) -> None:
        self._store = store
        self._records = records
        self._pack_target_bytes = pack_target_bytes
        self._clock = clock
        self._lease = lease
        self._stop = stop
        self._opener = ChunkOpener(records.keys, records.sealer, ChunkCodec(level=1))
        self._builder = PackBuilder(records.keys, records.sealer)
        self._chunks_saved = self._saved_bytes = 0

    def run(self, findings: Sequence[Finding], *, dry_run: bool) -> RepairReport:
        """Repair what these findings of a whole verification at the deepest level allow."""
        # One object may have several findings; any of them says enough.
        repairable = {
            each.key: each for each in findings if each.kind is not FindingKind.UNREADABLE
        }
        bad_packs = [key for key in repairable if _is_pack(key)]
        bad_segments = [key for key in repairable if key.startswith(SEGMENTS)]
        found = self._unindexed_packs(set(bad_packs))
        indexed = len(found)
        for key in bad_packs:
            found += self._salvage(key, dry_run=dry_run)
        found += self._finish_pack(dry_run=dry_run)
        if not dry_run:
            self._index(found)
            for key in [*bad_packs, *bad_segments]:
                self._quarantine(repairable[key])
        return RepairReport(
            is_dry_run=dry_run,
            findings=tuple(findings),
            packs_quarantined=tuple(sorted(bad_packs)),
            segments_quarantined=tuple(sorted(bad_segments)),
            packs_indexed=indexed,
            chunks_saved=self._chunks_saved,
            saved_bytes=self._saved_bytes,
        )

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Stopped("the repair")
        if self._lease.is_taken:
            self._lease.keep_alive()

    def _unindexed_packs(self, bad: set[str]) -> list[StoredPack]:
        """Good packs that no readable segment names."""
        known = set(quarantined_packs(self._store))
        for _, segment in read_segments(self._store, self._records):
            if isinstance(segment, Segment):
                known |= segment.pack_sizes_bytes.keys()
        found = []
        for info in self._store.list(PACKS):
            self._check_stop()
            if info.key in bad or not _is_pack(info.key):
                continue
            pack_id = bytes.fromhex(object_id(info.key))
            if pack_id not in known:
                found.append(self._read_pack(pack_id))
        return [pack for pack in found if pack is not None]

    def _read_pack(self, pack_id: bytes) -> StoredPack | None:
        """The pack by its own table; None if it was deleted since it was listed."""
        try:
            data = self._store.get(pack_key(pack_id))
        except ObjectNotFound:
            return None
        entries = read_pack_table(data, pack_id, self._records.keys)
        return StoredPack(pack_id, len(data), places_of(pack_id, entries))

    def _salvage(self, key: str, *, dry_run: bool) -> Iterator[StoredPack]:
        """Copy what still opens; yields the packs that were filled."""
        try:
            data = self._store.get(key)
        except ObjectNotFound:
            return
        for chunk_id, plain_bytes, codec, payload in self._open_chunks(key, data):
            self._check_stop()
            self._builder.append(chunk_id, plain_bytes, codec, payload)
            self._chunks_saved += 1
            self._saved_bytes += plain_bytes
            if self._builder.size_bytes >= self._pack_target_bytes:
                yield from self._finish_pack(dry_run=dry_run)

    def _open_chunks(self, key: str, data: bytes) -> Iterator[tuple[bytes, int, int, bytes]]:
        """Every chunk in what remains of a pack, found by its magic and proven by its id."""
        opener = self._opener.for_pack(bytes.fromhex(object_id(key)))
        position = data.find(CHUNK_MAGIC)
        while 0 <= position <= len(data) - CHUNK_HEADER.size:
            fields = CHUNK_HEADER.unpack_from(data, position)
            end = position + CHUNK_HEADER.size + fields[3]
            try:
                opened = opener.payload(fields[7], memoryview(data)[position:end])
            except DamagedObject:
                end = position + len(CHUNK_MAGIC)
            else:
                plain_bytes, codec, payload = opened
                yield fields[7], plain_bytes, codec, bytes(payload)
            position = data.find(CHUNK_MAGIC, end)

    def _finish_pack(self, *, dry_run: bool) -> list[StoredPack]:
        """Store the pack that is being filled."""
        if not len(self._builder):
            return []
        builder = self._builder
        self._builder = PackBuilder(self._records.keys, self._records.sealer)
        if dry_run:
            return []
        pack, pieces = builder.finish()
        create_own(self._store, pack_key(pack.pack_id), *pieces)
        return [pack]

    def _index(self, packs: Sequence[StoredPack]) -> None:
        for first in range(0, len(packs), _PACKS_PER_SEGMENT):
            some = packs[first : first + _PACKS_PER_SEGMENT]
            key, stored = encode_segment(
                some, self._lease.session_id, self._records.keys, self._records.sealer
            )
            create_own(self._store, key, stored)

    def _quarantine(self, finding: Finding) -> None:
        facts = {
            "at": self._clock.now().isoformat(),
            "finding": finding.kind.value,
            "detail": finding.detail,
            "concerned": concerned_as_data(finding.concerned),
        }
        quarantine(self._store, self._records, finding.key, facts)


def make_room(store: Store, records: RecordCodec, clock: Clock) -> None:
    """Give up the plan that waits, which does not know what repair is about to find out.

    To be called with a lease: plans that begin later see that. Raises InvalidInput while objects are
    being deleted.
    """
    generations = Generations(store, records)
    newest = generations.newest()
    if newest is None or newest.is_over:
        return
    outcome = newest.outcome
    if outcome is None:
        outcome = generations.cancel(newest.number, "a repair has begun", clock.now())
    if outcome.is_sweep:
        raise InvalidInput("repair", "collection is deleting objects; run `ahvault collect` first")


def _is_pack(key: str) -> bool:
    """Whether the name is a pack's; anything else below data/ is not ours to repair."""
    try:
        return pack_key(bytes.fromhex(object_id(key))) == key
    except ValueError:
        return False
