"""Weekly, monthly and yearly flags: which restore points carry one, and until when. Pure calendar.

Every restore point is complete by itself, so any of them can carry a flag, and no flag is stored:
flags follow from the days of the points that exist and from the policy.

Each level cuts time into periods, and a period runs from its start to the next one's:

    weekly    starts on the chosen weekday
    monthly   starts on the first day of the chosen week of the month or, with weekly points on,
              on the chosen weekday inside that week (seven days hold exactly one)
    yearly    starts on the first day of the chosen month or, with monthly points on, where the
              monthly period of that month starts

The first point of a period carries its flag. That is G5 in one sentence: the point made on the
day itself or, if there is none, the next one that succeeds. Because the start of a longer period
is also the start of a shorter one, the first point of a month is the first of its week as well,
which is all that G6 asks for; and because no level looks at the flags of another, the end of a
weekly flag cannot move a monthly one. Why flags are not recorded: docs/decisions, "GFS flags
follow from the points". The rules G1-G11 are restated in docs/retention.md.
"""

from __future__ import annotations

import calendar
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

DAYS_PER_WEEK = 7
MONTHS_PER_YEAR = 12


class Weekday(StrEnum):
    """A day of the week, in ISO order."""

    MONDAY = "monday"
    TUESDAY = "tuesday"
    WEDNESDAY = "wednesday"
    THURSDAY = "thursday"
    FRIDAY = "friday"
    SATURDAY = "saturday"
    SUNDAY = "sunday"


class WeekOfMonth(StrEnum):
    """Seven days of a month: 1-7, 8-14, 15-21, 22-28, or its last seven (G1)."""

    FIRST = "first"
    SECOND = "second"
    THIRD = "third"
    FOURTH = "fourth"
    LAST = "last"


class Month(StrEnum):
    """A month of the year, in calendar order."""

    JANUARY = "january"
    FEBRUARY = "february"
    MARCH = "march"
    APRIL = "april"
    MAY = "may"
    JUNE = "june"
    JULY = "july"
    AUGUST = "august"
    SEPTEMBER = "september"
    OCTOBER = "october"
    NOVEMBER = "november"
    DECEMBER = "december"


WEEKDAYS = tuple(Weekday)
WEEKS_OF_MONTH = tuple(WeekOfMonth)
MONTHS = tuple(Month)


class GfsLevel(StrEnum):
    """A kind of flag, shortest period first."""

    WEEKLY = "weekly"
    MONTHLY = "monthly"
    YEARLY = "yearly"


class KeepWeekly(BaseModel):
    """One restore point per week, kept for some weeks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep_weeks: Annotated[
        int, Field(ge=1, le=5200, description="How many weeks a weekly restore point is kept.")
    ]
    day: Annotated[
        Weekday,
        Field(
            description="The first restore point made on or after this day stands for the week "
            "that starts with it."
        ),
    ] = Weekday.SUNDAY


class KeepMonthly(BaseModel):
    """One restore point per month, kept for some months."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep_months: Annotated[
        int, Field(ge=1, le=1200, description="How many months a monthly restore point is kept.")
    ]
    week: Annotated[
        WeekOfMonth,
        Field(
            description="The week whose restore point stands for the month: days 1-7, 8-14, 15-21, "
            "22-28, or the last seven days."
        ),
    ] = WeekOfMonth.FIRST


class KeepYearly(BaseModel):
    """One restore point per year, kept for some years."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep_years: Annotated[
        int, Field(ge=1, le=100, description="How many years a yearly restore point is kept.")
    ]
    month: Annotated[
        Month, Field(description="The month whose restore point stands for the year.")
    ] = Month.JANUARY


class GfsPolicy(BaseModel):
    """Long-term retention. A level that is not set keeps nothing (G1)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weekly: Annotated[KeepWeekly | None, Field(description="Weekly restore points.")] = None
    monthly: Annotated[KeepMonthly | None, Field(description="Monthly restore points.")] = None
    yearly: Annotated[KeepYearly | None, Field(description="Yearly restore points.")] = None

    def levels(self) -> tuple[GfsLevel, ...]:
        """The levels that are set, shortest period first."""
        return tuple(level for level in GfsLevel if getattr(self, level.value) is not None)


@dataclass(frozen=True, slots=True)
class GfsCandidate:
    """A restore point as the calendar sees it. `day` is the local day on which its session began."""

    point_id: str
    day: date
    is_sound: bool
    """False if the point is known to be damaged: another must then stand in for it."""


@dataclass(frozen=True, slots=True)
class GfsFlag:
    """One flag of one point: the period it stands for and the first day it no longer protects."""

    level: GfsLevel
    period_start: date
    until: date


def period_start(gfs: GfsPolicy, level: GfsLevel, day: date) -> date:
    """The start of the period of `level` that `day` lies in: never after `day`.

    Days from 1 January 2 to the end of year 9999. ValueError if the level is not set.
    """
    if level is GfsLevel.WEEKLY and gfs.weekly:
        return day - timedelta(
            days=(day.weekday() - WEEKDAYS.index(gfs.weekly.day)) % DAYS_PER_WEEK
        )
    if level is GfsLevel.MONTHLY and gfs.monthly:
        start = _start_in_month(gfs, gfs.monthly.week, day.year, day.month)
        if start <= day:
            return start
        before = day.replace(day=1) - timedelta(days=1)
        return _start_in_month(gfs, gfs.monthly.week, before.year, before.month)
    if level is GfsLevel.YEARLY and gfs.yearly:
        start = _start_in_year(gfs, gfs.yearly.month, day.year)
        return start if start <= day else _start_in_year(gfs, gfs.yearly.month, day.year - 1)
    raise ValueError(f"the policy keeps no {level} restore points")


def flag_until(gfs: GfsPolicy, level: GfsLevel, day: date) -> date:
    """The day on which a flag assigned on `day` ends; it protects on every day before (G7).

    Computed from the keep-times of today, so changing them moves the end of every flag (G8).
    ValueError if the level is not set.
    """
    if level is GfsLevel.WEEKLY and gfs.weekly:
        return day + timedelta(days=DAYS_PER_WEEK * gfs.weekly.keep_weeks)
    if level is GfsLevel.MONTHLY and gfs.monthly:
        return _add_months(day, gfs.monthly.keep_months) + timedelta(days=1)
    if level is GfsLevel.YEARLY and gfs.yearly:
        return _add_months(day, MONTHS_PER_YEAR * gfs.yearly.keep_years) + timedelta(days=1)
    raise ValueError(f"the policy keeps no {level} restore points")


def assign_flags(
    gfs: GfsPolicy, candidates: Iterable[GfsCandidate]
) -> Mapping[str, tuple[GfsFlag, ...]]:
    """The flags of each point by id, ended ones included; a point without flags has no entry.

    `candidates` are the points of one VM, oldest first. The flag of a period goes to its first
    point, and if that one is damaged to the following ones too, up to the first sound one: the
    damaged point may yet be healed, and until then the period needs a stand-in.
    """
    flags: defaultdict[str, tuple[GfsFlag, ...]] = defaultdict(tuple)
    levels = gfs.levels()
    represented: set[tuple[GfsLevel, date]] = set()
    for candidate in candidates:
        for level in levels:
            start = period_start(gfs, level, candidate.day)
            if (level, start) in represented:
                continue
            until = flag_until(gfs, level, candidate.day)
            flags[candidate.point_id] += (GfsFlag(level, start, until),)
            if candidate.is_sound:
                represented.add((level, start))
    return dict(flags)


def _start_in_month(gfs: GfsPolicy, week: WeekOfMonth, year: int, month: int) -> date:
    if week is WeekOfMonth.LAST:
        days_in_month = calendar.monthrange(year, month)[1]
        first = date(year, month, days_in_month - DAYS_PER_WEEK + 1)
    else:
        first = date(year, month, 1 + DAYS_PER_WEEK * WEEKS_OF_MONTH.index(week))
    if gfs.weekly is None:
        return first
    days_to_weekday = (WEEKDAYS.index(gfs.weekly.day) - first.weekday()) % DAYS_PER_WEEK
    return first + timedelta(days=days_to_weekday)


def _start_in_year(gfs: GfsPolicy, month: Month, year: int) -> date:
    month_number = MONTHS.index(month) + 1
    if gfs.monthly is None:
        return date(year, month_number, 1)
    return _start_in_month(gfs, gfs.monthly.week, year, month_number)


def _add_months(day: date, months: int) -> date:
    """`day` moved by whole months; a day that does not exist becomes the month's last (G7)."""
    year, month_index = divmod(day.year * MONTHS_PER_YEAR + day.month - 1 + months, MONTHS_PER_YEAR)
    last_day = calendar.monthrange(year, month_index + 1)[1]
    return date(year, month_index + 1, min(day.day, last_day))
