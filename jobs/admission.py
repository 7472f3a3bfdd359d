"""Whether the next VM of a session may start: its window, its circuit breaker, and a wish to stop (J3, J7)."""

from __future__ import annotations

import threading
from collections import Counter
from zoneinfo import ZoneInfo

from jobs.model import BackupJob
from jobs.policies import BackupWindow, CircuitBreaker
from repository import Clock

BREAKER_PERCENT_FAILURES_MIN = 3
"""A share of the VMs says nothing before so many of them have failed."""


class Admission:
    """What a session asks before it starts a VM. Thread-safe.

    Closing is for good; a breaker that has tripped lets VMs start again after `reset`, before a
    retry.
    """

    def __init__(self, job: BackupJob, *, clock: Clock) -> None:
        self._window = job.window
        self._breaker = _Breaker(job.breaker)
        self._clock = clock
        self._closed: str | None = None
        self._lock = threading.Lock()

    def expect(self, vm_count: int) -> None:
        """How many VMs the session has; a share of them may trip the breaker."""
        with self._lock:
            self._breaker.vm_count = vm_count

    def close(self, why: str) -> None:
        """Start no further VM; those that run go on. The first reason stays."""
        with self._lock:
            self._closed = self._closed or why

    @property
    def is_closed(self) -> bool:
        """Whether somebody asked that no further VM starts."""
        return self._closed is not None

    def refusal(self) -> str | None:
        """Why no VM may start now, or None."""
        with self._lock:
            return self._closed or window_closed(self._window, self._clock) or self._breaker.tripped

    def must_stop(self) -> str | None:
        """Why the VMs that run must stop, too: the window has closed and the job will have it so."""
        if self._window.at_the_edge != "stop":
            return None
        return window_closed(self._window, self._clock)

    def ended(self, error: BaseException | None) -> str | None:
        """A VM ended so. Returns the breaker's reason if this tripped it, for the log."""
        with self._lock:
            before = self._breaker.tripped
            self._breaker.ended(error)
            return self._breaker.tripped if before is None else None

    def reset(self) -> None:
        """Another round begins: earlier failures do not count."""
        with self._lock:
            self._breaker.reset()


class _Breaker:
    """Counts failures by cause; a cause is a class of error."""

    def __init__(self, settings: CircuitBreaker) -> None:
        self._settings = settings
        self.vm_count = 0
        self.reset()

    def reset(self) -> None:
        self.tripped: str | None = None
        self._row, self._last = 0, ""
        self._by_cause: Counter[str] = Counter()

    def ended(self, error: BaseException | None) -> None:
        if error is None:
            self._row, self._last = 0, ""
            return
        cause = type(error).__name__
        self._row = self._row + 1 if cause == self._last else 1
        self._last = cause
        self._by_cause[cause] += 1
        self.tripped = self.tripped or self._judge(cause, error)

    def _judge(self, cause: str, error: BaseException) -> str | None:
        settings, failed = self._settings, self._by_cause[cause]
        if settings.failures_in_a_row and self._row >= settings.failures_in_a_row:
            return f"{self._row} VMs in a row failed of the same cause: {error}"
        share = 100 * failed / self.vm_count if self.vm_count else 0
        enough = failed >= BREAKER_PERCENT_FAILURES_MIN
        if settings.percent_of_vms and enough and share >= settings.percent_of_vms:
            return f"{failed} of {self.vm_count} VMs failed of the same cause: {error}"
        return None


def window_closed(window: BackupWindow, clock: Clock) -> str | None:
    """Why nothing may start now, with the moment from which it may; None inside the window."""
    now = clock.now()
    if window.contains(now):
        return None
    opens = window.next_change(now)
    if opens is None:
        return "the job's window is closed, and never opens"
    local = opens.astimezone(ZoneInfo(window.time_zone))
    return f"the job's window is closed; it opens on {local:%a %Y-%m-%d %H:%M} ({window.time_zone})"
