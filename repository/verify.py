"""Verification: is everything that the restore points need still what was written?

Goes from the restore points down: records, then the maps of their disks, then the packs that the
maps name, then every chunk in them. Damage becomes a finding and never stops the rest. For each
finding the maps concerned are read once more, to say which restore points and byte ranges it
touches; at the deepest level only chunks that really fail to open count.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from repository.catalogue import Catalogue
from repository.codec import ChunkCodec
from repository.concurrency import run_in_order
from repository.description import Description
from repository.errors import (
    DamagedObject,
    ObjectNotFound,
    RepositoryError,
    Stopped,
    UnsupportedFormat,
)
from repository.findings import (
    Concerned,
    Finding,
    FindingKind,
    VerifyLevel,
    VerifyProgress,
    VerifyReport,
)
from repository.generations import Generations
from repository.keyring import read_wrap
from repository.layout import (
    GENERATIONS,
    HOLDS,
    KEYS,
    LIVE,
    PACKS,
    POINTS,
    QUARANTINE,
    REPORTS,
    REPOSITORY_FILE,
    SEGMENTS,
    TOMBS,
    pack_key,
    point_id_of,
)
from repository.locating import ChunkLocator
from repository.maps import DiskMap, open_disk_map
from repository.packs import ChunkOpener, places_of, read_pack_table
from repository.places import Mask, Places
from repository.points import RestorePoint
from repository.quarantine import object_id, quarantined, quarantined_packs
from repository.records import RecordCodec
from repository.references import (
    DiskState,
    Marks,
    References,
    disk_states,
    marks_of,
    matching_extents,
)
from repository.segments import decode_segment
from repository.store import ObjectInfo, Store

_PACKS_AT_ONCE = 3
_SIDE_RECORDS = (
    (REPORTS, "report"),
    (LIVE, "live"),
    (TOMBS, "tomb"),
    (HOLDS, "hold"),
    (QUARANTINE, "quarantine"),
)
_NO_MARKS: Marks = np.empty(0, dtype=np.uint64)
_BAD = (DamagedObject, ObjectNotFound, UnsupportedFormat)
"""What reading raises when an object is bad; anything else is the store's trouble and ends the run."""


@dataclass(frozen=True, slots=True)
class _PackCheck:
    """What reading one pack showed."""

    marks: Marks
    chunk_count: int
    size_bytes: int
    finding: Finding | None


class Verifier:
    """One verification run."""

    def __init__(
        self,
        store: Store,
        records: RecordCodec,
        catalogue: Catalogue,
        locator: ChunkLocator,
        *,
        on_progress: Callable[[VerifyProgress], None] | None,
        stop: threading.Event,
    ) -> None:
        self._store = store
        self._records = records
        self._catalogue = catalogue
        self._locator = locator
        self._on_progress = on_progress
        self._stop = stop
        self._opener = ChunkOpener(records.keys, records.sealer, ChunkCodec(level=1))
        self._findings: dict[tuple[str, FindingKind], Finding] = {}
        self._objects_checked = 0
        self._pack_sizes_bytes: dict[bytes, int] = {}

    def run(self, level: VerifyLevel, chosen: Sequence[RestorePoint] | None) -> VerifyReport:
        """Check to this level what the chosen restore points need, or everything there is."""
        points = self._check_points(chosen)
        self._check_segments(report=chosen is None)
        if chosen is None:
            self._check_side_records()
        references = References(with_marks=level >= VerifyLevel.CONTENT)
        states = disk_states(points)
        for state in states:
            self._check_map(state, references)
        packs: list[ObjectInfo] = []
        if level >= VerifyLevel.PRESENCE:
            packs = self._check_presence(references, all_packs=chosen is None)
        checks = self._check_packs(packs, references, level) if level >= VerifyLevel.STORED else []
        return VerifyReport(
            level=level,
            findings=tuple(self._findings.values()),
            points_checked=len(points),
            disks_checked=len(states),
            objects_checked=self._objects_checked,
            packs_checked=len(packs),
            chunks_checked=sum(check.chunk_count for check in checks),
            bytes_checked=sum(check.size_bytes for check in checks),
        )

    def _add(self, finding: Finding) -> None:
        """Keep the finding; several of one kind on one object become one."""
        known = self._findings.get((finding.key, finding.kind))
        if known is not None:
            new = tuple(part for part in finding.concerned if part not in known.concerned)
            finding = replace(known, concerned=known.concerned + new)
        self._findings[finding.key, finding.kind] = finding

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Stopped("the verification")

    def _check_points(self, chosen: Sequence[RestorePoint] | None) -> list[RestorePoint]:
        """The restore points whose records read back; findings for those that do not."""
        if chosen is None:
            keys = [info.key for info in self._store.list(POINTS)]
        else:
            keys = [point.key for point in chosen]
        points = []
        for key in keys:
            self._check_stop()
            self._objects_checked += 1
            try:
                points.append(self._catalogue.read_anew(key))
            except _BAD as error:
                vm_name = next((point.vm_name for point in chosen or () if point.key == key), "")
                concerned = (Concerned(point_id_of(key), vm_name),)
                self._add(_finding(key, error, concerned))
        return points

    def _check_segments(self, *, report: bool) -> None:
        """Learn the packs' sizes; a bad segment costs no restore point anything."""
        bad = quarantined(self._store)
        for info in self._store.list(SEGMENTS):
            self._check_stop()
            if object_id(info.key) in bad:
                continue
            try:
                stored = self._store.get(info.key)
                segment = decode_segment(info.key, stored, self._records.keys, self._records.sealer)
            except _BAD as error:
                if report:
                    self._add(_finding(info.key, error))
                continue
            finally:
                self._objects_checked += report
            self._pack_sizes_bytes.update(segment.pack_sizes_bytes)

    def _check_side_records(self) -> None:
        """`repo.json`, key wraps, reports and live records."""
        self._check_object(REPOSITORY_FILE, partial(Description.decode, self._store.url))
        for info in self._store.list(KEYS):
            self._check_object(info.key, partial(read_wrap, info.key))
        for prefix, kind in _SIDE_RECORDS:
            for info in self._store.list(prefix):
                self._check_object(info.key, partial(self._records.decode, info.key, kind))
        generations = Generations(self._store, self._records)
        for info in self._store.list(GENERATIONS):
            if info.key.endswith(".json"):
                self._check_object(info.key, partial(generations.check, info.key))

    def _check_object(self, key: str, decode: Callable[[bytes], object]) -> None:
        self._check_stop()
        self._objects_checked += 1
        try:
            decode(self._store.get(key))
        except ObjectNotFound:
            return  # a live record, deleted since it was listed
        except _BAD as error:
            self._add(_finding(key, error))

    def _check_map(self, state: DiskState, references: References) -> None:
        """Read the whole map of a disk state and gather what it refers to."""
        self._check_stop()
        self._objects_checked += len(state.record.maps)
        try:
            references.add(state, self._open_map(state))
        except _BAD as error:
            self._add(_finding(_key_of(error), error, state.concerned()))

    def _open_map(self, state: DiskState) -> DiskMap:
        keys, sealer = self._records.keys, self._records.sealer
        return open_disk_map(self._store, state.record, keys, sealer, self._locator.relocate)

    def _check_presence(self, references: References, *, all_packs: bool) -> list[ObjectInfo]:
        """The packs to read further, after comparing the listing with what is needed."""
        needed = {pack_key(pack_id): pack_id for pack_id in references.pack_ids}
        # What is under quarantine and needed by nobody is no news.
        left_out = {pack_key(each) for each in quarantined_packs(self._store)} - needed.keys()
        listed = {info.key: info for info in self._store.list(PACKS) if info.key not in left_out}
        for key, pack_id in needed.items():
            if key not in listed:
                concerned = self._concerned_by_pack(references, pack_id)
                self._add(Finding(key, FindingKind.MISSING, "there is no such object", concerned))
        for pack_id, size_bytes in self._pack_sizes_bytes.items():
            info = listed.get(pack_key(pack_id))
            if info and info.size_bytes != size_bytes and (all_packs or info.key in needed):
                detail = f"it has {info.size_bytes} bytes instead of {size_bytes}"
                concerned = self._concerned_by_pack(references, pack_id)
                self._add(Finding(info.key, FindingKind.WRONG_SIZE, detail, concerned))
        if all_packs:
            return list(listed.values())
        return [listed[key] for key in needed if key in listed]

    def _check_packs(
        self, packs: Sequence[ObjectInfo], references: References, level: VerifyLevel
    ) -> list[_PackCheck]:
        """Read every pack; at the deepest level, account for every reference."""
        bytes_total = sum(info.size_bytes for info in packs)
        bytes_done = 0
        checks: list[_PackCheck] = []
        with ThreadPoolExecutor(_PACKS_AT_ONCE, "ahvault-verify") as pool:
            work = run_in_order(
                pool, lambda info: self._check_pack(info, level), packs, 2 * _PACKS_AT_ONCE
            )
            with closing(work) as results:
                for info, check in results:
                    checks.append(check)
                    bytes_done += info.size_bytes
                    if check.finding:
                        self._add_pack_finding(check.finding, references, level)
                    if self._on_progress:
                        self._on_progress(
                            VerifyProgress(len(checks), len(packs), bytes_done, bytes_total)
                        )
        if level >= VerifyLevel.CONTENT:
            self._account(references, checks)
        return checks

    def _check_pack(self, info: ObjectInfo, level: VerifyLevel) -> _PackCheck:
        """Read one pack; runs in the pool's threads."""
        self._check_stop()
        try:
            pack_id = _pack_id(info.key)
            data = self._store.get(info.key)
            entries = read_pack_table(data, pack_id, self._records.keys)
            if level < VerifyLevel.CONTENT:
                return _PackCheck(_NO_MARKS, 0, len(data), None)
            opener = self._opener.for_pack(pack_id)
            for entry in entries:
                end_bytes = entry.offset_bytes + entry.length_bytes
                opener.open(entry.chunk_id, memoryview(data)[entry.offset_bytes : end_bytes])
            marks = marks_of(places_of(pack_id, entries))
            return _PackCheck(marks, len(entries), len(data), None)
        except _BAD as error:
            return _PackCheck(_NO_MARKS, 0, info.size_bytes, _finding(info.key, error))

    def _add_pack_finding(
        self, finding: Finding, references: References, level: VerifyLevel
    ) -> None:
        """Say whom a bad pack concerns: its chunks, or at the deepest level those that fail."""
        try:
            pack_id = _pack_id(finding.key)
        except DamagedObject:
            self._add(finding)
            return
        if level >= VerifyLevel.CONTENT:
            failing = self._concerned_by_pack(references, pack_id, only_failing=True)
            if failing:
                self._add(replace(finding, concerned=failing))
                return
            detail = f"{finding.detail}; every chunk that a restore point needs still reads"
            finding = replace(finding, detail=detail)
        concerned = self._concerned_by_pack(references, pack_id)
        self._add(replace(finding, concerned=concerned))

    def _concerned_by_pack(
        self, references: References, pack_id: bytes, *, only_failing: bool = False
    ) -> tuple[Concerned, ...]:
        wanted = np.void(pack_id)
        tested: dict[tuple[bytes, int, int], bool] = {}

        def matches(places: Places) -> Mask:
            hits = np.asarray(places["pack"] == wanted)
            if only_failing:
                for row in np.flatnonzero(hits):
                    hits[row] = self._fails(pack_id, places[row], tested)
            return hits

        return self._concerned(references.states_with(pack_id), matches)

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
            except _BAD:
                tested[identity] = True
        return tested[identity]

    def _concerned(
        self, states: Sequence[DiskState], matches: Callable[[Places], Mask]
    ) -> tuple[Concerned, ...]:
        concerned: list[Concerned] = []
        for state in states:
            extents = matching_extents(self._open_map(state), matches)
            if extents:
                concerned += state.concerned(extents)
        return tuple(concerned)

    def _account(self, references: References, checks: Sequence[_PackCheck]) -> None:
        """Every reference must lead to a chunk that was opened, or to a pack already found bad."""
        found = np.unique(np.concatenate([_NO_MARKS, *(check.marks for check in checks)]))
        unmet = np.setdiff1d(references.marks, found, assume_unique=True)
        if not len(unmet):
            return
        reported = {_pack_id(key) for key, _ in self._findings if key.startswith(PACKS)}
        for state in references.states:
            self._account_state(state, unmet, reported)

    def _account_state(self, state: DiskState, unmet: Marks, reported: set[bytes]) -> None:
        lost: set[bytes] = set()

        def matches(places: Places) -> Mask:
            hits = np.isin(marks_of(places), unmet)
            for row in np.flatnonzero(hits):
                pack_id = places["pack"][row].tobytes()
                hits[row] = pack_id not in reported
                if hits[row]:
                    lost.add(pack_id)
            return np.asarray(hits)

        extents = matching_extents(self._open_map(state), matches)
        for pack_id in lost:
            detail = "it does not hold a chunk where the disk map says"
            concerned = tuple(state.concerned(extents))
            self._add(Finding(pack_key(pack_id), FindingKind.WRONG_CONTENT, detail, concerned))


def _finding(key: str, error: RepositoryError, concerned: Sequence[Concerned] = ()) -> Finding:
    kinds = {
        ObjectNotFound: FindingKind.MISSING,
        UnsupportedFormat: FindingKind.UNREADABLE,
        DamagedObject: FindingKind.DAMAGED,
    }
    detail = error.detail if isinstance(error, DamagedObject | ObjectNotFound) else str(error)
    return Finding(key, kinds[type(error)], detail, tuple(concerned))


def _key_of(error: DamagedObject | ObjectNotFound | UnsupportedFormat) -> str:
    return error.url if isinstance(error, UnsupportedFormat) else error.key


def _pack_id(key: str) -> bytes:
    """The id in a pack's name; raises DamagedObject for a name that is not one of ours."""
    try:
        pack_id = bytes.fromhex(key.rpartition("/")[2])
    except ValueError as error:
        raise DamagedObject(key, "its name is not a pack's") from error
    if pack_key(pack_id) != key:
        raise DamagedObject(key, "its name is not a pack's")
    return pack_id
