"""Cells of a week, an hour each: `mon-fri 08-18`, or several of that, `sat,sun; mon-fri 18-24`. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from jobs.written import Written

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HOURS = re.compile(r"([0-9]{1,2})(?::00)?-([0-9]{1,2})(?::00)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class WeekGrid(Written):
    """Marked cells of weekday and hour."""

    text: str
    cells: frozenset[tuple[int, int]]
    """Weekday (Monday is 0) and hour (0 to 23)."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """From days and hours: `mon-fri 08-18; sat 00-06`. ValueError says what is wrong.

        Days alone are whole days. Hours end before the second number; `22-06` runs into the next day.
        """
        parts = [part for part in text.lower().split(";") if part.strip()]
        if not parts:
            raise ValueError("marks no hour; write days and hours as in mon-fri 08-18")
        cells = frozenset(cell for part in parts for cell in _cells(part))
        return cls("; ".join(" ".join(part.split()) for part in parts), cells)

    def marks(self, moment: datetime) -> bool:
        """Whether the cell of this moment, in its own time zone, is marked."""
        return (moment.weekday(), moment.hour) in self.cells

    def __str__(self) -> str:
        return self.text


def _cells(part: str) -> list[tuple[int, int]]:
    days, _, hours = part.strip().partition(" ")
    first, end = _hours(hours.strip()) if hours.strip() else (0, 24)
    length = end - first if end > first else end + 24 - first
    return [
        ((day + (first + step) // 24) % 7, (first + step) % 24)
        for day in _days(days)
        for step in range(length)
    ]


def _days(text: str) -> list[int]:
    if text == "daily":
        return list(range(7))
    found: list[int] = []
    for piece in text.split(","):
        first, is_range, last = piece.partition("-")
        start, end = _day(first), _day(last if is_range else first)
        found += [(start + step) % 7 for step in range((end - start) % 7 + 1)]
    return found


def _day(text: str) -> int:
    if text not in _DAYS:
        raise ValueError(f"there is no day {text!r}; days are {', '.join(_DAYS)} or daily")
    return _DAYS.index(text)


def _hours(text: str) -> tuple[int, int]:
    match = _HOURS.fullmatch(text)
    if match is None or int(match[1]) > 23 or int(match[2]) > 24 or match[1] == match[2]:
        raise ValueError(f"write hours as 08-18, from 00 to 24; got {text!r}")
    return int(match[1]), int(match[2])
