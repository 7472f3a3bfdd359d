"""Giving up a restore point that is damaged so badly that collection cannot go on.

Collection stops at a commit record or a disk map that it cannot read, for it cannot know what they
refer to. If they cannot be mended, an operator may say that the point is lost: a mark beside it, like
a tomb, so the record itself stays until it is collected, and the word can be taken back until then.
A point that is whole is never given up: it can be forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote

from repository.catalogue import Catalogue
from repository.collect import CollectReport
from repository.errors import (
    CollectionRefused,
    DamagedObject,
    InvalidInput,
    ObjectNotFound,
    PointHeld,
    PointNotFound,
    UnsupportedFormat,
)
from repository.layout import POINTS, point_id_of
from repository.maps import open_disk_map
from repository.marks import HOLD_MARKS, LOST, TOMB_MARKS, Marks
from repository.points import RestorePoint
from repository.records import RecordCodec
from repository.store import Store
from repository.units import Clock

_UNREADABLE = (DamagedObject, ObjectNotFound, UnsupportedFormat)


@dataclass(frozen=True, slots=True)
class LostPoint:
    """A damaged restore point, as far as it is known."""

    key: str
    """Name of its commit record; empty if there is none any more."""
    point_id: str
    vm_id: str
    made_at: str
    """The moment of its data as it stands in the name, `20261123T203737Z`; empty if unknown."""
    detail: str
    """What cannot be read."""
    later_points: tuple[str, ...]
    """Ids of the restore points that name it as their predecessor. They are whole without it."""


@dataclass(frozen=True, slots=True)
class GiveUpReport:
    """What is lost with the points, and what collection would delete then."""

    is_dry_run: bool
    lost: tuple[LostPoint, ...]
    collection: CollectReport | None
    """What the next plan would condemn, ordinary garbage included; None if it would be refused."""
    refusal: str
    """Why it would be refused even then; empty if it would not."""


class GivingUp:
    """Finds damaged points by name, and marks them as lost."""

    def __init__(
        self, store: Store, records: RecordCodec, catalogue: Catalogue, clock: Clock
    ) -> None:
        self._store = store
        self._records = records
        self._catalogue = catalogue
        self._clock = clock

    def find(self, reference: str) -> LostPoint:
        """A damaged point by its id or the name of its record.

        Raises PointNotFound if nothing tells of it, PointHeld, or InvalidInput if it is whole.
        """
        point_id = point_id_of(reference) if "/" in reference else reference
        keys = [info.key for info in self._store.list(POINTS)]
        key = next((key for key in keys if point_id_of(key) == point_id), "")
        points = [point for each in keys if (point := self._read(each)) is not None]
        later = [point for point in points if point.previous_point_id == point_id]
        if not key and not later:
            raise PointNotFound(point_id)
        vm_id = unquote(key.split("/")[1]) if key else later[0].vm_id
        held = Marks(self._store, self._records, HOLD_MARKS).marked(vm_id)
        if point_id in held:
            raise PointHeld(point_id, "")
        return LostPoint(
            key=key,
            point_id=point_id,
            vm_id=vm_id,
            made_at=key.rpartition("/")[2].partition("-")[0],
            detail=self._damage(key, point_id),
            later_points=tuple(point.id for point in later),
        )

    def mark(self, lost: LostPoint, reason: str) -> None:
        """Say that the point is lost; durable on return."""
        tombs = Marks(self._store, self._records, TOMB_MARKS)
        tombs.put_on(lost.vm_id, lost.point_id, LOST, self._clock.now(), reason)

    def _read(self, key: str) -> RestorePoint | None:
        try:
            return self._catalogue.read(key)
        except _UNREADABLE:
            return None

    def _damage(self, key: str, point_id: str) -> str:
        """What of the point cannot be read."""
        if not key:
            return "its commit record is not there"
        try:
            point = self._catalogue.read_anew(key)
            for disk in point.disks:
                disk_map = open_disk_map(
                    self._store, disk, self._records.keys, self._records.sealer
                )
                for window in range(disk_map.shape.window_count):
                    disk_map.window(window)
        except _UNREADABLE as error:
            return str(error)
        raise InvalidInput(
            f"restore point {point_id}",
            "has a record and maps that read back; to drop it, use `ahvault forget`",
        )


def outlook(plan: Callable[[], CollectReport]) -> tuple[CollectReport | None, str]:
    """What a plan would come to, or why there would be none."""
    try:
        return plan(), ""
    except CollectionRefused as error:
        return None, error.reason
