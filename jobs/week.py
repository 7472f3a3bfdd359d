"""Times of the week, as a person writes them: `mon-fri 20:00-06:00`. Pure calendar, no clock.

Windows say with them when data may move, limits when they hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime, time, timedelta
from functools import cached_property
from typing import Annotated, Any, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MINUTES_PER_DAY = 24 * 60
MINUTES_PER_WEEK = 7 * MINUTES_PER_DAY
_DAY_PART = r"[a-z]{3}(?:-[a-z]{3})?"
_RANGE = re.compile(
    rf"(?:(?P<days>{_DAY_PART}(?:,{_DAY_PART})*) +)?"
    r"(?P<start>\d\d:\d\d)-(?P<end>\d\d:\d\d)"
)
_HELP = "write days and times such as `mon-fri 20:00-06:00`, `sat,sun 00:00-24:00` or `22:00-06:00`"

MinuteRange: TypeAlias = tuple[int, int]
"""Half-open, in minutes since Monday 00:00; the end may lie in the next week."""


def _existing_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"there is no time zone {name!r}") from error
    return name


TimeZoneName = Annotated[str, AfterValidator(_existing_zone)]
"""The name of a time zone of the tz database."""


class WeeklyTimes(BaseModel):
    """Ranges of the week in a time zone. Without ranges it is always time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    times: Annotated[
        tuple[str, ...],
        Field(
            description="Ranges of the week, such as `mon-fri 20:00-06:00` or `sat,sun 00:00-24:00`; "
            "without days a range holds every day, and one that crosses midnight belongs to the day "
            "it starts on. Empty: always."
        ),
    ] = ()
    time_zone: Annotated[
        TimeZoneName, Field(description="Time zone of the ranges, such as `Europe/Berlin`.")
    ] = "UTC"

    @field_validator("times", mode="before")
    @classmethod
    def _are_ranges(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(f"it is a list of ranges; {_HELP}")  # noqa: TRY004 - pydantic's way
        return value

    @field_validator("times")
    @classmethod
    def _can_be_read(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            read_range(text)
        return value

    @cached_property
    def _minutes(self) -> tuple[MinuteRange, ...]:
        return tuple(each for text in self.times for each in read_range(text))

    def contains(self, moment: datetime) -> bool:
        """Whether an aware moment lies in one of the ranges, by the clock on the wall there."""
        if not self.times:
            return True
        local = moment.astimezone(ZoneInfo(self.time_zone))
        minute = local.weekday() * MINUTES_PER_DAY + local.hour * 60 + local.minute
        return any(
            start <= minute < end or start <= minute + MINUTES_PER_WEEK < end
            for start, end in self._minutes
        )

    def next_change(self, moment: datetime) -> datetime | None:
        """The first moment after `moment` at which `contains` changes its answer; None if it never does.

        Exact to the minute; where the clock is put forward over an edge, the edge is the moment of
        the jump.
        """
        now = self.contains(moment)
        for edge in sorted(set(self._edges(moment))):
            if edge > moment and self.contains(edge) != now:
                return edge
        return None

    def _edges(self, moment: datetime) -> Iterator[datetime]:
        """Where ranges start and end in the week around `moment`, and a week beyond."""
        zone = ZoneInfo(self.time_zone)
        local = moment.astimezone(zone)
        monday = local.date() - timedelta(days=local.weekday() + 7)
        for minutes in {minute for each in self._minutes for minute in each}:
            for week in range(4):
                days, rest = divmod(minutes + week * MINUTES_PER_WEEK, MINUTES_PER_DAY)
                day = monday + timedelta(days=days)
                wall = datetime.combine(day, time(rest // 60, rest % 60), tzinfo=zone)
                yield wall.astimezone(moment.tzinfo)


def read_range(text: str) -> tuple[MinuteRange, ...]:
    """The minutes of the week that one range names, one entry per day. Raises ValueError."""
    found = _RANGE.fullmatch(" ".join(text.lower().split()))
    if found is None:
        raise ValueError(f"{text!r} is no range of the week; {_HELP}")
    start, end = (_minute_of_day(text, found[name]) for name in ("start", "end"))
    if start in (MINUTES_PER_DAY, end):
        raise ValueError(f"{text!r} is empty; a whole day is 00:00-24:00")
    length = end - start if end > start else end - start + MINUTES_PER_DAY
    days = _read_days(text, found["days"]) if found["days"] else range(len(DAYS))
    return tuple(
        (day * MINUTES_PER_DAY + start, day * MINUTES_PER_DAY + start + length) for day in days
    )


def _minute_of_day(text: str, clock: str) -> int:
    hours, minutes = (int(part) for part in clock.split(":"))
    if minutes > 59 or hours * 60 + minutes > MINUTES_PER_DAY:
        raise ValueError(f"{text!r}: there is no time {clock}; a day ends at 24:00")
    return hours * 60 + minutes


def _read_days(text: str, words: str) -> Sequence[int]:
    days: list[int] = []
    for part in words.split(","):
        first, _, last = part.partition("-")
        for word in (first, last or first):
            if word not in DAYS:
                raise ValueError(f"{text!r}: {word!r} is no day; days are {', '.join(DAYS)}")
        begin, end = DAYS.index(first), DAYS.index(last or first)
        span = (end - begin) % len(DAYS) + 1
        days += [(begin + step) % len(DAYS) for step in range(span)]
    return days
