"""What the caller of a transfer watches and steers it with."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

from repository.counters import TransferCounters
from repository.errors import Stopped
from repository.ports import Pace, Throttle


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

    @contextmanager
    def sending(self) -> Iterator[Pace | None]:
        """The body sends to the store; its seconds without those of the throttle are counted.

        Yields what the store asks before it sends, or None where no throttle was given.
        """
        if self.throttle is None:
            with self.counters.timing("upload_s"):
                yield None
            return
        waited_s = 0.0
        waiting = threading.Lock()  # a store may ask from other threads than the caller's

        def pace(length_bytes: int) -> None:
            nonlocal waited_s
            start_s = perf_counter()
            self.acquire(length_bytes)
            with waiting:
                waited_s += perf_counter() - start_s

        start_s = perf_counter()
        try:
            yield pace
        finally:
            self.counters.add(upload_s=max(0.0, perf_counter() - start_s - waited_s))
