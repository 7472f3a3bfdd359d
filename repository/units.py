"""Sizes and clock: the few names that every part of the engine shares."""

from __future__ import annotations

import datetime as dt
import time
from typing import Protocol

KiB = 1024
MiB = 1024 * KiB


class Clock(Protocol):
    """Where the engine gets time from; tests and simulations bring their own."""

    def now(self) -> dt.datetime:
        """The moment, as an aware UTC datetime."""
        ...

    def monotonic_s(self) -> float:
        """Seconds from an arbitrary start; never goes back."""
        ...


class SystemClock:
    """The machine's own clock: the one place in the engine that reads it."""

    def now(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC)

    def monotonic_s(self) -> float:
        return time.monotonic()
