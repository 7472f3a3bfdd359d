"""What ends a transfer before its time: the whole run, or the loss of its worker."""

from __future__ import annotations

import threading

STOP_POLL_S = 0.2


class TransferStop(threading.Event):
    """Ends the transfers of one attachment: with the whole run, or alone when its worker is lost."""

    def __init__(self, session_stop: threading.Event) -> None:
        super().__init__()
        self._session_stop = session_stop
        self.lost: str | None = None
        """Why the worker counts as lost; `None` while it does not."""

    def lose(self, reason: str) -> None:
        """The worker is lost: its transfers end at their next chunk, and the run goes on without it."""
        self.lost = reason
        self.set()

    def is_set(self) -> bool:
        """True once either asks for the end."""
        return super().is_set() or self._session_stop.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """As `Event.wait`; the run's own stop is noticed within a fraction of a second."""
        left_s = timeout
        while not self.is_set() and (left_s is None or left_s > 0):
            slice_s = STOP_POLL_S if left_s is None else min(STOP_POLL_S, left_s)
            super().wait(slice_s)
            left_s = None if left_s is None else left_s - slice_s
        return self.is_set()
