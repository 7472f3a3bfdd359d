"""Times of the week: what is read, what holds when, and when that changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from jobs import WeeklyTimes
from jobs.week import read_range

MONDAY = datetime(2026, 11, 23, tzinfo=UTC)


def at(day: int, clock: str, zone: str = "UTC") -> datetime:
    """A moment of the week of Monday 23 November 2026."""
    hours, minutes = (int(part) for part in clock.split(":"))
    local = datetime(2026, 11, 23, hours, minutes, tzinfo=ZoneInfo(zone))
    return local + timedelta(days=day)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("22:00-06:00", [(0, "22:00"), (1, "05:59"), (0, "00:00")], [(0, "06:00"), (6, "21:59")]),
        ("mon-fri 20:00-06:00", [(0, "20:00"), (5, "05:59")], [(0, "05:59"), (5, "20:00")]),
        ("sat,sun 00:00-24:00", [(5, "00:00"), (6, "23:59")], [(0, "00:00"), (4, "23:59")]),
        ("sun 23:00-01:00", [(6, "23:30"), (0, "00:30")], [(0, "01:00"), (6, "22:59")]),
        ("fri-mon 12:00-13:00", [(4, "12:00"), (0, "12:59")], [(1, "12:00"), (3, "12:30")]),
        ("MON  08:00-09:00", [(0, "08:00")], [(1, "08:00")]),
    ],
)
def test_a_range_holds_exactly_its_minutes(
    text: str, inside: list[tuple[int, str]], outside: list[tuple[int, str]]
) -> None:
    """Days, spans of days over the week's end, and ranges over midnight, which belong to the day they start on."""
    times = WeeklyTimes(times=(text,))
    assert [moment for moment in inside if not times.contains(at(*moment))] == []
    assert [moment for moment in outside if times.contains(at(*moment))] == []


def test_no_range_means_always() -> None:
    """The default never closes."""
    assert WeeklyTimes().contains(MONDAY)
    assert WeeklyTimes().next_change(MONDAY) is None
    assert WeeklyTimes(times=("00:00-24:00",)).next_change(MONDAY) is None


def test_every_minute_agrees_with_the_next_change() -> None:
    """Over a fortnight, stepping from change to change gives the same as asking minute by minute."""
    times = WeeklyTimes(
        times=("mon-thu 21:30-05:15", "fri 20:00-24:00", "sat,sun 00:00-12:00"),
        time_zone="Europe/Berlin",
    )
    moment, until = MONDAY, MONDAY + timedelta(days=14)
    expected = times.contains(moment)
    change = times.next_change(moment)
    while moment < until:
        assert change is not None
        if moment == change:
            expected = not expected
            change = times.next_change(moment)
        assert times.contains(moment) == expected, moment
        moment += timedelta(minutes=1)


def test_the_clock_on_the_wall_counts_also_when_it_is_put_forward() -> None:
    """A window until 06:00 in Berlin ends at 04:00 UTC in summer and at 05:00 UTC in winter; an edge in the skipped hour is found."""
    night = WeeklyTimes(times=("22:00-06:00",), time_zone="Europe/Berlin")
    assert night.next_change(datetime(2026, 7, 1, 0, tzinfo=UTC)) == datetime(
        2026, 7, 1, 4, tzinfo=UTC
    )
    assert night.next_change(datetime(2026, 12, 1, 0, tzinfo=UTC)) == datetime(
        2026, 12, 1, 5, tzinfo=UTC
    )
    # In the night of 29 March 2026 there is no 02:30.
    early = WeeklyTimes(times=("02:30-05:00",), time_zone="Europe/Berlin")
    opens = early.next_change(datetime(2026, 3, 29, 0, 0, tzinfo=UTC))
    assert opens is not None
    assert early.contains(opens)
    assert opens <= datetime(2026, 3, 29, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("monday 10:00-12:00", "is no range of the week; write days and times such as"),
        ("xyz 10:00-12:00", "'xyz' is no day"),
        ("10:00", "is no range"),
        ("10:60-11:00", "there is no time 10:60"),
        ("10:00-24:30", "there is no time 24:30"),
        ("10:00-10:00", "is empty; a whole day is 00:00-24:00"),
        ("24:00-06:00", "is empty"),
    ],
)
def test_what_is_no_range_is_refused_with_the_reason(text: str, said: str) -> None:
    """The message quotes what was written and shows how it should look."""
    with pytest.raises(ValueError, match=said):
        read_range(text)
    with pytest.raises(ValidationError, match=said):
        WeeklyTimes(times=(text,))
