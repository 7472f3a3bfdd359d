"""Forgetting restore points and bringing them back; holding them and letting them go.

Forgetting deletes nothing: it writes a tomb, and the point is hidden from listings. For a while it
can be brought back. Collection later deletes what only forgotten points needed.

Bringing a point back races with collection. The order that makes it safe: the point is made visible
first, and only then are the generations looked at. A plan that was made without the point and is
still open is cancelled; whoever decides a generation's outcome first wins, so either the sweep never
happens, or it was decided before and the point is too late. A plan or a sweep that begins after
that sees the point.
"""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import dataclass

from repository.catalogue import Catalogue
from repository.errors import (
    DamagedObject,
    ObjectNotFound,
    PointCollected,
    PointHeld,
    PointInUse,
    UnsupportedFormat,
)
from repository.generations import Generation, Generations
from repository.layout import point_id_of, points_prefix
from repository.leases import builds_on, open_leases
from repository.live import LiveRecords
from repository.marks import FORGOTTEN, HOLD_MARKS, TOMB_MARKS, Marks
from repository.points import RestorePoint
from repository.records import RecordCodec
from repository.store import Store
from repository.units import Clock
from repository.wholeness import is_whole

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ForgottenPoint:
    """A forgotten restore point that has not been collected yet."""

    point: RestorePoint
    at: dt.datetime
    reason: str


class PointLife:
    """What becomes of restore points after they were committed. Thread-safe."""

    def __init__(
        self,
        store: Store,
        records: RecordCodec,
        catalogue: Catalogue,
        live: LiveRecords,
        clock: Clock,
    ) -> None:
        self._store = store
        self._records = records
        self._catalogue = catalogue
        self._live = live
        self._clock = clock
        self._tombs = Marks(store, records, TOMB_MARKS)
        self._holds = Marks(store, records, HOLD_MARKS)
        self._generations = Generations(store, records)

    def forget(self, point: RestorePoint, reason: str, by_session: str | None = None) -> None:
        """Hide the point. Raises PointHeld, or PointInUse while another session builds on it."""
        held = self._holds.marked(point.vm_id).get(point.id)
        if held is not None:
            raise PointHeld(point.id, self._holds.read(held).reason)
        for lease in open_leases(self._live, self._clock.now()):
            if lease.session_id != by_session and builds_on(lease, point):
                raise PointInUse(point.id, lease.session_id)
        self._tombs.put(point, FORGOTTEN, self._clock.now(), reason)

    def undelete(self, point: RestorePoint, reason: str) -> None:
        """Bring a forgotten point back; raises PointCollected when it is too late."""
        self._tombs.put(point, "restored", self._clock.now(), reason)
        newest = self._generations.newest()
        if newest is not None and not self._is_kept(point, newest) and self._is_collected(point):
            self._tombs.put(point, FORGOTTEN, self._clock.now(), "too late to bring it back")
            raise PointCollected(point.id, newest.number)

    def hold(self, point: RestorePoint, reason: str) -> None:
        """Keep the point whatever retention says; it cannot be forgotten until released."""
        self._holds.put(point, "held", self._clock.now(), reason)

    def release(self, point: RestorePoint, reason: str) -> None:
        """End a hold; nothing happens if there is none."""
        self._holds.put(point, "released", self._clock.now(), reason)

    def holds(self, vm_id: str | None) -> dict[str, str]:
        """Why points are held, by id."""
        marked = self._holds.marked(vm_id)
        return {point_id: self._holds.read(name).reason for point_id, name in marked.items()}

    def forgotten(self, vm_id: str | None) -> list[ForgottenPoint]:
        """The forgotten points of one VM, or of all, whose records are still there."""
        tombs = self._tombs.marked(vm_id)
        found = []
        for info in self._store.list(points_prefix(vm_id)):
            name = tombs.get(point_id_of(info.key))
            if name is None:
                continue
            try:
                mark = self._tombs.read(name)
                found.append(ForgottenPoint(self._catalogue.read(info.key), mark.at, mark.reason))
            except ObjectNotFound:
                continue  # swept since it was listed
            except (DamagedObject, UnsupportedFormat) as error:
                _LOG.warning("a forgotten restore point cannot be read: %s", error)
        return sorted(found, key=lambda each: (each.point.created_at, each.point.id))

    def _is_kept(self, point: RestorePoint, newest: Generation) -> bool:
        """Whether the newest generation is known to spare the point; cancels one that may not.

        It spares what it has seen, and what was committed by somebody who had seen it. What it has
        seen was there after all that earlier ones deleted.
        """
        if newest.number <= point.gc_generation:
            return True
        outcome = newest.outcome
        if outcome is None and point.id not in newest.plan.points:
            why = f"restore point {point.id} was brought back"
            outcome = self._generations.cancel(newest.number, why, self._clock.now())
        if outcome is not None and outcome.is_sweep:
            return point.id in outcome.points
        return point.id in newest.plan.points

    def _is_collected(self, point: RestorePoint) -> bool:
        """Whether any generation deletes, or has deleted, what the point needs.

        A generation that has not seen the point does not tell: the point may be younger than its
        outcome, or have been deleted by one before it.
        """
        _, gone = self._generations.newest_with(self._generations.gone_after)
        try:
            return point.key in gone or not is_whole(self._store, self._records, point.disks, gone)
        except DamagedObject:
            return False  # it is there; verification says what is wrong with it
