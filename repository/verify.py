"""Verification: is everything that the restore points need still what was written?

Goes from the restore points down: records, then the maps of their disks, then the packs that the
maps name, then every chunk in them. Damage becomes a finding and never stops the rest. For each
finding the maps concerned are read once more, to say which restore points and byte ranges it
touches; at the deepest level only chunks that really fail to open count.

What was looked at goes into the ledger (`ledger.py`), what was found stays open until it is seen
mended (`open_findings.py`). With a budget only packs that are due are read, those first that were
not looked at for longest.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from repository.catalogue import Catalogue
from repository.coverage import covered_packs, due_packs, measure_coverage
from repository.description import Description
from repository.errors import (
    DamagedObject,
    ObjectNotFound,
    Stopped,
    StoreError,
    UnsupportedFormat,
)
from repository.findings import (
    Concerned,
    Finding,
    FindingKind,
    VerifyBudget,
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
    LEDGER,
    LIVE,
    PACKS,
    POINTS,
    QUARANTINE,
    REPORTS,
    REPOSITORY_FILE,
    SEGMENTS,
    TOMBS,
    pack_id_in,
    pack_key,
    point_id_of,
)
from repository.ledger import Ledger, check_ledger_object
from repository.locating import ChunkLocator
from repository.marks import LOST, TOMB_MARKS
from repository.marks import Marks as PointMarks
from repository.open_findings import OpenFindings, Settled
from repository.points import RestorePoint
from repository.quarantine import object_id, quarantined, quarantined_packs
from repository.records import RecordCodec
from repository.references import DiskState, Marks, References, disk_states
from repository.segments import decode_segment
from repository.store import ObjectInfo, Store
from repository.units import Clock
from repository.verify_packs import BAD, PackReading, PackVerifier, finding_of

_LOG = logging.getLogger(__name__)

_SIDE_RECORDS = (
    (REPORTS, "report"),
    (LIVE, "live"),
    (TOMBS, "tomb"),
    (HOLDS, "hold"),
    (QUARANTINE, "quarantine"),
)
_READINGS_PER_ENTRY = 1024
"""A verification that is killed has to read again at most so many packs."""


@dataclass(frozen=True, slots=True)
class VerifyTools:
    """What a verification works with."""

    store: Store
    records: RecordCodec
    catalogue: Catalogue
    locator: ChunkLocator
    open_findings: OpenFindings
    clock: Clock
    stop: threading.Event
    on_progress: Callable[[VerifyProgress], None] | None
    remembers: bool
    """Whether ledger and open findings are written; False writes nothing at all."""


class Verifier:
    """One verification run, of everything or of chosen restore points."""

    def __init__(
        self,
        tools: VerifyTools,
        level: VerifyLevel,
        chosen: Sequence[RestorePoint] | None = None,
        budget: VerifyBudget | None = None,
    ) -> None:
        self._tools = tools
        self._store = tools.store
        self._records = tools.records
        self._level = level
        self._chosen = chosen
        self._budget = budget
        self._packs = PackVerifier(tools.store, tools.records, tools.locator, level, tools.stop)
        self._findings: dict[tuple[str, FindingKind], Finding] = {}
        self._looked_at: set[str] = set()
        self._listed: dict[str, ObjectInfo] = {}
        self._pack_sizes_bytes: dict[bytes, int] = {}
        self._readings: list[PackReading] = []
        self._sound: set[bytes] = set()
        self._packs_checked = 0
        self._quarantined: frozenset[bytes] = frozenset()
        self._ledger = Ledger(tools.store, tools.records)

    def run(self) -> VerifyReport:
        """Look, remember, and report. Raises Stopped, or the store's errors."""
        started_s = self._tools.clock.monotonic_s()
        points = self._check_points()
        self._check_segments()
        if self._chosen is None:
            self._check_side_records()
        self._ledger = Ledger.load(self._store, self._records)
        self._quarantined = quarantined_packs(self._store)
        if self._level >= VerifyLevel.PRESENCE:
            self._listed = {info.key: info for info in self._store.list(PACKS)}
        due = self._due_packs()
        references = References(marked=self._packs_to_mark(due))
        states = disk_states(points)
        for state in states:
            self._check_map(state, references)
        if self._level >= VerifyLevel.PRESENCE:
            self._check_presence(references)
            packs = self._packs_to_read(references) if due is None else due
            self._packs_checked = len(packs)
            if self._level >= VerifyLevel.STORED:
                self._read_packs(packs, references, started_s)
        settled = self._remember(references)
        return self._report(len(points), len(states), settled)

    def _add(self, finding: Finding) -> None:
        """Keep the finding; several of one kind on one object become one."""
        known = self._findings.get((finding.key, finding.kind))
        if known is not None:
            new = tuple(part for part in finding.concerned if part not in known.concerned)
            finding = replace(known, concerned=known.concerned + new)
        self._findings[finding.key, finding.kind] = finding

    def _check_stop(self) -> None:
        if self._tools.stop.is_set():
            raise Stopped("the verification")

    def _check_points(self) -> list[RestorePoint]:
        """The restore points whose records read back; findings for those that do not.

        Nobody is told of points that an operator has given up.
        """
        if self._chosen is None:
            tombs = PointMarks(self._store, self._records, TOMB_MARKS).marked()
            lost = {point_id for point_id, tomb in tombs.items() if tomb.state == LOST}
            listed = (info.key for info in self._store.list(POINTS))
            keys = [key for key in listed if point_id_of(key) not in lost]
        else:
            keys = [point.key for point in self._chosen]
        points = []
        for key in keys:
            self._check_stop()
            self._looked_at.add(key)
            try:
                points.append(self._tools.catalogue.read_anew(key))
            except BAD as error:
                chosen = self._chosen or ()
                vm_name = next((point.vm_name for point in chosen if point.key == key), "")
                concerned = (Concerned(point_id_of(key), vm_name),)
                self._add(finding_of(key, error, concerned))
        return points

    def _check_segments(self) -> None:
        """Learn the packs' sizes; a bad segment costs no restore point anything."""
        bad = quarantined(self._store)
        for info in self._store.list(SEGMENTS):
            self._check_stop()
            if object_id(info.key) in bad:
                continue
            try:
                stored = self._store.get(info.key)
                segment = decode_segment(info.key, stored, self._records.keys, self._records.sealer)
            except ObjectNotFound:
                continue  # written anew and swept since it was listed
            except BAD as error:
                if self._chosen is None:
                    self._add(finding_of(info.key, error))
                continue
            finally:
                if self._chosen is None:
                    self._looked_at.add(info.key)
            self._pack_sizes_bytes.update(segment.pack_sizes_bytes)

    def _check_side_records(self) -> None:
        """`repo.json`, key wraps, reports, live records, marks, generations and the ledger."""
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
        for info in self._store.list(LEDGER):
            decode = partial(check_ledger_object, info.key, records=self._records)
            self._check_object(info.key, decode)

    def _check_object(self, key: str, decode: Callable[[bytes], object]) -> None:
        self._check_stop()
        self._looked_at.add(key)
        try:
            decode(self._store.get(key))
        except ObjectNotFound:
            return  # a live record, deleted since it was listed
        except BAD as error:
            self._add(finding_of(key, error))

    def _check_map(self, state: DiskState, references: References) -> None:
        """Read the whole map of a disk state and gather what it refers to."""
        self._check_stop()
        self._looked_at |= {ref.key for ref in state.record.maps}
        try:
            references.add(state, self._packs.open_map(state.record))
        except BAD as error:
            if isinstance(error, ObjectNotFound) and self._has_been_swept(state):
                return
            self._add(finding_of(_key_of(error), error, state.concerned()))

    def _has_been_swept(self, state: DiskState) -> bool:
        """Whether collection has deleted all restore points of the state since they were listed."""
        return all(self._store.stat(point.key) is None for point in state.points)

    def _due_packs(self) -> list[ObjectInfo] | None:
        """What a verification with a budget reads; None for one without."""
        if self._budget is None:
            return None
        packs = self._covered_packs()
        now = self._tools.clock.now()
        self._ledger.see(packs, now)
        return due_packs(packs, self._ledger, self._budget, now)

    def _covered_packs(self) -> dict[bytes, ObjectInfo]:
        return covered_packs(self._listed.values(), self._quarantined)

    def _packs_to_mark(self, due: list[ObjectInfo] | None) -> frozenset[bytes] | None:
        """The packs whose references have to be accounted for one by one; None for all."""
        if self._level < VerifyLevel.CONTENT:
            return frozenset()
        return (
            None if due is None else frozenset(filter(None, (pack_id_in(info.key) for info in due)))
        )

    def _check_presence(self, references: References) -> None:
        """Compare the listing with what is needed."""
        needed = {pack_key(pack_id): pack_id for pack_id in references.pack_ids}
        for key in needed:
            if key not in self._listed and (info := self._store.stat(key)):
                self._listed[key] = info  # chunks were moved there since the packs were listed
            elif key not in self._listed:
                detail, level = "there is no such object", VerifyLevel.PRESENCE
                found = Finding(key, FindingKind.MISSING, detail, level=level)
                self._add_pack_finding(found, references)
        for pack_id, size_bytes in self._pack_sizes_bytes.items():
            info = self._listed.get(pack_key(pack_id))
            if info is None or info.size_bytes == size_bytes:
                continue
            is_news = self._chosen is None and pack_id not in self._quarantined
            if info.key in needed or is_news:
                detail = f"it has {info.size_bytes} bytes instead of {size_bytes}"
                concerned = self._packs.concerned_by(references, pack_id)
                kind, level = FindingKind.WRONG_SIZE, VerifyLevel.PRESENCE
                self._add(Finding(info.key, kind, detail, concerned, level))

    def _packs_to_read(self, references: References) -> list[ObjectInfo]:
        """All packs, or those of the chosen points; what is bad and needed by nobody is no news."""
        needed = {pack_key(pack_id) for pack_id in references.pack_ids}
        if self._chosen is not None:
            return [self._listed[key] for key in sorted(needed) if key in self._listed]
        left_out = {pack_key(each) for each in self._quarantined} - needed
        return [info for key, info in self._listed.items() if key not in left_out]

    def _read_packs(
        self, packs: Sequence[ObjectInfo], references: References, started_s: float
    ) -> None:
        """Read the packs while there is time; at the deepest level, account for every reference."""
        bytes_total, bytes_done = sum(info.size_bytes for info in packs), 0

        def take(info: ObjectInfo, reading: PackReading) -> None:
            nonlocal bytes_done
            bytes_done += info.size_bytes
            self._take(info, reading, references)
            if self._tools.on_progress:
                done = len(self._readings)
                progress = VerifyProgress(done, len(packs), bytes_done, bytes_total)
                self._tools.on_progress(progress)
            self._check_stop()  # all that is left may have been read ahead already

        try:
            self._packs.read_all(self._while_time(packs, started_s), take)
        except BaseException:
            # What was read until here need not be read again, and what was found stays found.
            self._write_ledger()
            self._settle(lambda _finding: False)
            raise
        self._packs_checked = len(self._readings)
        if self._level >= VerifyLevel.CONTENT:
            found: list[Marks] = [reading.marks for reading in self._readings]
            for finding in self._packs.unmet(references, found, self._sound):
                self._add(finding)

    def _while_time(self, packs: Sequence[ObjectInfo], started_s: float) -> Iterator[ObjectInfo]:
        limit_s = self._budget.max_duration_s if self._budget else None
        for number, info in enumerate(packs):
            late = limit_s is not None and self._tools.clock.monotonic_s() - started_s >= limit_s
            if number and late:
                return
            yield info

    def _take(self, info: ObjectInfo, reading: PackReading, references: References) -> None:
        """Keep what one pack showed."""
        self._readings.append(reading)
        self._looked_at.add(info.key)
        if reading.pack_id is not None:
            if reading.finding is None:
                self._sound.add(reading.pack_id)
            self._ledger.note(
                reading.pack_id,
                self._level,
                self._tools.clock.now(),
                is_sound=reading.finding is None,
            )
        if reading.finding:
            self._add_pack_finding(reading.finding, references)
        if len(self._readings) % _READINGS_PER_ENTRY == 0:
            self._write_ledger()

    def _add_pack_finding(self, finding: Finding, references: References) -> None:
        found = self._packs.with_concerned(finding, references)
        if found is not None:
            self._add(found)

    def _write_ledger(self, listed: frozenset[bytes] | None = None) -> None:
        """The ledger is advice: a store that does not take it costs reading again, not the run."""
        if not self._tools.remembers:
            return
        try:
            self._ledger.write(listed)
        except StoreError as error:
            _LOG.warning("the verify ledger was not written: %s", error)

    def _remember(self, references: References) -> Settled:
        """Write what was seen and found; returns what is open besides the findings of this run."""
        is_whole = self._chosen is None
        knows_all = is_whole and self._level >= VerifyLevel.PRESENCE
        listed = frozenset(filter(None, map(pack_id_in, self._listed)))
        self._write_ledger(listed if knows_all else None)
        needed = {pack_key(pack_id) for pack_id in references.pack_ids}
        settled = self._settle(partial(self._is_in_sight, needed))
        has_read_all = is_whole and self._budget is None and self._level >= VerifyLevel.CONTENT
        if has_read_all and self._tools.remembers:
            self._tools.open_findings.remove_unreadable()
        return settled

    def _settle(self, is_in_sight: Callable[[Finding], bool]) -> Settled:
        """Keep the findings open; they are reported all the same if the store does not take them."""
        found = list(self._findings.values())
        book = self._tools.open_findings
        if self._tools.remembers:
            try:
                return book.settle(found, is_in_sight, self._tools.clock.now())
            except StoreError as error:
                _LOG.warning("the findings could not be kept open: %s", error)
        return Settled(book.besides(found), ())

    def _is_in_sight(self, needed: set[str], finding: Finding) -> bool:
        """Whether this run would have found it again, so that it must be mended."""
        if finding.level > self._level:
            return self._is_gone(needed, finding)
        if not _is_pack(finding.key):
            return finding.key in self._looked_at or self._chosen is None
        if finding.key in self._looked_at:
            return True
        if finding.level <= VerifyLevel.PRESENCE and finding.key in self._listed:
            return self._chosen is None or finding.key in needed
        return self._is_gone(needed, finding)

    def _is_gone(self, needed: set[str], finding: Finding) -> bool:
        """Whether nothing needs the pack any more, and it is deleted or under quarantine."""
        if not _is_pack(finding.key) or self._chosen is not None or finding.key in needed:
            return False
        if self._level < VerifyLevel.PRESENCE:
            return False
        pack_id = pack_id_in(finding.key)
        return finding.key not in self._listed or pack_id in self._quarantined

    def _report(self, point_count: int, disk_count: int, settled: Settled) -> VerifyReport:
        report = VerifyReport(
            level=self._level,
            findings=tuple(self._findings.values()),
            points_checked=point_count,
            disks_checked=disk_count,
            objects_checked=sum(not _is_pack(key) for key in self._looked_at),
            packs_checked=self._packs_checked,
            chunks_checked=sum(reading.chunk_count for reading in self._readings),
            bytes_checked=sum(reading.size_bytes for reading in self._readings),
            still_open=settled.still_open,
            mended=settled.mended,
        )
        if self._budget is None:
            return report
        open_now = [*report.findings, *(each.finding for each in report.still_open)]
        now = self._tools.clock.now()
        coverage = measure_coverage(
            self._covered_packs(), self._ledger, self._budget, open_now, now
        )
        return replace(report, coverage=coverage)


def _is_pack(key: str) -> bool:
    return key.startswith(PACKS)


def _key_of(error: DamagedObject | ObjectNotFound | UnsupportedFormat) -> str:
    return error.url if isinstance(error, UnsupportedFormat) else error.key
