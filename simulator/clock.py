"""The only place that asks the operating system for the time.

The simulator's time is the system's plus an offset that only grows, so that a test can let a token
expire or a recovery point reach its end without waiting for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime


class Clock:
    """Wall clock with an offset. Every method may be called from any thread."""

    def __init__(self, source: Callable[[], float] = time.time, offset_s: float = 0.0) -> None:
        self._source = source
        self._offset_s = offset_s
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []

    @property
    def offset_s(self) -> float:
        """How far this clock is ahead of the system's, in seconds."""
        return self._offset_s

    def now_s(self) -> float:
        """Seconds since the epoch."""
        return self._source() + self._offset_s

    def now(self) -> datetime:
        """The same as an aware UTC datetime."""
        return datetime.fromtimestamp(self.now_s(), UTC)

    def advance(self, seconds: float) -> None:
        """Jump ahead by `seconds` (not negative) and wake everybody who waits for a moment."""
        if seconds < 0:
            raise ValueError(f"time does not run backwards: {seconds} s")
        with self._lock:
            self._offset_s += seconds
            listeners = list(self._listeners)
        for wake in listeners:
            wake()

    def on_jump(self, wake: Callable[[], None]) -> None:
        """Call `wake` after every jump."""
        with self._lock:
            self._listeners.append(wake)


def stamp(moment: datetime) -> str:
    """A moment as the API writes it: ISO 8601, microseconds, `Z` (nutanix-v4 §5)."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_stamp(text: str) -> datetime:
    """Read a moment as clients send it; one without an offset means UTC. ValueError if it is none."""
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
