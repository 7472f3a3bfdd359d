"""What the caller of a transfer watches and steers it with."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from repository.counters import TransferCounters
from repository.errors import Stopped
from repository.ports import Throttle


@dataclass(frozen=True, slots=True)
class TransferControls:
    """Counters, throttle and stop event of one transfer."""

    counters: TransferCounters = field(default_factory=TransferCounters)
    throttle: Throttle | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def of(
        cls,
        counters: TransferCounters | None,
        throttle: Throttle | None,
        stop: threading.Event | None,
    ) -> TransferControls:
        """The controls given, with harmless ones for those that were not."""
        return cls(counters or TransferCounters(), throttle, stop or threading.Event())

    def check_stop(self, what: str) -> None:
        """Raise Stopped once the stop event is set."""
        if self.stop.is_set():
            raise Stopped(what)

    def acquire(self, length_bytes: int) -> None:
        """Wait for the throttle, if there is one."""
        if self.throttle is not None:
            with self.counters.timing("throttled_s"):
                self.throttle.acquire(length_bytes)
