"""Collection: deleting what no restore point needs, beside running backups and without locks.

A generation is a plan, a rest, a sweep. The plan names what is condemned; it is one object, created
exclusively. During the rest (48 hours) nothing is deleted. The sweep looks at everything anew, takes
out of the condemned whatever is needed by then, and decides with one object, created exclusively;
only then are objects deleted. A generation must be over before the next one begins.

Why nothing needed is ever deleted
----------------------------------
Write L(w) for a writer's lease, P(w) for its commit record, and B(n) for the plan of generation n.

1. *A sweep deletes only what was condemned by its plan and is not needed by any point that it saw.*
   So only points that it did not see can be hurt: those whose P comes after the sweep's last look.
2. *A writer that began after B(n)* found the plan, refers to nothing that it condemns, and copies
   nothing from there. What it inherits belongs to a base that was visible and is kept from being
   forgotten, so the sweep saw the base.
3. *A writer that began before B(n)* has a lease that says so. No sweep of n is decided while that
   lease lasts, so the sweep's look comes after the lease's end, hence after P(w): it saw the point.
4. *A writer whose lease ran out while it slept* (stopped, suspended, cut off) is not waited for. On
   waking it finds B(n) before its commit, and copies what is condemned out of packs that still
   exist, or fails. If B(n) came after that look, it finds B(n) after its commit, and tries to decide
   the generation itself: cancelled. Creation is exclusive, so either nothing is ever deleted, or the
   sweep was decided first; then its list is there to be compared, and a point that lost something is
   forgotten again and its commit fails. If the writer dies right there, the point is found by the
   next plan, which refuses to go on before it is forgotten.
5. *Bringing a point back* is case 4 without the copying: visible first, then look, then cancel. What
   the newest generation has not seen is compared with all that is gone.
6. *Listings* are not trusted: looked at until nothing new appears; a point names its predecessor, so
   a gap that no sweep made stops everything. Whatever cannot be read stops everything.
7. *Clocks* only add slack. A wrong clock ends a lease or a rest too early, which is case 4.
8. *A frozen collector* that wakes late deletes only what an outcome names, and names never return:
   packs, maps and segments have random names, and nothing new refers to what an outcome named.

9. *Repair* is a writer with a lease, and what it copies from is never deleted: nothing under quarantine
   is, unless the operator released it in the very plan. It begins by cancelling a plan that waits, as in
   case 5, for a plan may have condemned the good copy of a chunk whose other copy is about to be put
   under quarantine. A later plan is not swept before the repair has ended; then the sweep sees the
   quarantine, and spares the good copy. While objects are being deleted, repair is refused.
10. *A point that was given up* is an operator's word, recorded as a mark, that its record or maps need
   not be read. It counts as forgotten long ago; nothing else that a point needs is touched by it.
11. *Segments that were merged* say what the small ones said that they replace. These go by plan, rest
   and sweep like anything else, and those of running sessions are left alone. The sweep spares one
   that alone names a pack that stays: its copy may have been damaged during the rest.

Operation against operation (rows happen while columns are under way; tests/repository/
test_collect_cells.py has a test for each cell, called after it, and one for all of a row or column
where nothing can meet):

             | plan                  | sweep                   | backup                | restore
    backup   | spared                | (2)                     | own names, no matter  | no matter
    restore  | no matter             | finds what was moved    | no matter             | no matter
    forget   | next generation's     | next generation's       | refused for a base    | no matter
    undelete | the sweep sees it     | wins, or is too late    | no matter             | no matter
    plan     | one wins              | helps to end it first   | (3), (4)              | no matter
    sweep    | none can be open      | one outcome for both    | (3), (4)              | moved chunks
    repair   | spared, waited for    | (9)                     | the next one heals    | no matter
    give up  | next generation's     | next generation's       | no matter             | no matter

    during a repair: a plan spares what it writes; a sweep waits for its lease; backup, restore, forget,
    undelete and give up do not matter; a second repair does the same once more.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from enum import StrEnum

from repository.collect_draft import Draft
from repository.collect_plan import Planner
from repository.collect_points import look_at_points
from repository.collect_settings import CollectSettings
from repository.collect_tools import CollectTools
from repository.errors import CollectionRefused, ObjectNotFound, StoreDenied
from repository.generations import Generation, Generations, Outcome, Plan, pack_ids
from repository.layout import HOLDS, MAPS, PACKS, POINTS, SEGMENTS, TOMBS, pack_key
from repository.marks import MarkName
from repository.points import RestorePoint
from repository.quarantine import object_id, quarantined, quarantined_packs
from repository.store import ObjectInfo
from repository.stores import creates_exclusively
from repository.usage import Usage

_SHORT_GRACE_HOURS = 24
_FASTER = "another collector was faster"
# Commit records go first, so that no half deleted point is ever listed; marks go last, so that a
# point whose record could not be deleted stays hidden.
_ORDER_OF_DELETION = (POINTS, MAPS, SEGMENTS, PACKS, HOLDS, TOMBS)


class CollectStage(StrEnum):
    """What a run of collection came to."""

    NOTHING = "nothing to collect"
    PLANNED = "planned"
    WAITING = "waiting"
    CANCELLED = "cancelled"
    SWEPT = "swept"
    INCOMPLETE = "not all deleted yet"


@dataclass(frozen=True, slots=True)
class CollectReport:
    """What was done or, in a dry run, what would be done."""

    stage: CollectStage
    generation: int
    reason: str = ""
    """Why it waits, was cancelled, or is incomplete."""
    points: tuple[str, ...] = ()
    """Ids of the forgotten restore points that go."""
    object_counts: dict[str, int] | None = None
    """Objects to be deleted by their first name part."""
    freed_bytes: int = 0
    """Sum of their sizes."""
    rewritten_packs: int = 0
    rewritten_bytes: int = 0
    stored_bytes: int = 0
    """Written in place of what was rewritten; 0 in a dry run."""
    skipped_packs: int = 0
    """Packs that could not be read to be rewritten; verification says why."""
    deleted_objects: int = 0
    quarantined_objects: int = 0
    """What nothing needs, but is under quarantine: it stays until the operator says otherwise."""
    quarantined_bytes: int = 0

    @property
    def delete_requests(self) -> int:
        """Requests that the sweep takes."""
        return sum((self.object_counts or {}).values())


@dataclass(frozen=True, slots=True)
class CollectProgress:
    """How far deleting has come."""

    objects_done: int
    objects_total: int


OnProgress = Callable[[CollectProgress], None]


class Collector:
    """Carries collection on by one step, from wherever the last run left it."""

    def __init__(
        self, tools: CollectTools, settings: CollectSettings, on_progress: OnProgress | None = None
    ) -> None:
        self._tools = tools
        self._settings = settings
        self._on_progress = on_progress
        self._generations = Generations(tools.store, tools.records)

    def run(self, *, dry_run: bool = False) -> CollectReport:
        """Finish or sweep the newest generation; if it is over, plan the next.

        A new plan is swept at once if its grace is over at once. Can be stopped or killed anywhere
        and run again.
        """
        self._refuse_without_exclusive_creation()
        newest = self._generations.newest()
        try:
            return self._step(newest, dry_run=dry_run)
        except (ObjectNotFound, CollectionRefused):
            number = self._generations.newest_number()
            if number == (newest.number if newest else 0) and not self._has_moved(newest):
                raise
            return CollectReport(CollectStage.WAITING, number, reason=_FASTER)

    def _has_moved(self, seen: Generation | None) -> bool:
        """Whether another collector has carried the generation on since it was read."""
        return seen is not None and self._generations.read(seen.number) != seen

    def _step(self, newest: Generation | None, *, dry_run: bool) -> CollectReport:
        if newest is not None and not newest.is_over:
            return self._go_on(newest, dry_run=dry_run)
        report = self._plan(newest, dry_run=dry_run)
        if dry_run or report.stage is not CollectStage.PLANNED or self._settings.grace_hours:
            return report
        swept = self._go_on(self._generations.read(report.generation), dry_run=False)
        return replace(
            swept,
            rewritten_packs=report.rewritten_packs,
            rewritten_bytes=report.rewritten_bytes,
            stored_bytes=report.stored_bytes,
            skipped_packs=report.skipped_packs,
        )

    def outlook(self, lost_ids: Set[str]) -> CollectReport:
        """What the next plan would condemn if these points were given up; writes nothing.

        Raises CollectionRefused if there could be no plan even then.
        """
        newest = self._generations.newest()
        gone = self._generations.gone_after(newest)
        planner = Planner(self._tools, self._settings, gone, lost_ids)
        number = newest.number + 1 if newest else 1
        return _planned(number, planner.draft(session="outlook", dry_run=True))

    def cancel(self, reason: str) -> CollectReport:
        """Give the open generation up; nothing that it condemned is deleted."""
        newest = self._generations.newest()
        if newest is None or not newest.is_open:
            return CollectReport(CollectStage.NOTHING, newest.number if newest else 0)
        outcome = self._generations.cancel(newest.number, reason, self._tools.clock.now())
        stage = CollectStage.INCOMPLETE if outcome.is_sweep else CollectStage.CANCELLED
        return CollectReport(stage, newest.number, reason=outcome.reason)

    def _refuse_without_exclusive_creation(self) -> None:
        store = self._tools.store
        if not self._settings.is_only_collector and not creates_exclusively(store):
            raise CollectionRefused(
                "this store cannot create objects exclusively, so two collectors could not tell who "
                "is first; collect from one place only and say so with --only-collector"
            )

    def _plan(self, newest: Generation | None, *, dry_run: bool) -> CollectReport:
        number = newest.number + 1 if newest else 1
        gone = self._generations.gone_after(newest)
        planner = Planner(self._tools, self._settings, gone)
        draft = planner.draft(session=f"collect-{number}", dry_run=dry_run)
        report = _planned(number, draft)
        if not draft.condemned:
            return replace(report, stage=CollectStage.NOTHING, generation=number - 1)
        if dry_run:
            return report
        self._tools.check_stop()
        plan = Plan(
            planned_at=self._tools.clock.now(),
            condemned=self._generations.put_list(number, draft.condemned.values()),
            gone=self._generations.put_list(number, [ObjectInfo(name, 0) for name in sorted(gone)]),
            points=draft.points.kept_ids(),
            dropped=report.points,
            discarded=tuple(info.key for info in draft.discarded),
        )
        if not self._generations.begin(number, plan):
            for ref in (plan.condemned, plan.gone):
                self._tools.store.delete(ref.key)
            return CollectReport(CollectStage.WAITING, number, reason=_FASTER)
        return report

    def _go_on(self, generation: Generation, *, dry_run: bool) -> CollectReport:
        outcome = generation.outcome
        if outcome is None:
            waits_for = self._waits_for(generation)
            condemned = self._generations.get_list(generation.plan.condemned)
            if waits_for or dry_run:
                stage = CollectStage.WAITING if waits_for else CollectStage.PLANNED
                return _report(stage, generation, condemned, reason=waits_for)
            outcome = self._decide(generation, condemned)
        if not outcome.is_sweep or outcome.swept is None:
            return CollectReport(CollectStage.CANCELLED, generation.number, reason=outcome.reason)
        swept = self._generations.get_list(outcome.swept)
        if dry_run:
            return _report(CollectStage.INCOMPLETE, generation, swept)
        return self._delete(generation, swept)

    def _waits_for(self, generation: Generation) -> str:
        """Why the sweep cannot be decided yet; empty if it can. Leases are read here, before the
        points are: a lease that has ended has its points listed."""
        leases = self._tools.leases()
        if self._settings.grace_hours < _SHORT_GRACE_HOURS and leases:
            return f"session {leases[0].session_id} is running, and the grace time is short"
        for lease in leases:
            if lease.generation < generation.number:
                return f"session {lease.session_id} began before the plan"
        grace = dt.timedelta(hours=self._settings.grace_hours)
        due = generation.plan.planned_at + grace
        if self._tools.clock.now() < due:
            return f"the plan rests until {due:%Y-%m-%d %H:%M} UTC"
        return ""

    def _decide(self, generation: Generation, condemned: list[ObjectInfo]) -> Outcome:
        """Look at everything anew and decide what is deleted; returns the outcome that holds."""
        dropped = set(generation.plan.dropped)

        def is_dropped(point: RestorePoint, _tomb: MarkName) -> bool:
            return point.id in dropped

        names = {info.key for info in condemned}
        gone = {info.key for info in self._generations.get_list(generation.plan.gone)}
        points, refs = look_at_points(self._tools, gone, is_dropped)
        store = self._tools.store
        listed = {bytes.fromhex(info.key.rpartition("/")[2]) for info in store.list(PACKS)}
        usage = self._tools.usage(refs, listed, pack_ids(names | gone) | quarantined_packs(store))
        kept_back = quarantined(store)
        released = set(generation.plan.discarded)
        rescued = usage.rescued | usage.unindexed
        needed = {pack_key(pack_id) for pack_id in rescued}
        needed |= {use.key for use in usage.segments if use.packs & rescued}
        needed |= _segments_to_spare(usage, names, gone)
        for point in points.kept:
            needed |= {point.key, *(ref.key for disk in point.disks for ref in disk.maps)}
        kept_ids = set(points.kept_ids())
        swept = [
            info
            for info in condemned
            if info.key not in needed
            and not _is_mark_of(info.key, kept_ids)
            and (info.key in released or not _is_quarantined(info.key, kept_back))
        ]
        self._tools.check_stop()
        outcome = Outcome(
            decided_at=self._tools.clock.now(),
            sweep=True,
            swept=self._generations.put_list(generation.number, swept),
            points=points.kept_ids(),
        )
        return self._generations.decide(generation.number, outcome)

    def _delete(self, generation: Generation, swept: list[ObjectInfo]) -> CollectReport:
        """Delete what the outcome names; may be begun any number of times, by anybody."""
        order = {prefix: place for place, prefix in enumerate(_ORDER_OF_DELETION)}
        swept.sort(key=lambda info: (order[f"{info.key.partition('/')[0]}/"], info.key))
        denied: list[str] = []
        for number, info in enumerate(swept):
            self._tools.check_stop()
            try:
                self._tools.store.delete(info.key)
            except StoreDenied as error:  # locked for a while: the next run tries again
                denied.append(error.detail)
            if self._on_progress:
                self._on_progress(CollectProgress(number + 1, len(swept)))
        deleted = len(swept) - len(denied)
        if denied:
            reason = f"the store refused to delete {len(denied)} objects ({denied[0]})"
            report = _report(CollectStage.INCOMPLETE, generation, swept, reason=reason)
        else:
            self._generations.finish(generation.number, self._tools.clock.now())
            report = _report(CollectStage.SWEPT, generation, swept)
        return replace(report, deleted_objects=deleted)


def _segments_to_spare(usage: Usage, condemned: set[str], gone: set[str]) -> set[str]:
    """Names of condemned segments that alone name a pack that stays: their copy was lost meanwhile."""
    covered = {pack for use in usage.segments if use.key not in condemned for pack in use.packs}
    deleted = condemned | gone
    return {
        use.key
        for use in usage.segments
        if use.key in condemned
        and any(pack not in covered and pack_key(pack) not in deleted for pack in use.packs)
    }


def _is_mark_of(key: str, point_ids: set[str]) -> bool:
    return key.startswith((TOMBS, HOLDS)) and key.split("/")[2] in point_ids


def _is_quarantined(key: str, quarantined_ids: frozenset[str]) -> bool:
    return key.startswith((PACKS, SEGMENTS)) and object_id(key) in quarantined_ids


def _planned(number: int, draft: Draft) -> CollectReport:
    infos = list(draft.condemned.values())
    return CollectReport(
        CollectStage.PLANNED,
        number,
        points=draft.points.dropped_ids(),
        object_counts=_counts(infos),
        freed_bytes=sum(info.size_bytes for info in infos),
        rewritten_packs=draft.rewritten_packs,
        rewritten_bytes=draft.rewritten_bytes,
        stored_bytes=draft.stored_bytes,
        skipped_packs=draft.skipped_packs,
        quarantined_objects=len(draft.quarantined),
        quarantined_bytes=sum(info.size_bytes for info in draft.quarantined),
    )


def _report(
    stage: CollectStage, generation: Generation, infos: Sequence[ObjectInfo], reason: str = ""
) -> CollectReport:
    return CollectReport(
        stage,
        generation.number,
        reason=reason,
        points=generation.plan.dropped,
        object_counts=_counts(infos),
        freed_bytes=sum(info.size_bytes for info in infos),
    )


def _counts(infos: Sequence[ObjectInfo]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for info in infos:
        kind = info.key.partition("/")[0]
        counts[kind] = counts.get(kind, 0) + 1
    return counts
