"""Numbers as people read them: bytes, seconds, moments, ratios. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_BYTE_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")


def human_bytes(size_bytes: int) -> str:
    """`0 B`, `1.5 GiB`: powers of 1024, one decimal, rounded to nearest."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    size = float(size_bytes)
    for unit in _BYTE_UNITS:
        size /= 1024
        # 1023.95 would print as "1024.0" of this unit.
        if size < 1023.95 or unit == _BYTE_UNITS[-1]:
            return f"{size:.1f} {unit}"
    raise AssertionError("the last unit has no upper bound")


def human_duration(duration_s: float) -> str:
    """`0.4 s`, `2 min 05 s`, `3 h 07 min`; never negative."""
    seconds = max(duration_s, 0.0)
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def human_span(span: timedelta) -> str:
    """How long ago, or how long allowed: `45 min`, `30 h`, `9 d 4 h`; never negative."""
    minutes = max(round(span / timedelta(minutes=1)), 0)
    if minutes < 100:
        return f"{minutes} min"
    hours = round(minutes / 60)
    if hours < 100:
        return f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def human_rate(size_bytes: int, duration_s: float) -> str:
    """Bytes per second, or `-` where no time passed."""
    return f"{human_bytes(round(size_bytes / duration_s))}/s" if duration_s > 0 else "-"


def human_ratio(read_bytes: int, stored_bytes: int) -> str:
    """How much smaller the stored bytes are than the read ones; `-` where nothing was stored."""
    return f"{read_bytes / stored_bytes:.1f}x" if stored_bytes > 0 else "-"


def utc_text(moment: datetime) -> str:
    """`2026-11-23T20:15:12Z`: the form that `VM@TIMESTAMP` takes back."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
