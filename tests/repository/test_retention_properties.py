"""What holds for every policy and every history, and three years of daily runs."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repository.gfs import (
    GfsLevel,
    GfsPolicy,
    KeepMonthly,
    KeepWeekly,
    KeepYearly,
    Month,
    Weekday,
    WeekOfMonth,
    flag_until,
    period_start,
)
from repository.retention import PointFacts, RetentionPlan, Rule, Verdict, plan_retention
from repository.retention_policy import RetentionPolicy

BERLIN = ZoneInfo("Europe/Berlin")
FIRST_DAY = date(2027, 1, 1)
NOW = datetime(2030, 6, 15, 12, 0, tzinfo=UTC)

gfs_policies = st.builds(
    GfsPolicy,
    weekly=st.none()
    | st.builds(KeepWeekly, keep_weeks=st.integers(1, 12), day=st.sampled_from(Weekday)),
    monthly=st.none()
    | st.builds(KeepMonthly, keep_months=st.integers(1, 24), week=st.sampled_from(WeekOfMonth)),
    yearly=st.none()
    | st.builds(KeepYearly, keep_years=st.integers(1, 3), month=st.sampled_from(Month)),
)
policies = st.builds(
    RetentionPolicy,
    keep_days=st.integers(1, 60),
    keep_last=st.none() | st.integers(1, 30),
    minimum_kept=st.integers(1, 6),
    gfs=gfs_policies,
    departed_after_days=st.none() | st.integers(1, 30),
    time_zone=st.sampled_from([ZoneInfo("UTC"), BERLIN, ZoneInfo("Pacific/Auckland")]),
)


@st.composite
def histories(draw: st.DrawFn) -> list[PointFacts]:
    """Points of up to three VMs over four years, some held, damaged, foreign or from the future."""
    count = draw(st.integers(0, 40))
    return [
        PointFacts(
            point_id=f"p{number}",
            vm_id=draw(st.sampled_from(["vm-1", "vm-2", "vm-3"])),
            vm_name="web",
            job=draw(st.sampled_from(["nightly", "nightly", "weekend"])),
            started_at=NOW
            - timedelta(hours=draw(st.integers(-100, 1500) | st.integers(0, 35_000))),
            hold=draw(st.sampled_from([None, None, None, "audit"])),
            exemption=draw(st.sampled_from([None, None, None, None, "imported"])),
            is_damaged=draw(st.sampled_from([False, False, False, True])),
        )
        for number in range(count)
    ]


def kept_ids(plan: RetentionPlan) -> set[str]:
    return {item.point.point_id for item in plan.decisions if item.verdict is Verdict.KEEP}


@settings(max_examples=40, deadline=None)
@given(histories(), policies, st.booleans())
def test_planning_again_drops_nothing(
    points: list[PointFacts], policy: RetentionPolicy, ends_a_session: bool
) -> None:
    """Idempotent: once the drops are carried out, the same moment asks for no more."""
    attempts: dict[str, datetime] | None = {} if ends_a_session else None
    first = plan_retention(points, policy, now=NOW, attempts=attempts)
    left = [item.point for item in first.decisions if item.verdict is Verdict.KEEP]
    again = plan_retention(left, policy, now=NOW, attempts=attempts)
    assert again.drops(force=True) == ()


@settings(max_examples=40, deadline=None)
@given(histories(), policies, st.randoms(use_true_random=False))
def test_order_does_not_matter(
    points: list[PointFacts], policy: RetentionPolicy, chance: random.Random
) -> None:
    """The plan is the same whatever order a listing comes in, and decides every point once."""
    plan = plan_retention(points, policy, now=NOW)
    shuffled = list(points)
    chance.shuffle(shuffled)
    assert plan_retention(shuffled, policy, now=NOW) == plan
    assert sorted(item.point.point_id for item in plan.decisions) == sorted(
        point.point_id for point in points
    )


@settings(max_examples=40, deadline=None)
@given(histories(), policies, st.booleans())
def test_held_foreign_and_future_points_are_never_dropped(
    points: list[PointFacts], policy: RetentionPolicy, ends_a_session: bool
) -> None:
    """Forced or not, departed or not."""
    plan = plan_retention(points, policy, now=NOW, attempts={} if ends_a_session else None)
    for gone in plan.drops(force=True):
        assert gone.hold is None
        assert gone.exemption is None
        assert gone.started_at <= NOW


@settings(max_examples=40, deadline=None)
@given(histories(), policies)
def test_the_newest_sound_points_stay(points: list[PointFacts], policy: RetentionPolicy) -> None:
    """Never fewer than the minimum: the newest sound points of each VM, whatever else is set (T4)."""
    kept = kept_ids(plan_retention(points, policy, now=NOW))
    for key in {(point.job, point.vm_id) for point in points}:
        sound = [
            point
            for point in sorted(points, key=lambda p: (p.started_at, p.point_id))
            if (point.job, point.vm_id) == key
            and point.started_at <= NOW
            and point.exemption is None
            and not point.is_damaged
        ]
        assert {point.point_id for point in sound[-policy.minimum_kept :]} <= kept


@settings(max_examples=40, deadline=None)
@given(histories(), policies, st.sampled_from(["keep_days", "keep_last", "minimum_kept", "gfs"]))
def test_a_larger_number_never_drops_more(
    points: list[PointFacts], policy: RetentionPolicy, field: str
) -> None:
    """Monotone: raising a keep-number keeps at least what was kept before."""
    raised = policy.model_copy(update={field: _raised(getattr(policy, field))})
    before = kept_ids(plan_retention(points, policy, now=NOW))
    assert before <= kept_ids(plan_retention(points, raised, now=NOW))


def _raised(value: int | GfsPolicy | None) -> int | GfsPolicy:
    if isinstance(value, GfsPolicy):
        longer = value.model_dump()
        for level, number in (
            ("weekly", "keep_weeks"),
            ("monthly", "keep_months"),
            ("yearly", "keep_years"),
        ):
            if longer[level]:
                longer[level][number] += 1
        return GfsPolicy.model_validate(longer)
    return (value or 0) + 1


@settings(max_examples=40, deadline=None)
@given(histories(), policies)
def test_refused_parts_and_drops_add_up(points: list[PointFacts], policy: RetentionPolicy) -> None:
    """What goes within limits is what goes by force, minus whole VMs that a refusal names."""
    plan = plan_retention(points, policy, now=NOW, attempts={})
    refused = {(refusal.job, vm_id) for refusal in plan.refusals for vm_id in refusal.vm_ids}
    forced, limited = plan.drops(force=True), plan.drops_within_limits()
    assert list(limited) == [gone for gone in forced if (gone.job, gone.vm_id) not in refused]
    assert bool(plan.refusals) == (len(forced) > len(limited))


def run_daily(
    made: Sequence[date], policy: RetentionPolicy, day_count: int
) -> Iterator[tuple[date, RetentionPlan]]:
    """One session at 22:00 on each day of `made`, and retention carried out on every day after it."""
    alive: list[PointFacts] = []
    sessions = set(made)
    for offset in range(day_count):
        today = FIRST_DAY + timedelta(days=offset)
        if today in sessions:
            started_at = datetime.combine(today, time(22, 0), tzinfo=policy.time_zone)
            alive.append(PointFacts(today.isoformat(), "vm-1", "web", "nightly", started_at))
        now = datetime.combine(today, time(23, 30), tzinfo=policy.time_zone)
        plan = plan_retention(alive, policy, now=now)
        yield today, plan
        gone = set(plan.drops(force=True))
        alive = [point for point in alive if point not in gone]


class WholeHistory:
    """The answer from every point ever made, dropped ones included: what ought to be there.

    Written from the rules and not from the planner: newest, young enough, or the first point of a
    period that has not run out.
    """

    def __init__(self, made: Sequence[date], policy: RetentionPolicy) -> None:
        self.made, self.policy = made, policy
        self.flagged: list[tuple[date, date]] = []
        for level in policy.gfs.levels():
            first_of: dict[date, date] = {}
            for day in made:
                first_of.setdefault(period_start(policy.gfs, level, day), day)
            self.flagged += [(d, flag_until(policy.gfs, level, d)) for d in first_of.values()]

    def kept(self, today: date) -> set[str]:
        past = [day for day in self.made if day <= today]
        kept = set(past[-self.policy.minimum_kept :])
        kept |= {day for day in past if (today - day).days <= (self.policy.keep_days or 0)}
        kept |= {day for day, until in self.flagged if day <= today < until}
        return {day.isoformat() for day in kept}


THREE_YEARS = 3 * 365 + 1
EVERY_DAY = [FIRST_DAY + timedelta(days=offset) for offset in range(THREE_YEARS)]
USUAL = RetentionPolicy(
    gfs=GfsPolicy(
        weekly=KeepWeekly(keep_weeks=4, day=Weekday.SATURDAY),
        monthly=KeepMonthly(keep_months=12),
        yearly=KeepYearly(keep_years=2),
    ),
    time_zone=BERLIN,
)


@pytest.mark.parametrize("failing_percent", [0, 10, 60])
def test_three_years_of_daily_runs_keep_the_expected_points(failing_percent: int) -> None:
    """Each day, what is left equals what the whole history asks for, failures or not (G1-G7, T2, T4)."""
    chance = random.Random(failing_percent)
    made = [day for day in EVERY_DAY if chance.randrange(100) >= failing_percent]
    history = WholeHistory(made, USUAL)
    for today, plan in run_daily(made, USUAL, THREE_YEARS):
        assert kept_ids(plan) == history.kept(today)
        assert not plan.refusals


def test_the_set_after_three_years_is_the_one_on_paper() -> None:
    """By hand, with a calendar: 8 days, 4 Saturdays, 12 first Saturdays, 2 first points of a year."""
    *_, (today, plan) = run_daily(EVERY_DAY, USUAL, THREE_YEARS)
    assert today == date(2029, 12, 31)
    by_rule = {
        rule: [
            item.point.point_id
            for item in plan.decisions
            if rule in {reason.rule for reason in item.reasons if reason.keeps}
        ]
        for rule in (Rule.YEARLY, Rule.MONTHLY, Rule.WEEKLY, Rule.DAYS)
    }
    assert by_rule == {
        Rule.YEARLY: ["2028-01-01", "2029-01-06"],
        Rule.MONTHLY: [
            "2029-01-06",
            "2029-02-03",
            "2029-03-03",
            "2029-04-07",
            "2029-05-05",
            "2029-06-02",
            "2029-07-07",
            "2029-08-04",
            "2029-09-01",
            "2029-10-06",
            "2029-11-03",
            "2029-12-01",
        ],
        Rule.WEEKLY: ["2029-12-08", "2029-12-15", "2029-12-22", "2029-12-29"],
        Rule.DAYS: [f"2029-12-{day}" for day in range(24, 32)],
    }


@settings(max_examples=20, deadline=None)
@given(policies, st.sets(st.integers(0, 199), min_size=20))
def test_a_flag_once_shown_is_kept_to_its_last_day(
    policy: RetentionPolicy, session_days: set[int]
) -> None:
    """Stable: called every day, no later plan takes a flag from a point before the date it named."""
    made = sorted(FIRST_DAY + timedelta(days=offset) for offset in session_days)
    promised: dict[tuple[str, Rule], date] = {}
    for today, plan in run_daily(made, policy, 230):
        shown = {
            (item.point.point_id, reason.rule): reason.until
            for item in plan.decisions
            for reason in item.reasons
            if reason.until and reason.keeps
        }
        for promise, until in promised.items():
            assert today >= until or shown.get(promise) == until
        promised |= {key: until for key, until in shown.items() if until}


@settings(max_examples=20, deadline=None)
@given(policies, st.sets(st.integers(0, 199), min_size=20))
def test_nothing_that_history_asks_for_is_missing(
    policy: RetentionPolicy, session_days: set[int]
) -> None:
    """For any policy, what is left contains all that the whole history would keep."""
    made = sorted(FIRST_DAY + timedelta(days=offset) for offset in session_days)
    history = WholeHistory(made, policy)
    for today, plan in run_daily(made, policy, 230):
        assert history.kept(today) <= kept_ids(plan)


@settings(max_examples=25, deadline=None)
@given(gfs_policies, gfs_policies, st.sets(st.integers(0, 400), min_size=20))
def test_a_changed_schedule_leaves_every_period_represented(
    before: GfsPolicy, after: GfsPolicy, session_days: set[int]
) -> None:
    """G8 for derived flags: each new period in which any point was left keeps one, for its time."""
    made = sorted(FIRST_DAY + timedelta(days=offset) for offset in session_days)
    *_, (today, plan) = run_daily(made, RetentionPolicy(gfs=before), 420)
    left = [item.point for item in plan.decisions if item.verdict is Verdict.KEEP]
    changed = RetentionPolicy(gfs=after)
    now = datetime.combine(today, time(23, 45), tzinfo=UTC)
    kept = {date.fromisoformat(key) for key in kept_ids(plan_retention(left, changed, now=now))}
    for level in GfsLevel:
        if level not in after.levels():
            continue
        for day in (changed.day_of(point.started_at) for point in left):
            start = period_start(after, level, day)
            if today < flag_until(after, level, start):
                assert any(period_start(after, level, other) == start for other in kept)
