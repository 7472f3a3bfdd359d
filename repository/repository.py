"""The handle that everyone holds: create and open a repository, write, list, read, verify."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from repository.catalogue import Catalogue
from repository.codec import ChunkCodec
from repository.collect import Collector, CollectProgress, CollectReport
from repository.collect_plan import CollectSettings
from repository.collect_plan import Tools as CollectTools
from repository.coverage import covered_packs, measure_coverage
from repository.description import Description, features_needed
from repository.errors import (
    DiskNotFound,
    InvalidInput,
    NotARepository,
    ObjectExists,
    ObjectNotFound,
    RepositoryExists,
    UnsupportedFormat,
)
from repository.extents import Extent
from repository.fetching import ChunkFetcher
from repository.findings import (
    OpenFinding,
    VerifyBudget,
    VerifyCoverage,
    VerifyLevel,
    VerifyProgress,
    VerifyReport,
    damaged_points,
)
from repository.forget import ForgottenPoint, PointLife
from repository.generations import Generations
from repository.keyring import KeyRing, KeyWrap, Secret
from repository.keys import RepositoryKeys, new_master_key
from repository.layout import PACKS, REPOSITORY_FILE
from repository.leases import Lease
from repository.ledger import Ledger
from repository.live import LiveRecords, ReportListing, SessionReports
from repository.locating import ChunkLocator
from repository.maps import open_disk_map
from repository.open_findings import OpenFindings
from repository.options import RepositoryOptions
from repository.packs import ChunkOpener
from repository.points import DiskRecord, PointListing, RestorePoint
from repository.ports import DiskSource, Throttle
from repository.quarantine import quarantined_packs
from repository.reader import DiskReader
from repository.records import RecordCodec
from repository.repair import Repairer, RepairReport, collection_under_way
from repository.retention import PointFacts
from repository.sampling import changed_chunks, differing_extents
from repository.sealing import AesGcmSealer, PlainSealer
from repository.session import WriteSession
from repository.store import KnowsSpace, Store, StoreSpace
from repository.stores import creates_exclusively, open_store
from repository.units import Clock, SystemClock
from repository.usage import ReferenceCache
from repository.verify import Verifier, VerifyTools


class Repository:
    """An open repository; made by `create` or `open`, closed by `close` or as a context manager.

    Thread-safe. Any number of processes may have it open and write to it at once.
    """

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

    @classmethod
    def create(
        cls,
        url: str,
        *,
        storage_options: Mapping[str, Any] | None = None,
        options: RepositoryOptions | None = None,
        secret: Secret | None = None,
        clock: Clock | None = None,
    ) -> Repository:
        """Make a repository at the URL and open it; with a secret, an encrypted one.

        The URL is a path, or anything fsspec serves; `storage_options` go to fsspec. Raises
        RepositoryExists, InvalidInput for a URL nothing serves, or the store's errors.
        """
        clock = clock or SystemClock()
        store = open_store(url, storage_options)
        if store.stat(REPOSITORY_FILE) is not None:
            raise RepositoryExists(store.url)
        master_key = new_master_key()
        description = Description(
            repository_id=uuid.uuid4(),
            created_at=clock.now(),
            options=options or RepositoryOptions(),
            master_key=None if secret else master_key,
        )
        data = description.encode()
        try:
            if secret:  # first, so that there is never an encrypted repository without a key
                ring = KeyRing(store, description.repository_id, data)
                ring.add(master_key, secret, "first", clock)
            store.put_new(REPOSITORY_FILE, data)
        except ObjectExists as error:
            raise RepositoryExists(store.url) from error
        return cls(store, description, master_key, clock)

    @classmethod
    def open(
        cls,
        url: str,
        *,
        storage_options: Mapping[str, Any] | None = None,
        secret: Secret | None = None,
        clock: Clock | None = None,
    ) -> Repository:
        """Open the repository at the URL; an encrypted one needs one of its secrets.

        Raises NotARepository if there is none, UnsupportedFormat if a newer ahvault made it,
        KeyProblem if it is encrypted and the secret is missing or wrong, DamagedObject if its
        `repo.json` or all its key wraps are not what was written, InvalidInput, or the store's
        errors.
        """
        store = open_store(url, storage_options)
        try:
            data = store.get(REPOSITORY_FILE)
        except ObjectNotFound as error:
            raise NotARepository(store.url) from error
        description = Description.decode(store.url, data)
        _refuse_unless_able(store, "read")
        master_key = description.master_key
        if master_key is None:
            master_key = KeyRing(store, description.repository_id, data).unlock(secret)
        return cls(store, description, master_key, clock or SystemClock())

    @property
    def id(self) -> str:
        """The repository's UUID, 32 hexadecimal digits."""
        return self._description.repository_id.hex

    @property
    def url(self) -> str:
        return self._store.url

    @property
    def store_host(self) -> str | None:
        """The machine that serves the store, where its URL or options name one."""
        return self._store.host

    @property
    def options(self) -> RepositoryOptions:
        return self._description.options

    @property
    def is_encrypted(self) -> bool:
        return self._description.master_key is None

    def creates_exclusively(self) -> bool:
        """Whether the store refuses to replace an object; asks it by trying, where that depends.

        If it does not, everything works but collection, which then needs to be told that it is the
        only one. Raises the store's errors.
        """
        return creates_exclusively(self._store)

    def secrets(self) -> list[KeyWrap]:
        """The passphrases and key files that open this repository, without the secrets themselves."""
        return self._key_ring().wraps()

    def add_secret(self, secret: Secret, label: str) -> str:
        """Make one more secret open this repository; returns its id. Durable on return.

        Raises InvalidInput for a repository that is not encrypted.
        """
        return self._key_ring().add(self._master_key, secret, label, self._clock)

    def remove_secret(self, secret_id: str) -> None:
        """Make a secret open this repository no more; raises InvalidInput for the last one."""
        self._key_ring().remove(secret_id)

    def change_secret(self, old: Secret, new: Secret) -> str:
        """Make a secret open this repository instead of another; returns its id. Durable on return.

        Raises KeyProblem if the old one does not open it. After a crash both may open it.
        """
        return self._key_ring().change(self._master_key, old, new, self._clock)

    def _key_ring(self) -> KeyRing:
        if not self.is_encrypted:
            raise InvalidInput(self.url, "is not encrypted, so it has no keys to manage")
        data = self._store.get(REPOSITORY_FILE)
        return KeyRing(self._store, self._description.repository_id, data)

    def write_session(self, session_id: str) -> WriteSession:
        """A session to write disks and commit restore points in; use it as a context manager.

        Raises UnsupportedFormat if a newer ahvault has made demands on writers, or the store's
        errors.
        """
        _refuse_unless_able(self._store, "write")
        seen = Generations(self._store, self._records).newest_number()
        session = WriteSession(
            session_id,
            self._store,
            self._records,
            self.options,
            self._catalogue,
            Lease(self.live, session_id, seen, self._clock),
            self._clock,
        )
        try:
            session.load_index()
        except BaseException:
            session.close()
            raise
        return session

    def points(self, vm_id: str | None = None) -> PointListing:
        """The restore points of one VM, or of all; a damaged record never hides the others.

        Forgotten ones are left out: `forgotten` lists those.
        """
        return self._catalogue.listing(vm_id)

    def point(self, point_id: str) -> RestorePoint:
        """One restore point by its id; raises PointNotFound (a KeyError) or DamagedObject."""
        return self._catalogue.point(point_id)

    def forgotten(self, vm_id: str | None = None) -> list[ForgottenPoint]:
        """The forgotten restore points of one VM, or of all, that may still be brought back."""
        return self._life.forgotten(vm_id)

    def forget(
        self, point: RestorePoint, reason: str = "", *, by_session: str | None = None
    ) -> None:
        """Hide a restore point; nothing is deleted before collection. Durable on return.

        `by_session` is the id of a write session that has committed all it will commit: it does not
        stand in its own way. Raises PointHeld, PointInUse while a running session builds on the
        point, or the store's errors.
        """
        self._life.forget(point, reason, by_session)

    def undelete(self, point: RestorePoint, reason: str = "") -> None:
        """Bring a forgotten restore point back; nothing happens to one that is not forgotten.

        Raises PointCollected if collection has begun to delete its data, or the store's errors.
        """
        self._life.undelete(point, reason)

    def hold(self, point: RestorePoint, reason: str) -> None:
        """Keep a restore point until it is released, whatever retention says."""
        self._life.hold(point, reason)

    def release(self, point: RestorePoint, reason: str = "") -> None:
        """End the hold on a restore point."""
        self._life.release(point, reason)

    def holds(self, vm_id: str | None = None) -> dict[str, str]:
        """Why restore points are held, by id."""
        return self._life.holds(vm_id)

    def retention_facts(self, vm_id: str | None = None) -> list[PointFacts]:
        """What retention needs to know of the restore points of one VM, or of all.

        A point that an open finding concerns is damaged.
        """
        holds = self._life.holds(vm_id)
        damaged = damaged_points(each.finding for each in self.open_findings())
        points = self._catalogue.listing(vm_id).points
        return [
            PointFacts.of(point, holds.get(point.id), is_damaged=point.id in damaged)
            for point in points
        ]

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
        _refuse_unless_able(self._store, "delete")
        tools = self._collect_tools(cache, stop)
        return Collector(tools, settings or CollectSettings(), on_progress).run(dry_run=dry_run)

    def cancel_collection(self, reason: str) -> CollectReport:
        """Give up the generation that is planned and not yet decided; nothing of it is deleted."""
        return Collector(self._collect_tools(None, None), CollectSettings()).cancel(reason)

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

    def open_disk(
        self, point: RestorePoint, disk_id: str, *, throttle: Throttle | None = None
    ) -> DiskReader:
        """One disk of a restore point, to read or restore. `throttle` holds for `read_into`.

        Raises DiskNotFound (a KeyError), DamagedObject for its maps, or the store's errors.
        """
        record = point.disk(disk_id)
        if record is None:
            raise DiskNotFound(disk_id, point.id, [disk.disk_id for disk in point.disks])
        disk_map = open_disk_map(
            self._store,
            record,
            self._records.keys,
            self._records.sealer,
            self._locator.relocate,
        )
        codec = ChunkCodec(self.options.compression_level)
        opener = ChunkOpener(self._records.keys, self._records.sealer, codec)
        fetcher = ChunkFetcher(self._store, opener, disk_map.shape, self._locator)
        return DiskReader(
            disk_map,
            fetcher,
            high_latency=self._store.capabilities.high_latency,
            throttle=throttle,
        )

    def differing_extents(
        self, record: DiskRecord, source: DiskSource, extents: Sequence[Extent]
    ) -> list[Extent]:
        """Which chunks touched by the extents are not in the source what the record says they are.

        Reads them from the source and compares ids; one extent per differing chunk. A short last
        chunk is not judged. Raises DamagedObject for the record's maps, or the source's errors.
        """
        keys = self._records.keys
        disk_map = open_disk_map(self._store, record, keys, self._records.sealer)
        return differing_extents(disk_map, keys, source, extents)

    def changed_extents(self, old: DiskRecord, new: DiskRecord) -> list[Extent]:
        """Which whole chunks differ between two states of a disk, as runs; reads maps alone.

        Only chunks that lie inside both states count. Raises DamagedObject, or the store's errors.
        """
        keys, sealer = self._records.keys, self._records.sealer
        before = open_disk_map(self._store, old, keys, sealer)
        return changed_chunks(before, open_disk_map(self._store, new, keys, sealer))

    def verify(
        self,
        level: VerifyLevel = VerifyLevel.CONTENT,
        *,
        points: Sequence[RestorePoint] | None = None,
        on_progress: Callable[[VerifyProgress], None] | None = None,
        stop: threading.Event | None = None,
    ) -> VerifyReport:
        """Check what is stored; with `points`, only what these restore points need.

        Damage is reported, never raised, and stays in every later report until a verification that
        looks as deep sees it mended (H6). What was read is noted in the ledger. A store that takes
        no writes is verified all the same; nothing is remembered then. Raises Stopped,
        UnsupportedFormat, or the store's errors where the store itself fails.
        """
        tools = self._verify_tools(on_progress, stop, remembers=True)
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
        _refuse_unless_able(self._store, "verify")
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

        Deletes nothing. What is lost stays a finding until a backup stores it again. Raises
        InvalidInput while a collection is under way, Stopped, UnsupportedFormat, or the store's
        errors; it can be run again after any of them.
        """
        _refuse_unless_able(self._store, "write")
        if collection_under_way(self._store, self._records):
            raise InvalidInput("repair", "a collection is under way; finish or cancel it first")
        stop = stop or threading.Event()
        tools = self._verify_tools(on_progress, stop, remembers=not dry_run)
        findings = Verifier(tools, VerifyLevel.CONTENT).run().findings
        repairer = Repairer(
            self._store, self._records, self.options.pack_target_bytes, self._clock, stop
        )
        report = repairer.run(findings, dry_run=dry_run)
        self._locator.look_again()
        return report

    def save_report(self, session_id: str, report: Mapping[str, Any]) -> None:
        """Keep what a session did with the repository; durable on return."""
        self._reports.save(session_id, report)

    def reports(self, *, since: datetime | None = None, newest: int | None = None) -> ReportListing:
        """Session reports, oldest first; a damaged one never hides the others.

        `since` leaves out those saved before (aware), `newest` all but so many of the newest; what
        is left out is not read.
        """
        return self._reports.list(since=since, newest=newest)

    def space(self) -> StoreSpace | None:
        """How full the place of the repository is; None where the store cannot say."""
        return self._store.space() if isinstance(self._store, KnowsSpace) else None

    def close(self) -> None:
        """Let go of the store; sessions and readers are not used after."""
        self._locator.close()
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Repository({self.url!r}, id={self.id})"


def _refuse_unless_able(store: Store, operation: str) -> None:
    needed = features_needed(store, operation)
    if needed:
        raise UnsupportedFormat(store.url, f"{', '.join(needed)} to {operation}")
