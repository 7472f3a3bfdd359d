"""What keeps a repository in order: verify, repair, collect, give up.

The base of `Repository`, which everybody uses; in a file of its own for its length.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from repository.catalogue import Catalogue
from repository.collect import Collector, CollectProgress, CollectReport
from repository.collect_settings import CollectSettings
from repository.collect_tools import CollectTools
from repository.coverage import covered_packs, measure_coverage
from repository.description import Description, features_needed
from repository.errors import (
    UnsupportedFormat,
)
from repository.findings import (
    OpenFinding,
    VerifyBudget,
    VerifyCoverage,
    VerifyLevel,
    VerifyProgress,
    VerifyReport,
)
from repository.forget import PointLife
from repository.generations import Generations
from repository.giving_up import GiveUpReport, GivingUp, outlook
from repository.keys import RepositoryKeys
from repository.layout import PACKS
from repository.leases import Lease
from repository.ledger import Ledger
from repository.live import LiveRecords, SessionReports
from repository.locating import ChunkLocator
from repository.open_findings import OpenFindings
from repository.options import RepositoryOptions
from repository.points import RestorePoint
from repository.quarantine import quarantined_packs
from repository.records import RecordCodec
from repository.repair import Repairer, RepairReport, make_room
from repository.sealing import AesGcmSealer, PlainSealer
from repository.store import Store
from repository.units import Clock
from repository.usage import ReferenceCache
from repository.verify import Verifier, VerifyTools


class Upkeep:
    """The part of an open repository that looks after what is stored. Thread-safe."""

    def __init__(
        self, store: Store, description: Description, master_key: bytes, clock: Clock
    ) -> None:
        """For `create` and `open` only."""
        self._store = store
        self._description = description
        self._master_key = master_key
        self._clock = clock
        keys = RepositoryKeys.from_master(master_key, description.repository_id)
        sealer = AesGcmSealer(keys) if self.is_encrypted else PlainSealer()
        self._records = RecordCodec(keys, sealer)
        self._catalogue = Catalogue(store, self._records)
        self._reports = SessionReports(store, self._records, clock)
        self.live = LiveRecords(store, self._records)
        self._life = PointLife(store, self._records, self._catalogue, self.live, clock)
        self._locator = ChunkLocator(store, self._records)
        self._open_findings = OpenFindings(self.live)

    @property
    def options(self) -> RepositoryOptions:
        return self._description.options

    @property
    def is_encrypted(self) -> bool:
        return self._description.master_key is None

    def verify(
        self,
        level: VerifyLevel = VerifyLevel.CONTENT,
        *,
        points: Sequence[RestorePoint] | None = None,
        remembers: bool = True,
        on_progress: Callable[[VerifyProgress], None] | None = None,
        stop: threading.Event | None = None,
    ) -> VerifyReport:
        """Check what is stored; with `points`, only what these restore points need.

        Damage is reported, never raised, and stays in every later report until a verification that
        looks as deep sees it mended (H6). What was read is noted in the ledger. A store that takes
        no writes is verified all the same; nothing is remembered then. With `remembers` False nothing
        is written at all. Raises Stopped, UnsupportedFormat, or the store's errors where the store
        itself fails.
        """
        tools = self._verify_tools(on_progress, stop, remembers=remembers)
        return Verifier(tools, level, points).run()

    def verify_within(
        self,
        budget: VerifyBudget,
        *,
        on_progress: Callable[[VerifyProgress], None] | None = None,
        stop: threading.Event | None = None,
    ) -> VerifyReport:
        """Check all records and maps, and of the packs those that are due, within the budget.

        Called often enough, it proves everything every `budget.every_days`; `coverage` of the report
        says whether it does. Can be stopped or killed anywhere: what was read is not read again.
        Everything else is as for `verify`.
        """
        tools = self._verify_tools(on_progress, stop, remembers=True)
        return Verifier(tools, budget.level, budget=budget).run()

    def verify_coverage(self, budget: VerifyBudget | None = None) -> VerifyCoverage:
        """How much of what is stored was proven within `budget.every_days`; reads no pack.

        Costs a listing of the packs and the ledger. Raises the store's errors.
        """
        ledger = Ledger.load(self._store, self._records)
        open_findings = [each.finding for each in self.open_findings()]
        packs = covered_packs(self._store.list(PACKS), quarantined_packs(self._store))
        now = self._clock.now()
        return measure_coverage(packs, ledger, budget or VerifyBudget(), open_findings, now)

    def open_findings(self) -> list[OpenFinding]:
        """What verifications have found and none has seen mended, oldest first."""
        return self._open_findings.all()

    def _verify_tools(
        self,
        on_progress: Callable[[VerifyProgress], None] | None,
        stop: threading.Event | None,
        *,
        remembers: bool,
    ) -> VerifyTools:
        refuse_unless_able(self._store, "verify")
        self._locator.look_again()
        return VerifyTools(
            store=self._store,
            records=self._records,
            catalogue=self._catalogue,
            locator=self._locator,
            open_findings=self._open_findings,
            clock=self._clock,
            stop=stop or threading.Event(),
            on_progress=on_progress,
            remembers=remembers and not features_needed(self._store, "write"),
        )

    def repair(
        self,
        *,
        dry_run: bool = False,
        on_progress: Callable[[VerifyProgress], None] | None = None,
        stop: threading.Event | None = None,
    ) -> RepairReport:
        """Verify everything, then save what is good in bad packs and let nothing rely on the rest.

        Deletes nothing, and cancels a collection that is planned. What is lost stays a finding until
        a backup stores it again. A dry run writes nothing. Raises InvalidInput while collection
        deletes, Stopped, UnsupportedFormat, or the store's errors; it can be run again after any.
        """
        refuse_unless_able(self._store, "write")
        stop = stop or threading.Event()
        seen = Generations(self._store, self._records).newest_number()
        lease = Lease(self.live, f"repair-{uuid.uuid4().hex}", seen, self._clock)
        if dry_run:
            return self._repair(lease, on_progress, stop, dry_run=True)
        lease.renew()
        try:
            make_room(self._store, self._records, self._clock)
            return self._repair(lease, on_progress, stop, dry_run=False)
        finally:
            lease.close()

    def _repair(
        self,
        lease: Lease,
        on_progress: Callable[[VerifyProgress], None] | None,
        stop: threading.Event,
        *,
        dry_run: bool,
    ) -> RepairReport:
        def keep_alive(at: VerifyProgress) -> None:
            if not dry_run:
                lease.keep_alive()
            if on_progress:
                on_progress(at)

        tools = self._verify_tools(keep_alive, stop, remembers=not dry_run)
        findings = Verifier(tools, VerifyLevel.CONTENT).run().findings
        repairer = Repairer(
            self._store, self._records, self.options.pack_target_bytes, self._clock, lease, stop
        )
        report = repairer.run(findings, dry_run=dry_run)
        self._locator.look_again()
        return report

    def collect(
        self,
        settings: CollectSettings | None = None,
        *,
        dry_run: bool = False,
        cache: Path | None = None,
        on_progress: Callable[[CollectProgress], None] | None = None,
        stop: threading.Event | None = None,
    ) -> CollectReport:
        """Carry collection on by one step: plan a generation, or sweep the one that is planned.

        Safe beside running sessions; can be stopped or killed anywhere and called again. `cache` is
        a folder for what was learnt of disk maps: with it only new maps are read. A dry run writes
        nothing. Raises CollectionRefused if anything does not add up (then nothing was deleted),
        Stopped, UnsupportedFormat, or the store's errors.
        """
        refuse_unless_able(self._store, "delete")
        tools = self._collect_tools(cache, stop)
        return Collector(tools, settings or CollectSettings(), on_progress).run(dry_run=dry_run)

    def cancel_collection(self, reason: str) -> CollectReport:
        """Give up the generation that is planned and not yet decided; nothing of it is deleted."""
        return Collector(self._collect_tools(None, None), CollectSettings()).cancel(reason)

    def give_up(
        self, references: Sequence[str], reason: str = "", *, dry_run: bool = True
    ) -> GiveUpReport:
        """Say that damaged restore points, by id or record name, are lost, so that collection goes on.

        All are looked up before any is marked; a dry run marks none. What they alone needed is deleted
        by the collections that follow; `undelete` takes the word back before, if the record reads
        again. Raises PointNotFound, PointHeld, InvalidInput for a point that is whole, or the store's
        errors.
        """
        if not dry_run:
            refuse_unless_able(self._store, "delete")
        giving_up = GivingUp(self._store, self._records, self._catalogue, self._clock)
        lost = tuple(giving_up.find(reference) for reference in references)
        collector = Collector(self._collect_tools(None, None), CollectSettings())
        ids = frozenset(each.point_id for each in lost)
        report, refusal = outlook(lambda: collector.outlook(ids))
        if not dry_run:
            for each in lost:
                giving_up.mark(each, reason)
        return GiveUpReport(dry_run, lost, report, refusal)

    def _collect_tools(self, cache: Path | None, stop: threading.Event | None) -> CollectTools:
        return CollectTools(
            store=self._store,
            records=self._records,
            catalogue=self._catalogue,
            live=self.live,
            clock=self._clock,
            cache=ReferenceCache(cache),
            stop=stop or threading.Event(),
            pack_target_bytes=self.options.pack_target_bytes,
        )


def refuse_unless_able(store: Store, operation: str) -> None:
    """Raise UnsupportedFormat if a newer ahvault demands what this one cannot do."""
    needed = features_needed(store, operation)
    if needed:
        raise UnsupportedFormat(store.url, f"{', '.join(needed)} to {operation}")
