"""Which restore points stay, which go, and why: the plan, and nothing but the plan.

Pure functions over facts: no store, no clock, nothing remembered between calls. Whoever carries a
plan out writes the forget markers; whoever calls decides when (T6: at the end of each successful
session and once a day, with this same function).

Every restore point is complete by itself, so each one is judged alone: a point stays if any rule
keeps it and goes if none does. Nothing is merged and no point waits for another. docs/retention.md
says which rules of the reference apply (T1-T6, G1-G11, D1-D6) and which have no meaning here.

Doubt keeps. A point with an impossible date, a damaged point and a point from elsewhere never
push another point out, and a plan that drops suspiciously much is refused until somebody insists.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import TypeAlias

from repository.errors import InvalidInput, RepositoryError
from repository.gfs import GfsCandidate, GfsFlag, assign_flags
from repository.points import RestorePoint
from repository.retention_policy import RetentionPolicy

# AHV was released in 2015; a session dated earlier ran on a machine whose clock was not set.
_AHV_RELEASED = datetime(2015, 1, 1, tzinfo=UTC)

_VmKey: TypeAlias = tuple[str, str]
"""Job and VM id: two jobs that protect the same VM do not prune each other's points."""


@dataclass(frozen=True, slots=True)
class PointFacts:
    """What retention needs to know of one restore point.

    `started_at` is when the *session* began, not when this VM's turn came (T3): all points of a
    session belong to one day. InvalidInput if it has no time zone.
    """

    point_id: str
    vm_id: str
    vm_name: str
    job: str
    started_at: datetime
    hold: str | None = None
    """Why somebody put a hold on the point ("" for no reason given); None without a hold."""
    exemption: str | None = None
    """Why the point is none of the job's business: imported, copied, ad hoc (D5); else None."""
    is_damaged: bool = False
    """True while verification has open findings that concern the point."""

    @classmethod
    def of(cls, point: RestorePoint, hold: str | None, *, is_damaged: bool = False) -> PointFacts:
        """The facts of a restore point. A copy is none of the job's business here (D5)."""
        return cls(
            point_id=point.id,
            vm_id=point.vm_id,
            vm_name=point.vm_name,
            job=point.job,
            started_at=point.session_started_at,
            hold=hold,
            exemption="copied from another repository" if point.copied_from else None,
            is_damaged=is_damaged,
        )

    def __post_init__(self) -> None:
        _require_aware(f"session start of restore point {self.point_id}", self.started_at)


class Verdict(StrEnum):
    """What becomes of a point."""

    KEEP = "kept"
    DROP = "dropped"


class Rule(StrEnum):
    """Which rule a reason comes from: a stable code for JSON and tables."""

    HOLD = "hold"
    EXEMPT = "exempt"
    MISDATED = "misdated"
    DAMAGED = "damaged"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    YEARLY = "yearly"
    DAYS = "days"
    LAST = "last"
    MINIMUM = "minimum"
    DEPARTED = "departed"


@dataclass(frozen=True, slots=True)
class Reason:
    """What one rule says of one point."""

    rule: Rule
    keeps: bool
    text: str
    """In words; the verdict stands before it."""
    until: date | None = None
    """The first day on which this reason to keep has ended; None if no date ends it."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One point's verdict with its reasons: all that keep it or, if none does, all that ended.

    That a point is damaged neither keeps nor drops it; it is said with either verdict.
    """

    point: PointFacts
    verdict: Verdict
    reasons: tuple[Reason, ...]

    @classmethod
    def of(cls, point: PointFacts, reasons: Iterable[Reason]) -> Decision:
        """A point stays if any reason keeps it; that it is damaged is said in any case."""
        given = tuple(reasons)
        if not any(reason.keeps for reason in given):
            return cls(point, Verdict.DROP, given)
        said = (reason for reason in given if reason.keeps or reason.rule is Rule.DAMAGED)
        return cls(point, Verdict.KEEP, tuple(said))

    @property
    def sentence(self) -> str:
        """For people, for example `dropped: older than 7 days (made 2026-11-01)`."""
        return f"{self.verdict}: {'; '.join(reason.text for reason in self.reasons)}"


@dataclass(frozen=True, slots=True)
class ExcessiveDrop:
    """The rules would drop too many points of one VM at once."""

    job: str
    vm_id: str
    vm_name: str
    drop_count: int
    point_count: int
    allowed_count: int

    @property
    def vm_ids(self) -> tuple[str, ...]:
        """The VMs of the job whose points are not dropped."""
        return (self.vm_id,)

    @property
    def sentence(self) -> str:
        """The numbers in words."""
        return (
            f"{self.drop_count} of the {self.point_count} restore points of {self.vm_name} "
            f"(job {self.job}) would go at once; {self.allowed_count} may"
        )


@dataclass(frozen=True, slots=True)
class ExcessiveDeparture:
    """Too many VMs of one job would be taken as departed at once."""

    job: str
    vm_ids: tuple[str, ...]
    """The VMs of the job whose points are not dropped."""
    vm_names: tuple[str, ...]
    vm_count: int
    allowed_count: int

    @property
    def sentence(self) -> str:
        """The numbers in words."""
        return (
            f"{len(self.vm_ids)} of the {self.vm_count} VMs of job {self.job} would be taken as "
            f"departed at once ({', '.join(self.vm_names)}); {self.allowed_count} may"
        )


Refusal: TypeAlias = ExcessiveDrop | ExcessiveDeparture


class RetentionRefused(RepositoryError):
    """The plan drops suspiciously much; `refusals` holds the numbers. Look at it, then force it."""

    kind = "retention-refused"

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        self.refusals = tuple(refusals)
        told = "; ".join(refusal.sentence for refusal in self.refusals)
        super().__init__(
            f"retention refused: {told}. Nothing was dropped; check the policy, the clock and the "
            "newest restore points, then force it if this is meant"
        )


@dataclass(frozen=True, slots=True)
class RetentionPlan:
    """A decision for every point given, by job, VM and age (oldest first), and what is refused."""

    decisions: tuple[Decision, ...]
    refusals: tuple[Refusal, ...]

    def drops(self, *, force: bool = False) -> tuple[PointFacts, ...]:
        """Every point that goes. RetentionRefused if any part is excessive, unless forced."""
        if self.refusals and not force:
            raise RetentionRefused(self.refusals)
        return tuple(item.point for item in self.decisions if item.verdict is Verdict.DROP)

    def drops_within_limits(self) -> tuple[PointFacts, ...]:
        """The points that go, without those of VMs named in `refusals`.

        For sessions and background runs: trouble with one VM does not stop the others (T10).
        """
        refused = {(refusal.job, vm_id) for refusal in self.refusals for vm_id in refusal.vm_ids}
        return tuple(point for point in self.drops(force=True) if _vm_key(point) not in refused)


def plan_retention(
    points: Iterable[PointFacts],
    policy: RetentionPolicy,
    *,
    now: datetime,
    attempts: Mapping[str, datetime] | None = None,
) -> RetentionPlan:
    """Decide for each point whether it stays, and say why.

    `points` are all points that the policy governs, in any order: those of one job, or of several
    that share the policy. Rules work per VM and job; a point left out is neither counted nor
    dropped. Planning again after the drops were carried out drops nothing more.

    `attempts` says when each VM (by id) was last tried, failures included. Give it only at the end
    of a session in which every VM succeeded (D2); without it no VM is taken as departed.

    InvalidInput if `now` or an attempt has no time zone, or a point id comes twice.
    """
    evaluation = _Evaluation.of(policy, now, attempts)
    vms = [evaluation.judge(vm_points) for vm_points in _by_vm(points)]
    decisions = (decision for vm in vms for decision in vm.decisions)
    excessive_drops = tuple(_excessive_drops(vms, policy))
    excessive_departures = tuple(_excessive_departures(vms, policy))
    return RetentionPlan(tuple(decisions), (*excessive_drops, *excessive_departures))


@dataclass(frozen=True, slots=True)
class _VmDecisions:
    """The decisions for all points of one VM, oldest first; never empty."""

    decisions: tuple[Decision, ...]
    has_departed: bool

    @property
    def newest(self) -> PointFacts:
        return self.decisions[-1].point

    @property
    def drop_count(self) -> int:
        return sum(decision.verdict is Verdict.DROP for decision in self.decisions)


@dataclass(frozen=True, slots=True)
class _Evaluation:
    """The policy at one moment."""

    policy: RetentionPolicy
    now: datetime
    today: date
    attempts: Mapping[str, datetime] | None

    @classmethod
    def of(
        cls, policy: RetentionPolicy, now: datetime, attempts: Mapping[str, datetime] | None
    ) -> _Evaluation:
        _require_aware("now", now)
        for vm_id, attempt in (attempts or {}).items():
            _require_aware(f"last attempt of VM {vm_id}", attempt)
        return cls(policy, now, policy.day_of(now), attempts)

    def judge(self, points: Sequence[PointFacts]) -> _VmDecisions:
        """Decide for all points of one VM, given oldest first."""
        counted = [p for p in points if p.exemption is None and not self._misdated(p)]
        flags = self._flags(counted)
        departed = self._departed(points)
        short_term: Mapping[str, Sequence[Reason]] = (
            dict.fromkeys((point.point_id for point in points), (departed,))
            if departed
            else self._short_term(counted, flags)
        )
        decisions = []
        for point in points:
            lasting = (*self._protections(point), *flags.get(point.point_id, ()))
            reasons = (*lasting, *short_term.get(point.point_id, ()), *_damage(point))
            decisions.append(Decision.of(point, reasons))
        return _VmDecisions(tuple(decisions), departed is not None)

    def _protections(self, point: PointFacts) -> Iterator[Reason]:
        """What keeps a point against every rule."""
        if point.hold is not None:
            yield Reason(Rule.HOLD, True, f"held: {point.hold}" if point.hold else "held")
        if point.exemption is not None:
            yield Reason(Rule.EXEMPT, True, f"outside retention: {point.exemption}")
        if trouble := self._misdated(point):
            text = f"dated {point.started_at.date()}, {trouble}: never counted, check the clocks"
            yield Reason(Rule.MISDATED, True, text)

    def _misdated(self, point: PointFacts) -> str | None:
        """What is wrong with the date, if it cannot be true (sanity limit, peers-and-format 7.8)."""
        if point.started_at > self.now:
            return "in the future"
        return "before AHV existed" if point.started_at < _AHV_RELEASED else None

    def _flags(self, counted: Iterable[PointFacts]) -> Mapping[str, list[Reason]]:
        """The weekly, monthly and yearly flags by point id, ended ones included."""
        candidates = (
            GfsCandidate(point.point_id, self.policy.day_of(point.started_at), not point.is_damaged)
            for point in counted
        )
        assigned = assign_flags(self.policy.gfs, candidates)
        return {key: [self._flag(flag) for flag in flags] for key, flags in assigned.items()}

    def _flag(self, flag: GfsFlag) -> Reason:
        keeps = self.today < flag.until
        text = f"{flag.level} until {flag.until}" if keeps else f"{flag.level} ended {flag.until}"
        return Reason(Rule(flag.level), keeps, text, flag.until)

    def _departed(self, points: Sequence[PointFacts]) -> Reason | None:
        """Why the points of a VM go that nobody has tried to back up for too long (D2)."""
        after_days = self.policy.departed_after_days
        if after_days is None or self.attempts is None:
            return None
        last = max(point.started_at for point in points)
        last = max(last, self.attempts.get(points[0].vm_id, last))
        if last > self.now or self._age_days(last) <= after_days:
            return None
        tried = self.policy.day_of(last)
        text = f"its VM has departed: last tried {tried}, more than {_days(after_days)} ago"
        return Reason(Rule.DEPARTED, False, text)

    def _short_term(
        self, counted: Sequence[PointFacts], flags: Mapping[str, list[Reason]]
    ) -> Mapping[str, list[Reason]]:
        """What the rules by days, by count and by minimum say, by point id.

        The count leaves out points with a live flag (T5). The minimum does not: it promises that
        so many points exist, whatever keeps them (T4).
        """
        reasons: defaultdict[str, list[Reason]] = defaultdict(list)
        unflagged = [
            point
            for point in counted
            if not any(flag.keeps for flag in flags.get(point.point_id, ()))
        ]
        if self.policy.keep_days is not None:
            for point in counted:
                reasons[point.point_id].append(self._by_days(point, self.policy.keep_days))
        if self.policy.keep_last is not None:
            for point, rank in _ranked(unflagged):
                reasons[point.point_id].append(_by_count(rank, self.policy.keep_last))
        for point, rank in _ranked(counted):
            if rank < self.policy.minimum_kept:
                reasons[point.point_id].append(_by_minimum(self.policy.minimum_kept))
        return reasons

    def _by_days(self, point: PointFacts, keep_days: int) -> Reason:
        """Keep while today - day of the session <= N: N + 1 calendar days in all (T2)."""
        made = self.policy.day_of(point.started_at)
        keeps = self._age_days(point.started_at) <= keep_days
        text = f"{'within' if keeps else 'older than'} {_days(keep_days)} (made {made})"
        return Reason(Rule.DAYS, keeps, text, made + timedelta(days=keep_days + 1))

    def _age_days(self, moment: datetime) -> int:
        return (self.today - self.policy.day_of(moment)).days


def _damage(point: PointFacts) -> Iterator[Reason]:
    """That a damaged point takes no place: as many sound ones stay as without it."""
    if point.is_damaged:
        text = "damaged (see `ahvault verify --coverage`), so it takes the place of no sound one"
        yield Reason(Rule.DAMAGED, False, text)


def _by_count(rank: int, keep_last: int) -> Reason:
    keeps = rank < keep_last
    return Reason(Rule.LAST, keeps, f"{'' if keeps else 'not '}one of the newest {keep_last}")


def _by_minimum(minimum_kept: int) -> Reason:
    text = f"one of the newest {minimum_kept}, which always stay"
    return Reason(Rule.MINIMUM, True, text)


def _ranked(points: Sequence[PointFacts]) -> Iterator[tuple[PointFacts, int]]:
    """Each point with the number of sound points newer than it; a damaged one takes no place."""
    rank = 0
    for point in reversed(points):
        yield point, rank
        rank += not point.is_damaged


def _excessive_drops(
    vms: Iterable[_VmDecisions], policy: RetentionPolicy
) -> Iterator[ExcessiveDrop]:
    for vm in vms:
        point_count = len(vm.decisions)
        allowed_count = policy.droppable(point_count)
        if vm.drop_count > allowed_count and not vm.has_departed:
            named = vm.newest
            yield ExcessiveDrop(
                named.job, named.vm_id, named.vm_name, vm.drop_count, point_count, allowed_count
            )


def _excessive_departures(
    vms: Sequence[_VmDecisions], policy: RetentionPolicy
) -> Iterator[ExcessiveDeparture]:
    """Departure takes whole VMs, so its limit counts VMs: a session that saw no VM looks the same."""
    vm_counts = Counter(vm.newest.job for vm in vms)
    departing: defaultdict[str, list[PointFacts]] = defaultdict(list)
    for vm in vms:
        if vm.has_departed and vm.drop_count:
            departing[vm.newest.job].append(vm.newest)
    for job, newest in departing.items():
        allowed_count = policy.droppable(vm_counts[job])
        if len(newest) > allowed_count:
            ids = tuple(point.vm_id for point in newest)
            names = tuple(point.vm_name for point in newest)
            yield ExcessiveDeparture(job, ids, names, vm_counts[job], allowed_count)


def _by_vm(points: Iterable[PointFacts]) -> Iterator[Sequence[PointFacts]]:
    """The points of each VM, oldest first; VMs in the order of their keys."""
    groups: defaultdict[_VmKey, list[PointFacts]] = defaultdict(list)
    seen: set[str] = set()
    for point in points:
        if point.point_id in seen:
            raise InvalidInput(f"restore point {point.point_id}", "given twice to retention")
        seen.add(point.point_id)
        groups[_vm_key(point)].append(point)
    for _, group in sorted(groups.items()):
        yield sorted(group, key=lambda point: (point.started_at, point.point_id))


def _vm_key(point: PointFacts) -> _VmKey:
    return (point.job, point.vm_id)


def _days(count: int) -> str:
    return "1 day" if count == 1 else f"{count} days"


def _require_aware(what: str, moment: datetime) -> None:
    if moment.utcoffset() is None:
        raise InvalidInput(what, f"{moment} has no time zone; give an aware datetime")
