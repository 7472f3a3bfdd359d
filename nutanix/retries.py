"""When a call is sent again, and after which wait (`nutanix-v4 §8`). Pure.

Every call carries a request id that stays the same over its retries, and the cluster answers a
repeated id with the first result (`§10`). So a lost answer is not a failure: the same call is
sent again, POST included.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})
RATE_LIMIT_GROUPS = frozenset({"RATE_LIMIT_EXCEEDED", "RATE_LIMIT_ERROR"})
RETRY_AFTER_S_MAX = 120.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Bounded, jittered, exponential. The defaults give up on a failing service after about 30 s.

    A rate limit is not a failure, only a queue: it gets more attempts, about five minutes of them.
    """

    attempts_max: int = 7
    rate_limited_attempts_max: int = 24
    delay_s_first: float = 0.5
    delay_s_max: float = 16.0
    jitter: Callable[[], float] = random.SystemRandom().random

    def may_retry(self, attempt: int, *, rate_limited: bool) -> bool:
        """Whether another attempt follows attempt number `attempt` (counted from 1)."""
        return attempt < (self.rate_limited_attempts_max if rate_limited else self.attempts_max)

    def delay_s(self, attempt: int, retry_after_s: float | None) -> float:
        """The wait after attempt number `attempt`: what the server asked for, or half to all of 2^n."""
        if retry_after_s is not None:
            return min(retry_after_s, RETRY_AFTER_S_MAX) + self.jitter() * self.delay_s_first
        doublings = min(attempt - 1, 30)
        full_s = min(self.delay_s_first * (1 << doublings), self.delay_s_max)
        return full_s * (0.5 + 0.5 * self.jitter())


def retry_after_s(value: str | None) -> float | None:
    """Seconds from a `Retry-After` header; dates are not used by this API and count as absent."""
    try:
        return max(0.0, float(value)) if value is not None else None
    except ValueError:
        return None
