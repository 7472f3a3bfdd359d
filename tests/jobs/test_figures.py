"""Numbers read as people write them, at the edges too."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from jobs import human_bytes, human_duration, human_rate, human_ratio, utc_text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (3 * 1024**3 // 2, "1.5 GiB"),
        (5000 * 1024**5, "5000.0 PiB"),
    ],
)
def test_bytes_change_unit_at_1024(size_bytes: int, text: str) -> None:
    """No figure is ever shown as 1024 of a unit, except in the largest."""
    assert human_bytes(size_bytes) == text


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [
        (-1, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (11_220, "3 h 07 min"),
    ],
)
def test_durations_round_up_into_the_next_unit(duration_s: float, text: str) -> None:
    """No figure is ever shown as 60 seconds or 60 minutes."""
    assert human_duration(duration_s) == text


def test_what_cannot_be_divided_is_a_dash() -> None:
    """A rate over no time, or a ratio to nothing, is not a number."""
    assert human_rate(10, 0.0) == "-"
    assert human_ratio(10, 0) == "-"
    assert human_ratio(10, 4) == "2.5x"


def test_moments_are_shown_in_utc() -> None:
    """A moment of any zone is shown in UTC, whole seconds."""
    moment = datetime(2026, 3, 1, 1, 30, 0, 999, tzinfo=timezone(timedelta(hours=2)))
    assert utc_text(moment) == "2026-02-28T23:30:00Z"
