"""Planning a generation: what nothing needs any more, and what is worth rewriting.

The order of looking is part of the safety argument in `collect.py`: first the packs and maps that
there are, then the leases, then the restore points until no new one appears, and last the segments.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field

from repository.catalogue import Catalogue
from repository.errors import (
    CollectionRefused,
    DamagedObject,
    ObjectNotFound,
    RepositoryError,
    Stopped,
    UnsupportedFormat,
)
from repository.layout import MAPS, PACKS, POINTS, SEGMENTS, pack_key, point_id_of
from repository.leases import OpenLease, open_leases
from repository.live import LiveRecords
from repository.locating import read_segments
from repository.maps import open_disk_map
from repository.marks import HOLD_MARKS, LOST, TOMB_MARKS, MarkName, Marks
from repository.places import Places
from repository.points import RestorePoint
from repository.quarantine import object_id, quarantined, quarantined_packs
from repository.records import RecordCodec
from repository.references import DiskState, disk_states
from repository.rewriting import Rewriter, rows_of_pack
from repository.segments import Segment
from repository.store import ObjectInfo, Store
from repository.units import Clock, MiB
from repository.usage import Needed, ReferenceCache, Refs, Usage, measure, references_of

_SEGMENT_DEAD_SHARE_MAX = 0.25
_UNREADABLE = (DamagedObject, ObjectNotFound, UnsupportedFormat)
"""An object is bad; anything else is the store's trouble, and another run may fare better."""


class CollectSettings(BaseModel):
    """How collection goes about it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    undelete_hours: float = Field(
        default=7 * 24,
        ge=0,
        description="How long a forgotten restore point can be brought back before a plan drops it.",
    )
    grace_hours: float = Field(
        default=48,
        ge=0,
        description="How long a plan rests before its sweep. Less than 24: only while no session "
        "at all is running.",
    )
    rewrite_dead_percent: int = Field(
        default=25,
        ge=1,
        le=100,
        description="Packs with a larger share of dead bytes are rewritten.",
    )
    rewrite_bytes_max: int = Field(
        default=8192 * MiB, ge=0, description="Read no more than this to rewrite packs in one run."
    )
    discard_quarantined: bool = Field(
        default=False,
        description="The operator's word that what is under quarantine, and needed by no restore "
        "point, may go. Without it nothing under quarantine is ever deleted.",
    )
    is_only_collector: bool = Field(
        default=False,
        description="The operator's word that nobody else collects at the same time, for stores "
        "that cannot create objects exclusively.",
    )


@dataclass(frozen=True, slots=True)
class Tools:
    """What planning and sweeping share."""

    store: Store
    records: RecordCodec
    catalogue: Catalogue
    live: LiveRecords
    clock: Clock
    cache: ReferenceCache
    stop: threading.Event
    pack_target_bytes: int

    def check_stop(self) -> None:
        """Raise Stopped once the stop event is set."""
        if self.stop.is_set():
            raise Stopped("the collection")

    def leases(self) -> list[OpenLease]:
        """The sessions that may be running."""
        return open_leases(self.live, self.clock.now())


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
    tools: Tools, gone: set[str], is_dropped: IsDropped, lost_ids: Set[str] = frozenset()
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
    tools: Tools, is_dropped: IsDropped, tombs: Mapping[str, MarkName], lost: Set[str]
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


def _references(tools: Tools, state: DiskState) -> Refs:
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


@dataclass(slots=True)
class Draft:
    """A plan before it is published."""

    points: Points
    condemned: dict[str, ObjectInfo] = field(default_factory=dict)
    rewritten_packs: int = 0
    rewritten_bytes: int = 0
    """Read of packs to be rewritten."""
    stored_bytes: int = 0
    """Written in their place."""
    skipped_packs: int = 0
    """Packs that were to be rewritten and cannot be read."""
    quarantined: list[ObjectInfo] = field(default_factory=list)
    """What nothing needs and only its quarantine keeps."""
    discarded: list[ObjectInfo] = field(default_factory=list)
    """What is condemned although it is under quarantine."""

    def condemn(self, infos: Sequence[ObjectInfo]) -> None:
        self.condemned.update({info.key: info for info in infos})


class Planner:
    """Makes one plan; with `dry_run` it only counts."""

    def __init__(
        self,
        tools: Tools,
        settings: CollectSettings,
        gone: set[str],
        lost_ids: Set[str] = frozenset(),
    ) -> None:
        self._tools = tools
        self._settings = settings
        self._gone = gone
        self._lost_ids = lost_ids
        self._quarantined = quarantined(tools.store)
        self._tombs = Marks(tools.store, tools.records, TOMB_MARKS)

    def draft(self, *, session: str, dry_run: bool) -> Draft:
        """What to condemn. Rewrites packs, durably, unless it is a dry run."""
        store = self._tools.store
        packs = {bytes.fromhex(i.key.rpartition("/")[2]): i for i in store.list(PACKS)}
        maps = {info.key: info for info in store.list(MAPS)}
        leases = self._tools.leases()
        points, refs = look_at_points(self._tools, self._gone, self._is_dropped, self._lost_ids)
        usage = measure(
            refs,
            lambda: read_segments(store, self._tools.records),
            packs.keys(),
            lambda pack_id: store.stat(pack_key(pack_id)) is not None,
            {each for each in packs if pack_key(each) in self._gone} | quarantined_packs(store),
        )
        draft = Draft(points)
        self._condemn_points(draft)
        self._condemn_maps(draft, maps, has_leases=bool(leases))
        running = {lease.session_id for lease in leases}
        self._condemn_packs(draft, packs, usage, running)
        self._condemn_bad_segments(draft)
        self._rewrite(draft, packs, usage, running, refs, session=session, dry_run=dry_run)
        self._tools.cache.keep_only(disk for point in points.kept for disk in point.disks)
        return draft

    def _is_dropped(self, _point: RestorePoint, tomb: MarkName) -> bool:
        """Whether the time to bring a forgotten point back is over; a damaged tomb keeps it."""
        try:
            forgotten_at = self._tombs.read(tomb).at
        except (DamagedObject, ObjectNotFound):
            return False
        window = dt.timedelta(hours=self._settings.undelete_hours)
        return self._tools.clock.now() - forgotten_at >= window

    def _condemn_points(self, draft: Draft) -> None:
        """The records of dropped points, and every mark on points that are no more."""
        store, records = self._tools.store, self._tools.records
        keys = {*(point.key for point in draft.points.dropped), *draft.points.lost}
        draft.condemn([info for info in store.list(POINTS) if info.key in keys])
        over = set(draft.points.dropped_ids())
        over |= {point_id_of(name) for name in self._gone if name.startswith(POINTS)}
        for family in (TOMB_MARKS, HOLD_MARKS):
            names = Marks(store, records, family).names()
            draft.condemn([ObjectInfo(n.key, 0) for n in names if n.point_id in over])

    def _condemn_maps(self, draft: Draft, maps: dict[str, ObjectInfo], *, has_leases: bool) -> None:
        """Maps of dropped points; while nobody writes, all others that no point names, too."""
        kept = {ref.key for p in draft.points.kept for disk in p.disks for ref in disk.maps}
        dropped = {ref.key for p in draft.points.dropped for disk in p.disks for ref in disk.maps}
        candidates = maps.keys() & dropped if has_leases else maps.keys()
        draft.condemn([maps[key] for key in candidates if key not in kept])

    def _condemn_packs(
        self, draft: Draft, packs: dict[bytes, ObjectInfo], usage: Usage, running: set[str]
    ) -> None:
        """Packs that hold nothing needed, but for those that a running session may refer to."""
        for pack_id, info in packs.items():
            use = usage.packs.get(pack_id)
            if info.key in self._gone:
                is_dead = True  # deleted before, and here again
            elif use is None:
                is_dead = not running and pack_id not in usage.unindexed
            else:
                is_dead = not use.needed_bytes and not use.sessions & running
            if is_dead:
                self._condemn_unless_quarantined(draft, info)

    def _condemn_bad_segments(self, draft: Draft) -> None:
        """Segments under quarantine say nothing to anybody: what was in them is indexed anew."""
        for info in self._tools.store.list(SEGMENTS):
            if object_id(info.key) in self._quarantined:
                self._condemn_unless_quarantined(draft, info)

    def _condemn_unless_quarantined(self, draft: Draft, info: ObjectInfo) -> None:
        """What is under quarantine goes only when the operator says so."""
        if object_id(info.key) not in self._quarantined:
            draft.condemn([info])
        elif self._settings.discard_quarantined:
            draft.condemn([info])
            draft.discarded.append(info)
        else:
            draft.quarantined.append(info)

    def _rewrite(
        self,
        draft: Draft,
        packs: dict[bytes, ObjectInfo],
        usage: Usage,
        running: set[str],
        refs: Refs,
        *,
        session: str,
        dry_run: bool,
    ) -> None:
        worth = self._worth_rewriting(packs, usage, running)
        rewriter = Rewriter(
            self._tools.store,
            self._tools.records,
            self._tools.pack_target_bytes,
            session,
            self._tools.check_stop,
        )
        rows = {} if dry_run or not worth else self._rows(worth)
        for pack_id in worth:
            self._tools.check_stop()
            if not dry_run and not rewriter.copy_pack(rows[pack_id], refs, usage):
                draft.skipped_packs += 1
                continue
            draft.rewritten_packs += 1
            draft.rewritten_bytes += packs[pack_id].size_bytes
            draft.condemn([packs[pack_id]])
        if not dry_run:
            rewriter.finish()
        self._rewrite_segments(draft, usage, running, rewriter, dry_run=dry_run)
        draft.stored_bytes = rewriter.stored_bytes

    def _worth_rewriting(
        self, packs: dict[bytes, ObjectInfo], usage: Usage, running: set[str]
    ) -> list[bytes]:
        """Packs with more dead bytes than allowed, the deadest first, within the byte budget."""
        share_max = self._settings.rewrite_dead_percent / 100
        candidates = [
            pack_id
            for pack_id, use in usage.packs.items()
            if pack_id in packs
            and packs[pack_id].key not in self._gone
            and pack_id.hex() not in self._quarantined
            and use.needed_bytes
            and use.dead_share > share_max
            and not use.sessions & running
        ]
        candidates.sort(key=lambda pack_id: (-usage.packs[pack_id].dead_share, pack_id))
        chosen, left_bytes = [], self._settings.rewrite_bytes_max
        for pack_id in candidates:
            left_bytes -= packs[pack_id].size_bytes
            if left_bytes < 0:
                break
            chosen.append(pack_id)
        return chosen

    def _rows(self, wanted: Sequence[bytes]) -> dict[bytes, Places]:
        rows: dict[bytes, Places] = {}
        for _, segment in self._segments():
            for pack_id in segment.pack_sizes_bytes.keys() & set(wanted):
                rows[pack_id] = rows_of_pack(segment.places, pack_id)
        return rows

    def _segments(self) -> Iterator[tuple[str, Segment]]:
        for key, segment in read_segments(self._tools.store, self._tools.records):
            if isinstance(segment, RepositoryError):
                raise CollectionRefused(f"an index segment cannot be read: {segment}")
            yield key, segment

    def _rewrite_segments(
        self, draft: Draft, usage: Usage, running: set[str], rewriter: Rewriter, *, dry_run: bool
    ) -> None:
        """Condemn segments of which too much is dead, after indexing the rest of them anew."""
        dead = {
            pack_id
            for pack_id in usage.packs
            if pack_key(pack_id) in draft.condemned or pack_key(pack_id) in self._gone
        }
        stale = {
            use.key
            for use in usage.segments
            if use.session not in running
            and len(use.packs & dead) > len(use.packs) * _SEGMENT_DEAD_SHARE_MAX
        }
        if not stale:
            return
        if not dry_run:
            kept = (
                (segment.places, segment.pack_sizes_bytes)
                for key, segment in self._segments()
                if key in stale
            )
            rewriter.copy_segments(kept, dead)
        listed = self._tools.store.list(SEGMENTS)
        draft.condemn([info for info in listed if info.key in stale])
