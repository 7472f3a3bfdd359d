"""Looking at the restore points before anything is condemned, and again before it is deleted.

What a restore point needs is safe only if it is seen: so all of them are listed until no new one
appears, and whatever cannot be read, or is missing from a listing, stops the collection (item 6 of
the safety argument in `collect.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from repository.collect_tools import CollectTools
from repository.errors import (
    CollectionRefused,
    DamagedObject,
    ObjectNotFound,
    UnsupportedFormat,
)
from repository.layout import POINTS, point_id_of
from repository.maps import open_disk_map
from repository.marks import LOST, TOMB_MARKS, MarkName, Marks
from repository.points import RestorePoint
from repository.references import DiskState, disk_states
from repository.usage import Needed, Refs, references_of

_UNREADABLE = (DamagedObject, ObjectNotFound, UnsupportedFormat)
"""An object is bad; anything else is the store's trouble, and another run may fare better."""


@dataclass(slots=True)
class Points:
    """The restore points there are, looked at until no new one appears."""

    kept: list[RestorePoint] = field(default_factory=list)
    dropped: list[RestorePoint] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    """Names of records that cannot be read, of points that an operator has given up."""

    def kept_ids(self) -> tuple[str, ...]:
        return tuple(point.id for point in self.kept)

    def dropped_ids(self) -> tuple[str, ...]:
        lost = (point_id_of(key) for key in self.lost)
        return (*(point.id for point in self.dropped), *lost)


IsDropped = Callable[[RestorePoint, MarkName], bool]
"""Whether a forgotten point is to go; lost ones go without being asked about."""


def look_at_points(
    tools: CollectTools, gone: set[str], is_dropped: IsDropped, lost_ids: Set[str] = frozenset()
) -> tuple[Points, Refs]:
    """All restore points, and the references of those kept.

    Listed again until nothing new appears, marks included. `lost_ids` are taken as given up, besides
    those marked so. Raises CollectionRefused for a record or a map that cannot be read, unless the
    point is lost, and for a point whose predecessor is missing without having been collected or
    given up: then the listing was not complete.
    """
    needed = Needed()
    measured: set[str] = set()
    while True:
        tombs = Marks(tools.store, tools.records, TOMB_MARKS).marked()
        lost = lost_ids | {point_id for point_id, tomb in tombs.items() if tomb.state == LOST}
        points = _listed_points(tools, is_dropped, tombs, lost)
        new = [point for point in points.kept if point.id not in measured]
        _check_chains([*points.kept, *points.dropped], gone, lost)
        if not new:
            return points, needed.all()
        for state in disk_states(new):
            tools.check_stop()
            needed.add(_references(tools, state))
        measured |= {point.id for point in new}


def _listed_points(
    tools: CollectTools, is_dropped: IsDropped, tombs: Mapping[str, MarkName], lost: Set[str]
) -> Points:
    points = Points()
    for info in list(tools.store.list(POINTS)):
        tools.check_stop()
        is_lost = point_id_of(info.key) in lost
        try:
            point = tools.catalogue.read(info.key)
        except _UNREADABLE as error:
            if not is_lost:
                raise CollectionRefused(
                    f"a restore point cannot be read: {error}. If it cannot be mended: "
                    f"`ahvault give-up {info.key}`"
                ) from error
            points.lost.append(info.key)
            continue
        tomb = tombs.get(point.id)
        dropped = is_lost or (tomb is not None and is_dropped(point, tomb))
        (points.dropped if dropped else points.kept).append(point)
    return points


def _check_chains(points: Sequence[RestorePoint], gone: set[str], lost: Set[str]) -> None:
    known = {point.id for point in points} | lost
    known |= {point_id_of(name) for name in gone if name.startswith(POINTS)}
    for point in points:
        previous = point.previous_point_id
        if previous is not None and previous not in known:
            raise CollectionRefused(
                f"restore point {point.id} names {previous} as its predecessor, which is not "
                "listed and was never collected: the listing is not complete. If its record is "
                f"gone for good: `ahvault give-up {previous}`"
            )


def _references(tools: CollectTools, state: DiskState) -> Refs:
    refs = tools.cache.get(state.record)
    if refs is None:
        keys, sealer = tools.records.keys, tools.records.sealer
        try:
            refs = references_of(open_disk_map(tools.store, state.record, keys, sealer))
        except _UNREADABLE as error:
            names = " ".join(point.id for point in state.points)
            raise CollectionRefused(
                f"a disk map cannot be read: {error}. If it cannot be mended: "
                f"`ahvault give-up {names}`"
            ) from error
        tools.cache.put(state.record, refs)
    return refs
