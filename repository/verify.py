"""Verification: is everything that the restore points need still what was written?

Goes from the restore points down: records, then the maps of their disks (`verify_records.py`), then
the packs that the maps name, then every chunk in them (`verify_packs.py`). Damage becomes a finding
and never stops the rest. For each finding the maps concerned are read once more, to say which
restore points and byte ranges it touches; at the deepest level only chunks that really fail to open
count.

What was looked at goes into the ledger (`ledger.py`), what was found stays open until it is seen
mended (`sightings.py`, `open_findings.py`). With a budget only packs that are due are read, those
first that were not looked at for longest.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from repository.catalogue import Catalogue
from repository.coverage import covered_packs, due_packs, measure_coverage
from repository.errors import Stopped
from repository.findings import (
    Finding,
    FindingKind,
    VerifyBudget,
    VerifyLevel,
    VerifyProgress,
    VerifyReport,
)
from repository.layout import PACKS, pack_id_in, pack_key
from repository.ledger import Ledger
from repository.locating import ChunkLocator
from repository.open_findings import OpenFindings, Settled
from repository.points import RestorePoint
from repository.quarantine import quarantined_packs
from repository.records import RecordCodec
from repository.references import Marks, References, disk_states
from repository.sightings import Sightings
from repository.store import ObjectInfo, Store
from repository.units import Clock
from repository.verify_memory import VerifyMemory
from repository.verify_packs import PackReading, PackVerifier
from repository.verify_records import RecordVerifier

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
        self._seen = Sightings(level, is_whole=chosen is None)
        self._memory = VerifyMemory(tools.open_findings, tools.clock, remembers=tools.remembers)
        self._pack_sizes_bytes: dict[bytes, int] = {}
        self._readings: list[PackReading] = []
        self._sound: set[bytes] = set()
        self._packs_checked = 0
        self._ledger = Ledger(tools.store, tools.records)

    def run(self) -> VerifyReport:
        """Look, remember, and report. Raises Stopped, or the store's errors."""
        started_s = self._tools.clock.monotonic_s()
        records = RecordVerifier(
            self._store,
            self._records,
            self._tools.catalogue,
            self._seen,
            self._chosen,
            self._tools.stop,
        )
        points = records.check_points()
        self._pack_sizes_bytes = records.check_segments()
        if self._chosen is None:
            records.check_side_records()
        self._ledger = Ledger.load(self._store, self._records)
        self._seen.quarantined = quarantined_packs(self._store)
        if self._level >= VerifyLevel.PRESENCE:
            self._seen.listed = {info.key: info for info in self._store.list(PACKS)}
        due = self._due_packs()
        references = References(marked=self._packs_to_mark(due))
        states = disk_states(points)
        for state in states:
            records.check_map(state, references, self._packs.open_map)
        if self._level >= VerifyLevel.PRESENCE:
            self._check_presence(references)
            packs = self._packs_to_read(references) if due is None else due
            self._packs_checked = len(packs)
            if self._level >= VerifyLevel.STORED:
                self._read_packs(packs, references, started_s)
        settled = self._remember(references)
        return self._report(len(points), len(states), settled)

    def _due_packs(self) -> list[ObjectInfo] | None:
        """What a verification with a budget reads; None for one without."""
        if self._budget is None:
            return None
        packs = self._covered_packs()
        now = self._tools.clock.now()
        self._ledger.see(packs, now)
        return due_packs(packs, self._ledger, self._budget, now)

    def _covered_packs(self) -> dict[bytes, ObjectInfo]:
        return covered_packs(self._seen.listed.values(), self._seen.quarantined)

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
            if key not in self._seen.listed and (info := self._store.stat(key)):
                self._seen.listed[key] = info  # chunks were moved there since the packs were listed
            elif key not in self._seen.listed:
                detail, level = "there is no such object", VerifyLevel.PRESENCE
                found = Finding(key, FindingKind.MISSING, detail, level=level)
                self._add_pack_finding(found, references)
        for pack_id, size_bytes in self._pack_sizes_bytes.items():
            info = self._seen.listed.get(pack_key(pack_id))
            if info is None or info.size_bytes == size_bytes:
                continue
            is_news = self._chosen is None and pack_id not in self._seen.quarantined
            if info.key in needed or is_news:
                detail = f"it has {info.size_bytes} bytes instead of {size_bytes}"
                concerned = self._packs.concerned_by(references, pack_id)
                kind, level = FindingKind.WRONG_SIZE, VerifyLevel.PRESENCE
                self._seen.add(Finding(info.key, kind, detail, concerned, level))

    def _packs_to_read(self, references: References) -> list[ObjectInfo]:
        """All packs, or those of the chosen points; what is bad and needed by nobody is no news."""
        needed = {pack_key(pack_id) for pack_id in references.pack_ids}
        if self._chosen is not None:
            return [self._seen.listed[key] for key in sorted(needed) if key in self._seen.listed]
        left_out = {pack_key(each) for each in self._seen.quarantined} - needed
        return [info for key, info in self._seen.listed.items() if key not in left_out]

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
            if self._tools.stop.is_set():  # all that is left may have been read ahead already
                raise Stopped("the verification")

        try:
            self._packs.read_all(self._while_time(packs, started_s), take)
        except BaseException:
            # What was read until here need not be read again, and what was found stays found.
            self._memory.write_ledger(self._ledger)
            self._memory.settle(self._seen.findings, lambda _finding: False)
            raise
        self._packs_checked = len(self._readings)
        if self._level >= VerifyLevel.CONTENT:
            found: list[Marks] = [reading.marks for reading in self._readings]
            for finding in self._packs.unmet(references, found, self._sound):
                self._seen.add(finding)

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
        self._seen.looked_at.add(info.key)
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
            self._memory.write_ledger(self._ledger)

    def _add_pack_finding(self, finding: Finding, references: References) -> None:
        found = self._packs.with_concerned(finding, references)
        if found is not None:
            self._seen.add(found)

    def _remember(self, references: References) -> Settled:
        """Write what was seen and found; returns what is open besides the findings of this run."""
        is_whole = self._chosen is None
        knows_all = is_whole and self._level >= VerifyLevel.PRESENCE
        listed = frozenset(filter(None, map(pack_id_in, self._seen.listed)))
        self._memory.write_ledger(self._ledger, listed if knows_all else None)
        needed = {pack_key(pack_id) for pack_id in references.pack_ids}
        is_in_sight = partial(self._seen.is_in_sight, needed)
        settled = self._memory.settle(self._seen.findings, is_in_sight)
        if is_whole and self._budget is None and self._level >= VerifyLevel.CONTENT:
            self._memory.forget_unreadable()
        return settled

    def _report(self, point_count: int, disk_count: int, settled: Settled) -> VerifyReport:
        report = VerifyReport(
            level=self._level,
            findings=self._seen.findings,
            points_checked=point_count,
            disks_checked=disk_count,
            objects_checked=self._seen.object_count,
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
