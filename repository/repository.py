"""The handle that everyone holds: create and open a repository, write, list, read, verify."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from repository.codec import ChunkCodec
from repository.description import Description
from repository.errors import (
    DiskNotFound,
    InvalidInput,
    NotARepository,
    ObjectExists,
    ObjectNotFound,
    RepositoryExists,
)
from repository.extents import Extent
from repository.fetching import ChunkFetcher
from repository.findings import (
    damaged_points,
)
from repository.forget import ForgottenPoint
from repository.generations import Generations
from repository.keyring import KeyRing, KeyWrap, Secret
from repository.keys import new_master_key
from repository.layout import REPOSITORY_FILE
from repository.leases import Lease
from repository.live import ReportListing
from repository.maps import open_disk_map
from repository.options import RepositoryOptions
from repository.packs import ChunkOpener
from repository.points import DiskRecord, PointListing, RestorePoint
from repository.ports import DiskSource, Throttle
from repository.reader import DiskReader
from repository.retention import PointFacts
from repository.sampling import changed_chunks, differing_extents
from repository.session import WriteSession
from repository.store import KnowsSpace, StoreSpace
from repository.stores import creates_exclusively, open_store
from repository.units import Clock, SystemClock
from repository.upkeep import Upkeep, refuse_unless_able


class Repository(Upkeep):
    """An open repository; made by `create` or `open`, closed by `close` or as a context manager.

    Thread-safe. Any number of processes may have it open and write to it at once.
    """

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
        refuse_unless_able(store, "read")
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
    def encrypts_transport(self) -> bool:
        """Whether the store's protocol encrypts what goes to and from it; False if not known."""
        return self._store.encrypts_transport

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
        refuse_unless_able(self._store, "write")
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
