"""Weekly, monthly and yearly flags: periods, carriers, ends (G1-G8), and the reference replayed."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from repository.gfs import (
    GfsCandidate,
    GfsLevel,
    GfsPolicy,
    KeepMonthly,
    KeepWeekly,
    KeepYearly,
    Month,
    Weekday,
    WeekOfMonth,
    assign_flags,
    flag_until,
    period_start,
)

WEEKLY = KeepWeekly(keep_weeks=4, day=Weekday.SATURDAY)
MONTHLY = KeepMonthly(keep_months=12, week=WeekOfMonth.FIRST)
YEARLY = KeepYearly(keep_years=7, month=Month.JANUARY)
ALL_LEVELS = GfsPolicy(weekly=WEEKLY, monthly=MONTHLY, yearly=YEARLY)

days = st.dates(min_value=date(2015, 1, 1), max_value=date(2100, 12, 31))
policies = st.builds(
    GfsPolicy,
    weekly=st.none() | st.builds(KeepWeekly, keep_weeks=st.integers(1, 60)),
    monthly=st.none()
    | st.builds(KeepMonthly, keep_months=st.integers(1, 40), week=st.sampled_from(WeekOfMonth)),
    yearly=st.none()
    | st.builds(KeepYearly, keep_years=st.integers(1, 10), month=st.sampled_from(Month)),
)


def candidates(points: Iterable[date], damaged: Iterable[date] = ()) -> list[GfsCandidate]:
    bad = set(damaged)
    return [GfsCandidate(day.isoformat(), day, day not in bad) for day in points]


def carriers(gfs: GfsPolicy, level: GfsLevel, points: Iterable[date]) -> list[date]:
    """The days of the points that carry a flag of this level."""
    flags = assign_flags(gfs, candidates(points))
    return [
        date.fromisoformat(point_id)
        for point_id, flags_of_point in flags.items()
        if any(flag.level is level for flag in flags_of_point)
    ]


def every_day(start: date, count: int) -> list[date]:
    return [start + timedelta(days=offset) for offset in range(count)]


@pytest.mark.parametrize(
    ("gfs", "level", "day", "start"),
    [
        (GfsPolicy(weekly=WEEKLY), "weekly", date(2026, 11, 21), date(2026, 11, 21)),
        (GfsPolicy(weekly=WEEKLY), "weekly", date(2026, 11, 27), date(2026, 11, 21)),
        (GfsPolicy(monthly=MONTHLY), "monthly", date(2026, 11, 30), date(2026, 11, 1)),
        (ALL_LEVELS, "monthly", date(2026, 11, 30), date(2026, 11, 7)),
        (ALL_LEVELS, "monthly", date(2026, 11, 6), date(2026, 10, 3)),
        (ALL_LEVELS, "monthly", date(2027, 1, 1), date(2026, 12, 5)),
        (ALL_LEVELS, "yearly", date(2027, 1, 1), date(2026, 1, 3)),
        (ALL_LEVELS, "yearly", date(2027, 1, 2), date(2027, 1, 2)),
        (GfsPolicy(weekly=WEEKLY, yearly=YEARLY), "yearly", date(2027, 1, 1), date(2027, 1, 1)),
    ],
)
def test_a_period_starts_where_the_policy_says(
    gfs: GfsPolicy, level: str, day: date, start: date
) -> None:
    """Week days, weeks of the month and months give the starts that a calendar on paper gives."""
    assert period_start(gfs, GfsLevel(level), day) == start


@pytest.mark.parametrize(
    ("week", "start"),
    [
        ("first", date(2024, 2, 1)),
        ("second", date(2024, 2, 8)),
        ("third", date(2024, 2, 15)),
        ("fourth", date(2024, 2, 22)),
        ("last", date(2024, 2, 23)),
    ],
)
def test_the_weeks_of_a_leap_february(week: str, start: date) -> None:
    """The fourth week and the last seven days differ in a leap year's February (G1)."""
    gfs = GfsPolicy(monthly=KeepMonthly(keep_months=1, week=WeekOfMonth(week)))
    assert period_start(gfs, GfsLevel.MONTHLY, date(2024, 2, 29)) == start


def test_the_last_seven_days_of_a_common_february() -> None:
    """With 28 days the last week is the fourth."""
    gfs = GfsPolicy(monthly=KeepMonthly(keep_months=1, week=WeekOfMonth.LAST))
    assert period_start(gfs, GfsLevel.MONTHLY, date(2026, 2, 28)) == date(2026, 2, 22)


@given(policies, days)
def test_periods_tile_time(gfs: GfsPolicy, day: date) -> None:
    """Every day lies in exactly one period per level, which begins on or before it and is its own start."""
    for level in gfs.levels():
        start = period_start(gfs, level, day)
        assert start <= day
        assert period_start(gfs, level, start) == start
        following = period_start(gfs, level, day + timedelta(days=1))
        assert following in (start, day + timedelta(days=1))


@given(policies, days)
def test_a_longer_period_starts_with_a_shorter_one(gfs: GfsPolicy, day: date) -> None:
    """G6: a monthly carrier is a weekly one, a yearly carrier a monthly one, by the calendar alone."""
    if gfs.weekly and gfs.monthly:
        month = period_start(gfs, GfsLevel.MONTHLY, day)
        assert period_start(gfs, GfsLevel.WEEKLY, month) == month
    if gfs.monthly and gfs.yearly:
        year = period_start(gfs, GfsLevel.YEARLY, day)
        assert period_start(gfs, GfsLevel.MONTHLY, year) == year


@pytest.mark.parametrize(
    ("level", "keep", "assigned", "until"),
    [
        ("monthly", 1, date(2026, 1, 31), date(2026, 3, 1)),
        ("monthly", 1, date(2024, 1, 31), date(2024, 3, 1)),
        ("monthly", 1, date(2026, 12, 5), date(2027, 1, 6)),
        ("monthly", 13, date(2026, 8, 31), date(2027, 10, 1)),
        ("weekly", 1, date(2026, 12, 28), date(2027, 1, 4)),
        ("weekly", 6, date(2024, 2, 24), date(2024, 4, 6)),
        ("yearly", 1, date(2024, 2, 29), date(2025, 3, 1)),
        ("yearly", 4, date(2024, 2, 29), date(2028, 3, 1)),
        ("yearly", 7, date(2026, 1, 3), date(2033, 1, 4)),
    ],
)
def test_flags_end_as_the_reference_says(
    level: str, keep: int, assigned: date, until: date
) -> None:
    """G7, its own example (31 January, one month, 1 March) first."""
    gfs = GfsPolicy(
        weekly=KeepWeekly(keep_weeks=keep),
        monthly=KeepMonthly(keep_months=keep),
        yearly=KeepYearly(keep_years=keep),
    )
    assert flag_until(gfs, GfsLevel(level), assigned) == until


def test_a_level_that_is_off_has_no_period_and_no_end() -> None:
    """Asking for a level that the policy does not keep is refused instead of answered with a guess."""
    for level in GfsLevel:
        with pytest.raises(ValueError, match=f"keeps no {level}"):
            period_start(GfsPolicy(), level, date(2026, 1, 1))
        with pytest.raises(ValueError, match=f"keeps no {level}"):
            flag_until(GfsPolicy(), level, date(2026, 1, 1))
    assert assign_flags(GfsPolicy(), candidates(every_day(date(2026, 1, 1), 400))) == {}


def test_the_next_success_takes_the_flag_of_a_failed_day() -> None:
    """G5: Saturday and Sunday failed, so Monday's point stands for the week; next week is normal."""
    made = [
        day for day in every_day(date(2026, 11, 16), 14) if day.isoweekday() < 6 or day.day > 25
    ]
    gfs = GfsPolicy(weekly=WEEKLY)
    assert carriers(gfs, GfsLevel.WEEKLY, made)[1:] == [date(2026, 11, 23), date(2026, 11, 28)]


def test_a_week_without_points_has_no_flag() -> None:
    """A flag that waited through its whole period is not handed out twice in the next (G5)."""
    made = [date(2026, 11, 7), date(2026, 11, 21), date(2026, 11, 22)]
    assert carriers(GfsPolicy(weekly=WEEKLY), GfsLevel.WEEKLY, made) == [
        date(2026, 11, 7),
        date(2026, 11, 21),
    ]


def test_only_the_first_point_of_a_day_carries_the_flag() -> None:
    """Several sessions on the chosen day give one flag (G5: no full got it in this period)."""
    day = date(2026, 11, 21)
    flags = assign_flags(
        GfsPolicy(weekly=WEEKLY),
        [GfsCandidate(f"run-{number}", day, is_sound=True) for number in range(3)],
    )
    assert list(flags) == ["run-0"]


def test_a_damaged_carrier_gets_a_stand_in_and_keeps_its_flag() -> None:
    """The flag reaches up to the first sound point; what follows that has none."""
    made = every_day(date(2026, 11, 21), 5)
    flags = assign_flags(GfsPolicy(weekly=WEEKLY), candidates(made, damaged=made[:2]))
    assert list(flags) == [day.isoformat() for day in made[:3]]


@cache
def days_of_month(year: int, month: int) -> list[date]:
    return [day for day in every_day(date(year, month, 1), 31) if day.month == month]


class ReferenceFlags:
    """G5 and G6 step by step, with state, as the reference describes them; one evaluation a day.

    The one liberty: a period that has its flag never waits. Read literally, a failed session after
    the flag was given would set the waiting mark and hand out a second flag for the same period.
    """

    def __init__(self, gfs: GfsPolicy) -> None:
        self.gfs = gfs
        self.waiting: dict[GfsLevel, bool] = {}
        self.given: dict[GfsLevel, list[date]] = {level: [] for level in GfsLevel}

    def session(self, day: date, *, made_full: bool) -> None:
        lower: GfsLevel | None = None
        for level in self.gfs.levels():
            alone = level is GfsLevel.YEARLY and self.gfs.monthly is None
            fit = made_full and (lower is None or alone or day in self.given[lower])
            self._evaluate(level, day, fit)
            lower = level

    def _evaluate(self, level: GfsLevel, day: date, fit: bool) -> None:
        period = self._scheduled(level, day)
        if period:
            if any(given in period for given in self.given[level][-1:]):
                return
            if fit:
                self._give(level, day)
            else:
                self.waiting[level] = True
        elif self.waiting.get(level) and fit:
            self._give(level, day)

    def _give(self, level: GfsLevel, day: date) -> None:
        self.given[level].append(day)
        self.waiting[level] = False

    def _scheduled(self, level: GfsLevel, day: date) -> list[date]:
        """The days of the scheduled period that `day` is inside of; empty outside of it."""
        month = days_of_month(day.year, day.month)
        if level is GfsLevel.WEEKLY and self.gfs.weekly:
            inside = [day] if day.strftime("%A").lower() == self.gfs.weekly.day else []
        elif level is GfsLevel.MONTHLY and self.gfs.monthly:
            weeks = {
                WeekOfMonth.FIRST: month[0:7],
                WeekOfMonth.SECOND: month[7:14],
                WeekOfMonth.THIRD: month[14:21],
                WeekOfMonth.FOURTH: month[21:28],
                WeekOfMonth.LAST: month[-7:],
            }
            inside = weeks[self.gfs.monthly.week]
        elif self.gfs.yearly:
            inside = month if day.strftime("%B").lower() == self.gfs.yearly.month else []
        return inside if day in inside else []


def reference_flags(gfs: GfsPolicy, run: list[date], failed: set[date]) -> ReferenceFlags:
    reference = ReferenceFlags(gfs)
    for day in run:
        reference.session(day, made_full=day not in failed)
    return reference


# The first of January 2027 is a Friday: with Saturdays, first weeks and Januaries the replay starts
# outside of every scheduled period, and 4 January 2031 ends it in the middle of one.
RUN = every_day(date(2027, 1, 1), 4 * 365)


@settings(max_examples=25, deadline=None)
@given(policies)
def test_without_failures_flags_are_those_of_the_reference(gfs: GfsPolicy) -> None:
    """All levels together, every schedule: the same points, apart from the very first one.

    A period that has begun before the first point is given to that point here, not there (G4).
    """
    reference = reference_flags(gfs, RUN, failed=set())
    for level in gfs.levels():
        ours = carriers(gfs, level, RUN)
        assert ours[0] == RUN[0]
        assert ours[1:] == [day for day in reference.given[level] if day != RUN[0]]


@settings(max_examples=25, deadline=None)
@given(policies, st.sets(st.integers(0, len(RUN) - 1), max_size=1200))
def test_with_failures_each_level_alone_is_that_of_the_reference(
    gfs: GfsPolicy, failed_indices: set[int]
) -> None:
    """Each level alone waits exactly as G5 says, whatever fails, from the first period seen whole."""
    failed = {RUN[index] for index in failed_indices}
    made = [day for day in RUN if day not in failed]
    for level in gfs.levels():
        alone = GfsPolicy(**{level.value: getattr(gfs, level.value)})
        begins = next_start(alone, level, RUN[0])
        given_there = reference_flags(alone, RUN, failed).given[level]
        ours = carriers(alone, level, made)
        assert [day for day in ours if day >= begins] == [d for d in given_there if d >= begins]


def next_start(gfs: GfsPolicy, level: GfsLevel, day: date) -> date:
    first = period_start(gfs, level, day)
    return next(
        start
        for start in (period_start(gfs, level, other) for other in every_day(day, 800))
        if start > first
    )


def test_a_late_weekly_point_does_not_become_monthly_before_its_time() -> None:
    """Where we differ from G6: after an outage into December, the month still waits for its Saturday.

    The reference flags Tuesday 1 December, because it got November's late weekly flag inside the
    first week of December; here December is represented by its first Saturday as in other months.
    """
    run = every_day(date(2026, 11, 1), 60)
    failed = set(every_day(date(2026, 11, 28), 3))
    there = reference_flags(ALL_LEVELS, run, failed).given[GfsLevel.MONTHLY]
    ours = carriers(ALL_LEVELS, GfsLevel.MONTHLY, [day for day in run if day not in failed])
    assert date(2026, 12, 1) in there
    assert date(2026, 12, 5) in ours
    assert date(2026, 12, 1) not in ours


@pytest.mark.parametrize(
    "broken",
    [
        {"weekly": {"keep_weeks": 0}},
        {"weekly": {"keep_weeks": 4, "day": "caturday"}},
        {"monthly": {"keep_months": 1201}},
        {"yearly": {"keep_years": 101}},
        {"yearly": {"keep_years": 1, "week": "first"}},
        {"daily": {"keep_days": 1}},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(broken: dict[str, object]) -> None:
    """Zero or absurd keep-times, unknown days and unknown fields do not become a policy."""
    with pytest.raises(ValidationError):
        GfsPolicy.model_validate(broken)
