"""The catalogue: commit records written, listed and read back. There is no other truth."""

from __future__ import annotations

import datetime as dt
import uuid
from concurrent.futures import ThreadPoolExecutor

from pydantic import ValidationError

from repository.errors import (
    CommitFailed,
    DamagedObject,
    InvalidInput,
    ObjectExists,
    ObjectNotFound,
    PointNotFound,
    StoreUnavailable,
    UnsupportedFormat,
)
from repository.layout import POINTS, point_id_of, point_key, points_prefix
from repository.marks import FORGOTTEN, TOMB_MARKS, Marks
from repository.points import DamagedRecord, PointDraft, PointListing, RestorePoint
from repository.records import RecordCodec
from repository.store import Store

_KIND = "point"
_READS_AT_ONCE = 16


class Catalogue:
    """The restore points of one repository. Thread-safe."""

    def __init__(self, store: Store, records: RecordCodec) -> None:
        self._store = store
        self._records = records
        # Commit records never change, so one that was read is known for good.
        self._known: dict[str, RestorePoint] = {}
        self._tombs = Marks(store, records, TOMB_MARKS)

    def commit(self, draft: PointDraft, now: dt.datetime, gc_generation: int) -> RestorePoint:
        """Write the commit record and prove it by reading it back."""
        point = self._point(draft, now, gc_generation)
        body = point.model_dump(mode="json", exclude={"key"})
        stored = bytes(self._records.encode(point.key, _KIND, body))
        try:
            self._store.put_new(point.key, stored)
        except (ObjectExists, StoreUnavailable) as error:
            # The name is random: what is there is ours, written before the answer was lost.
            if not self._reads_back(point.key, stored):
                raise CommitFailed(point.key, str(error)) from error
        if not self._reads_back(point.key, stored):
            raise CommitFailed(point.key, "it does not read back as written")
        self._known[point.key] = point
        return point

    def withdraw(self, point: RestorePoint, now: dt.datetime) -> None:
        """Hide a point that was committed but cannot be relied on."""
        self._tombs.put(point, FORGOTTEN, now, "its commit failed")

    def listing(self, vm_id: str | None) -> PointListing:
        """The restore points of one VM, or of all, oldest first; damaged records beside them.

        Forgotten ones are left out.
        """
        listed = [info.key for info in self._store.list(points_prefix(vm_id))]
        forgotten = self._tombs.marked(vm_id)
        keys = [key for key in listed if point_id_of(key) not in forgotten]
        with ThreadPoolExecutor(_READS_AT_ONCE, "ahvault-points") as pool:
            read = list(pool.map(self._read_or_tell, keys))
        points = [found for found in read if isinstance(found, RestorePoint)]
        points.sort(key=lambda point: (point.created_at, point.committed_at, point.id))
        return PointListing(points, [found for found in read if isinstance(found, DamagedRecord)])

    def point(self, point_id: str) -> RestorePoint:
        """One restore point by its id; raises PointNotFound, or DamagedObject for its record."""
        for info in self._store.list(POINTS):
            if point_id_of(info.key) == point_id:
                return self.read(info.key)
        raise PointNotFound(point_id)

    def read(self, key: str) -> RestorePoint:
        """The commit record of this name; raises DamagedObject or the store's errors."""
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self.read_anew(key)
        return known

    def read_anew(self, key: str) -> RestorePoint:
        """The same, from the store even if it is known: for verification."""
        body = self._records.decode(key, _KIND, self._store.get(key))
        try:
            point = RestorePoint.model_validate({**body, "key": key})
        except ValidationError as error:
            detail = f"{error.error_count()} of its members cannot be ({error.errors()[0]['loc']})"
            raise DamagedObject(key, detail) from error
        if point_key(point.vm_id, point.created_at, point.id) != key:
            raise DamagedObject(key, "it names another restore point")
        return point

    def _point(self, draft: PointDraft, now: dt.datetime, gc_generation: int) -> RestorePoint:
        disk_ids = [disk.disk_id for disk in draft.disks]
        if len(set(disk_ids)) != len(disk_ids):
            raise InvalidInput(f"restore point of {draft.vm_name}", "names a disk twice")
        point_id = uuid.uuid4().hex
        created_at = draft.created_at.astimezone(dt.UTC)
        started_at = draft.session_started_at.astimezone(dt.UTC)
        return RestorePoint(
            **draft.model_dump(exclude={"created_at", "session_started_at"}),
            created_at=created_at,
            session_started_at=started_at,
            id=point_id,
            key=point_key(draft.vm_id, created_at, point_id),
            committed_at=now.astimezone(dt.UTC),
            gc_generation=gc_generation,
        )

    def _reads_back(self, key: str, stored: bytes) -> bool:
        try:
            return self._store.get(key) == stored
        except ObjectNotFound:
            return False

    def _read_or_tell(self, key: str) -> RestorePoint | DamagedRecord:
        try:
            return self.read(key)
        except (DamagedObject, UnsupportedFormat, ObjectNotFound) as error:
            return DamagedRecord(key, str(error))
