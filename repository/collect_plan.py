"""Planning a generation: what nothing needs any more.

The order of looking is part of the safety argument in `collect.py`: first the packs and maps that
there are, then the leases, then the restore points until no new one appears, and last the segments.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Set

from repository.collect_draft import Draft
from repository.collect_points import look_at_points
from repository.collect_rewrite import Rewriting
from repository.collect_settings import CollectSettings
from repository.collect_tools import CollectTools
from repository.errors import DamagedObject, ObjectNotFound
from repository.layout import MAPS, PACKS, POINTS, SEGMENTS, pack_key, point_id_of
from repository.marks import HOLD_MARKS, TOMB_MARKS, MarkName, Marks
from repository.points import RestorePoint
from repository.quarantine import object_id, quarantined, quarantined_packs
from repository.store import ObjectInfo
from repository.usage import Usage


class Planner:
    """Makes one plan; with `dry_run` it only counts."""

    def __init__(
        self,
        tools: CollectTools,
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
        """What to condemn. Rewrites packs and segments, durably, unless it is a dry run."""
        store = self._tools.store
        packs = {bytes.fromhex(i.key.rpartition("/")[2]): i for i in store.list(PACKS)}
        maps = {info.key: info for info in store.list(MAPS)}
        leases = self._tools.leases()
        points, refs = look_at_points(self._tools, self._gone, self._is_dropped, self._lost_ids)
        deleted = {each for each in packs if pack_key(each) in self._gone}
        usage = self._tools.usage(refs, packs.keys(), deleted | quarantined_packs(store))
        draft = Draft(points)
        self._condemn_points(draft)
        self._condemn_maps(draft, maps, has_leases=bool(leases))
        running = {lease.session_id for lease in leases}
        self._condemn_packs(draft, packs, usage, running)
        self._condemn_bad_segments(draft)
        rewriting = Rewriting(self._tools, self._settings, self._gone, self._quarantined, running)
        rewriting.run(draft, packs, usage, refs, session=session, dry_run=dry_run)
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
