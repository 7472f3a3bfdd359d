"""One transfer's way through one limit: turns reserved ahead, used at the pace of the limit.

A limit is a queue in time. Whoever wants to send reserves a turn, half a second of the whole limit's
traffic, and learns when it begins; in its turn it sends at the full rate, and then it is the next
one's turn. So the limit holds for all together to the byte, transfers share it equally, and a
transfer that sends little reserves little and leaves the rest to the others (Q3). The next turn is
reserved in another thread while the last one is used, so that nobody waits for an answer. A transfer
that had to wait for one, because it is alone and answers are slow, reserves longer turns for a while.

When there is no answer for seconds, the transfer goes on at the share that it last had. If the answer
comes after all, what went meanwhile was an advance on that turn.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from dataclasses import dataclass
from typing import Protocol

from jobs.errors import LimitsUnavailable
from repository import Clock

TURN_S = 0.5
TURN_S_MAX = 4.0
_SHORTER_EACH_TIME = 0.95
TURN_BYTES_MIN = 16 * 1024
ANSWER_S_MAX = 5.0
"""Longer than this nobody waits for the shared limit; the transfer goes on at its last share."""
ASK_AGAIN_S = 2.0
LOOK_UP_S = 0.25
"""A wait is cut into pieces of this length: a changed limit or a stop acts within it."""
FIRST_SHARE = 0.1
"""The share of a limit that a transfer takes that has never heard of the others."""
_SHARE_WEIGHT = 0.3  # of the latest turn in what counts as the share
_TURNS_AHEAD = 2


@dataclass(frozen=True, slots=True)
class Grant:
    """A turn as it was reserved."""

    wait_s: float
    """Seconds from now until it begins."""
    length_bytes: int
    bytes_s: float
    """The rate of the whole limit; in a turn it is the transfer's own."""


class SharedLimits(Protocol):
    """Limits that several transfers keep to together. Thread-safe."""

    def reserve(self, key: str, bytes_s: float, length_bytes: int) -> Grant:
        """Join the queue of the limit of this name, which has this rate as far as the caller knows.

        May take long; raises `LimitsUnavailable`. The last rate asked for anew is that of all.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Answer:
    begins_s: float
    grant: Grant


@dataclass(slots=True)
class _Turn:
    start_s: float
    length_bytes: int
    bytes_s: float
    used_bytes: int = 0

    @property
    def left_bytes(self) -> int:
        return self.length_bytes - self.used_bytes

    def due_s(self, count_bytes: int) -> float:
        """When so many more bytes may have gone."""
        return self.start_s + (self.used_bytes + count_bytes) / self.bytes_s


class Lane:
    """One transfer under one limit; used by one thread at a time."""

    def __init__(
        self,
        key: str,
        shared: SharedLimits,
        clock: Clock,
        asking: Executor,
        on_unavailable: Callable[[LimitsUnavailable], None],
    ) -> None:
        self._key = key
        self._shared = shared
        self._clock = clock
        self._asking = asking
        self._on_unavailable = on_unavailable
        self._bytes_s = 0.0
        self._turns: deque[_Turn] = deque()
        self._asked: Future[_Answer] | None = None
        self._asked_rate = 0.0
        self._advance_bytes = 0
        """What went by itself while an answer was under way."""
        self._dry_since_s: float | None = None
        self._is_by_itself = False
        self._turn_s = TURN_S
        self._ask_again_s = 0.0
        self._share = FIRST_SHARE
        self._granted_at_s = clock.monotonic_s()
        self._end_s = 0.0

    def use(self, count_bytes: int, bytes_s: float) -> tuple[int, float]:
        """How many of the bytes may go now, and if none, seconds to wait before asking again."""
        if bytes_s != self._bytes_s:  # what was reserved at another rate is void
            self._bytes_s = bytes_s
            self._turns = deque(turn for turn in self._turns if self._is_at_the_rate(turn.bytes_s))
            self._ask_again_s, self._advance_bytes = 0.0, 0
        self._collect()
        self._ask_ahead()
        self._collect()
        if not self._turns:
            return 0, self._wait_for_answer()
        self._dry_since_s = None
        turn = self._turns[0]
        wanted = min(count_bytes, turn.left_bytes)
        wait_s = turn.due_s(wanted) - self._clock.monotonic_s()
        if wait_s > 0:
            return 0, min(wait_s, LOOK_UP_S)
        turn.used_bytes += wanted
        if not turn.left_bytes:
            self._turns.popleft()
        return wanted, 0.0

    @property
    def _turn_bytes(self) -> int:
        return max(TURN_BYTES_MIN, round(self._bytes_s * self._turn_s))

    def _is_at_the_rate(self, granted_bytes_s: float) -> bool:
        """Whether a turn is good under the limit as it is now.

        Who shares the limit may have heard of the change first; then turns at the new rate were
        granted to this transfer before it knew. To drop these would leave their time to nobody.
        """
        return math.isclose(granted_bytes_s, self._bytes_s)

    def _ask(self, bytes_s: float, length_bytes: int) -> _Answer:
        grant = self._shared.reserve(self._key, bytes_s, length_bytes)
        return _Answer(self._clock.monotonic_s() + grant.wait_s, grant)

    def _ask_ahead(self) -> None:
        now_s = self._clock.monotonic_s()
        if self._asked is not None or len(self._turns) >= _TURNS_AHEAD or now_s < self._ask_again_s:
            return
        self._asked_rate = self._bytes_s
        self._asked = self._asking.submit(self._ask, self._bytes_s, self._turn_bytes)

    def _collect(self) -> None:
        """Take the answer, if there is one."""
        if self._asked is None or not self._asked.done():
            return
        asked, self._asked = self._asked, None
        try:
            answer = asked.result()
        except CancelledError:
            return
        except LimitsUnavailable as error:
            self._on_unavailable(error)
            self._advance_bytes = 0  # on a turn that never was
            self._ask_again_s = self._clock.monotonic_s() + ASK_AGAIN_S
            return
        grant = answer.grant
        if self._asked_rate != self._bytes_s and not self._is_at_the_rate(grant.bytes_s):
            return
        self._is_by_itself = False
        self._turn_s = max(TURN_S, self._turn_s * _SHORTER_EACH_TIME)
        spent_bytes = min(self._advance_bytes, grant.length_bytes)
        self._advance_bytes -= spent_bytes
        if spent_bytes < grant.length_bytes:
            self._add(answer.begins_s, grant.length_bytes - spent_bytes, grant.bytes_s)
        self._share += _SHARE_WEIGHT * (self._latest_share(grant) - self._share)

    def _latest_share(self, grant: Grant) -> float:
        """The part of the limit that this transfer got since its turn before."""
        now_s = self._clock.monotonic_s()
        passed_s, self._granted_at_s = now_s - self._granted_at_s, now_s
        return min(1.0, grant.length_bytes / (grant.bytes_s * max(passed_s, 1e-3)))

    def _wait_for_answer(self) -> float:
        """Nothing is reserved: wait a little for the answer, or go on without it."""
        now_s = self._clock.monotonic_s()
        if self._asked is not None:
            if self._dry_since_s is None:
                self._dry_since_s = now_s
                self._turn_s = min(2 * self._turn_s, TURN_S_MAX)
            if now_s - self._dry_since_s < ANSWER_S_MAX and not self._is_by_itself:
                return LOOK_UP_S / 10
            self._on_unavailable(LimitsUnavailable(self._key, "it does not answer"))
        self._is_by_itself = True
        bytes_s = self._bytes_s * self._share
        length_bytes = max(TURN_BYTES_MIN, round(bytes_s * TURN_S))
        if self._asked is not None:
            self._advance_bytes += length_bytes
        self._add(now_s, length_bytes, bytes_s)
        return 0.0

    def _add(self, begins_s: float, length_bytes: int, bytes_s: float) -> None:
        start_s = max(begins_s, self._end_s if self._turns else 0.0)
        self._turns.append(_Turn(start_s, length_bytes, bytes_s))
        self._end_s = start_s + length_bytes / bytes_s
