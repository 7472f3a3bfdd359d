"""Virtual time for lanes: transfers that take turns as threads would, without waiting for anything."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from jobs.throttle_lane import Lane, SharedLimits

PART = 64 * 1024


class VirtualClock:
    """Moves when it is told to."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> datetime:
        return datetime(2026, 11, 23, 12, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic_s(self) -> float:
        return self.seconds


class AtOnce(Executor):
    """Does what it is given before `submit` returns."""

    def submit(self, work: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*arguments, **named))
        except Exception as error:  # noqa: BLE001 - told by the future
            future.set_exception(error)
        return future


class Later(Executor):
    """Does what it is given after a time: half of it on the way there, half on the way back."""

    def __init__(self, clock: VirtualClock, answer_s: float) -> None:
        self.clock, self.answer_s = clock, answer_s
        self._waiting: list[tuple[float, Any, Any, Future[Any]]] = []

    def submit(self, work: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        del named
        future: Future[Any] = Future()
        self._waiting.append((self.clock.seconds + self.answer_s, work, arguments, future))
        return future

    def deliver(self) -> None:
        """Complete what is due by now, as if it had happened when it was due."""
        now_s = self.clock.seconds
        due = sorted((each for each in self._waiting if each[0] <= now_s), key=lambda each: each[0])
        self._waiting = [each for each in self._waiting if each[0] > now_s]
        for due_s, work, arguments, future in due:
            self.clock.seconds = due_s
            try:
                future.set_result(work(*arguments))
            except Exception as error:  # noqa: BLE001 - told by the future
                future.set_exception(error)
        self.clock.seconds = now_s


@dataclass
class Sender:
    """One transfer that sends as fast as its lane and its own speed let it, from start to end."""

    lane: Lane
    start_s: float = 0.0
    end_s: float = float("inf")
    own_bytes_s: float = float("inf")
    sent: list[tuple[float, int]] = field(default_factory=list)

    def bytes_between(self, start_s: float, end_s: float) -> int:
        return sum(count for at_s, count in self.sent if start_s <= at_s < end_s)


class Simulation:
    """Senders under one limit, in virtual seconds from 0."""

    def __init__(
        self, shared: Callable[[VirtualClock], SharedLimits], answer_s: float = 0.0
    ) -> None:
        self.clock = VirtualClock()
        self.asking = Later(self.clock, answer_s) if answer_s else AtOnce()
        self.shared = shared(self.clock)
        self.senders: list[Sender] = []
        self.unavailable: list[Exception] = []
        self._zero_s = self.clock.seconds

    def add(self, **fields: float) -> Sender:
        lane = Lane("limit", self.shared, self.clock, self.asking, self.unavailable.append)
        self.senders.append(Sender(lane, **fields))
        return self.senders[-1]

    def run(self, until_s: float, bytes_s: Callable[[float], float]) -> None:
        """Let everybody send; `bytes_s` is the limit at a moment."""
        due = [(each.start_s, number) for number, each in enumerate(self.senders)]
        heapq.heapify(due)
        while due and due[0][0] < until_s:
            at_s, number = heapq.heappop(due)
            sender = self.senders[number]
            if at_s >= sender.end_s:
                continue
            self.clock.seconds = self._zero_s + at_s
            if isinstance(self.asking, Later):
                self.asking.deliver()
            part = max(PART, round(bytes_s(at_s) / 200))
            gone, wait_s = sender.lane.use(part, bytes_s(at_s))
            if gone:
                sender.sent.append((at_s, gone))
            pause_s = max(wait_s, gone / sender.own_bytes_s, 1e-6)
            heapq.heappush(due, (at_s + pause_s, number))
