"""The part of a verification that reads packs, and says whom a bad one concerns."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from repository.codec import ChunkCodec
from repository.concurrency import run_in_order
from repository.errors import (
    DamagedObject,
    ObjectNotFound,
    RepositoryError,
    Stopped,
    UnsupportedFormat,
)
from repository.extents import Extent
from repository.findings import Concerned, Finding, FindingKind, VerifyLevel
from repository.layout import pack_id_in, pack_key
from repository.locating import ChunkLocator
from repository.maps import DiskMap, open_disk_map
from repository.packs import ChunkOpener, places_of, read_pack_table
from repository.places import Mask, Places
from repository.points import DiskRecord
from repository.records import RecordCodec
from repository.references import DiskState, Marks, References, marks_of, matching_extents
from repository.store import ObjectInfo, Store

PACKS_AT_ONCE = 3
BAD = (DamagedObject, ObjectNotFound, UnsupportedFormat)
"""What reading raises when an object is bad; anything else is the store's trouble and ends the run."""

_NO_MARKS: Marks = np.empty(0, dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class PackReading:
    """What reading one pack showed."""

    pack_id: bytes | None
    """None for a name that is no pack's."""
    marks: Marks
    chunk_count: int
    size_bytes: int
    finding: Finding | None


class PackVerifier:
    """Reads packs to one level. `read` runs in threads; all else in the caller's."""

    def __init__(
        self,
        store: Store,
        records: RecordCodec,
        locator: ChunkLocator,
        level: VerifyLevel,
        stop: threading.Event,
    ) -> None:
        self._store = store
        self._records = records
        self._locator = locator
        self._level = level
        self._stop = stop
        self._opener = ChunkOpener(records.keys, records.sealer, ChunkCodec(level=1))

    def read_all(
        self, packs: Iterable[ObjectInfo], take: Callable[[ObjectInfo, PackReading], None]
    ) -> None:
        """Read every pack, a few at once, and hand over in order what each showed."""
        with ThreadPoolExecutor(PACKS_AT_ONCE, "ahvault-verify") as pool:
            work = run_in_order(pool, self._read, packs, 2 * PACKS_AT_ONCE)
            with closing(work) as results:
                for info, reading in results:
                    take(info, reading)

    def open_map(self, record: DiskRecord) -> DiskMap:
        """The map of a disk, with its chunks where they lie now; raises what `BAD` names."""
        keys, sealer = self._records.keys, self._records.sealer
        return open_disk_map(self._store, record, keys, sealer, self._locator.relocate)

    def _read(self, info: ObjectInfo) -> PackReading:
        if self._stop.is_set():
            raise Stopped("the verification")
        pack_id = pack_id_in(info.key)
        try:
            if pack_id is None:
                raise DamagedObject(info.key, "its name is not a pack's")
            data = self._store.get(info.key)
            entries = read_pack_table(data, pack_id, self._records.keys)
            if self._level < VerifyLevel.CONTENT:
                return PackReading(pack_id, _NO_MARKS, 0, len(data), None)
            opener = self._opener.for_pack(pack_id)
            for entry in entries:
                end_bytes = entry.offset_bytes + entry.length_bytes
                opener.open(entry.chunk_id, memoryview(data)[entry.offset_bytes : end_bytes])
            marks = marks_of(places_of(pack_id, entries))
            return PackReading(pack_id, marks, len(entries), len(data), None)
        except BAD as error:
            finding = finding_of(info.key, error, level=self._level)
            return PackReading(pack_id, _NO_MARKS, 0, info.size_bytes, finding)

    def with_concerned(self, finding: Finding, references: References) -> Finding | None:
        """The finding with whom a bad pack concerns: its chunks, or those that really fail.

        None if the pack was deleted meanwhile and nothing needs it any more, or only what was
        deleted with it.
        """
        pack_id = pack_id_in(finding.key)
        if pack_id is None:
            return finding
        if finding.kind is FindingKind.MISSING:
            self._locator.look_again()  # it may have been moved since the maps were read
            points = [p for state in references.states_with(pack_id) for p in state.points]
            there = {point.id for point in points if self._store.stat(point.key)}
            parts = self.concerned_by(references, pack_id)
            concerned = tuple(part for part in parts if part.point_id in there)
            return replace(finding, concerned=concerned) if concerned else None
        if self._level >= VerifyLevel.CONTENT:
            failing = self.concerned_by(references, pack_id, only_failing=True)
            if failing:
                return replace(finding, concerned=failing)
            detail = f"{finding.detail}; every chunk that a restore point needs still reads"
            finding = replace(finding, detail=detail)
        return replace(finding, concerned=self.concerned_by(references, pack_id))

    def concerned_by(
        self, references: References, pack_id: bytes, *, only_failing: bool = False
    ) -> tuple[Concerned, ...]:
        """Which parts of which restore points lie in the pack, or lie there and do not open."""
        wanted = np.void(pack_id)
        tested: dict[tuple[bytes, int, int], bool] = {}

        def matches(places: Places) -> Mask:
            hits = np.asarray(places["pack"] == wanted)
            if only_failing:
                for row in np.flatnonzero(hits):
                    hits[row] = self._fails(pack_id, places[row], tested)
            return hits

        concerned: list[Concerned] = []
        for state in references.states_with(pack_id):
            extents = self._matching(state, matches)
            if extents:
                concerned += state.concerned(extents)
        return tuple(concerned)

    def _matching(self, state: DiskState, matches: Callable[[Places], Mask]) -> list[Extent]:
        """The extents that match; none for a map that was read before and is gone or bad since."""
        try:
            return matching_extents(self.open_map(state.record), matches)
        except BAD:
            return []

    def _fails(
        self, pack_id: bytes, place: np.void, tested: dict[tuple[bytes, int, int], bool]
    ) -> bool:
        """Whether one chunk, read alone, does not open."""
        identity = (place["id"].tobytes(), int(place["offset"]), int(place["length"]))
        if identity not in tested:
            try:
                stored = self._store.get_range(pack_key(pack_id), identity[1], identity[2])
                self._opener.for_pack(pack_id).open(identity[0], memoryview(stored))
                tested[identity] = False
            except BAD:
                tested[identity] = True
        return tested[identity]

    def unmet(
        self, references: References, found: Sequence[Marks], sound: Set[bytes]
    ) -> list[Finding]:
        """References into the packs that were read and found sound which lead to no chunk there."""
        met = np.unique(np.concatenate([_NO_MARKS, *found]))
        unmet = np.setdiff1d(references.marks_in(sound), met, assume_unique=True)
        if not len(unmet):
            return []
        findings: list[Finding] = []
        for state in references.states:
            findings += self._unmet_of(state, unmet)
        return findings

    def _unmet_of(self, state: DiskState, unmet: Marks) -> list[Finding]:
        lost: set[bytes] = set()

        def matches(places: Places) -> Mask:
            hits = np.isin(marks_of(places), unmet)
            lost.update(places["pack"][row].tobytes() for row in np.flatnonzero(hits))
            return np.asarray(hits)

        concerned = tuple(state.concerned(self._matching(state, matches)))
        detail = "it does not hold a chunk where the disk map says"
        kind, level = FindingKind.WRONG_CONTENT, VerifyLevel.CONTENT
        return [Finding(pack_key(pack_id), kind, detail, concerned, level) for pack_id in lost]


def finding_of(
    key: str,
    error: RepositoryError,
    concerned: Sequence[Concerned] = (),
    level: VerifyLevel = VerifyLevel.RECORDS,
) -> Finding:
    """What an error that `BAD` names means for the object."""
    kinds = {
        ObjectNotFound: FindingKind.MISSING,
        UnsupportedFormat: FindingKind.UNREADABLE,
        DamagedObject: FindingKind.DAMAGED,
    }
    detail = error.detail if isinstance(error, DamagedObject | ObjectNotFound) else str(error)
    return Finding(key, kinds[type(error)], detail, tuple(concerned), level)
