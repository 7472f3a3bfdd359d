"""Keeping below the cluster's call limits: one token bucket per host and endpoint family.

The limits are not published and differ per release and size of Prism Central; every answer names
them in its headers (`nutanix-v4 §8`). Until the first answer a family is unlimited. Waiting is
by reservation: each caller books the next free moment and sleeps once until then, so that many
threads against one call per second neither spin nor starve.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from nutanix.clock import Clock

_ID_SEGMENT = re.compile(r"[^/]*(?:[0-9a-fA-F]{4}-|%3[Aa]|:)[^/]*")
PAUSE_S_MAX = 60.0


def endpoint_family(method: str, path: str) -> str:
    """The call without its ids, which is what the cluster counts: `GET ahv/config/vms/{}`."""
    segments = ("{}" if _ID_SEGMENT.fullmatch(part) else part for part in path.split("/"))
    return f"{method} {'/'.join(segments)}"


@dataclass(slots=True)
class _Bucket:
    capacity: float
    rate_per_s: float
    tokens: float
    filled_at_s: float

    def reserve(self, now_s: float) -> float:
        """Take one token; the wait in seconds until it is really there."""
        self._fill(now_s)
        self.tokens -= 1
        return max(0.0, -self.tokens / self.rate_per_s)

    def learn(
        self, capacity: float, period_s: float, remaining: float | None, now_s: float
    ) -> None:
        self._fill(now_s)
        self.capacity, self.rate_per_s = capacity, capacity / period_s
        self.tokens = min(self.tokens, capacity)
        if remaining is not None:
            self.tokens = min(self.tokens, remaining)

    def _fill(self, now_s: float) -> None:
        gained = (now_s - self.filled_at_s) * self.rate_per_s
        self.tokens = min(self.capacity, self.tokens + max(0.0, gained))
        self.filled_at_s = max(now_s, self.filled_at_s)


class RateLimiter:
    """The buckets of one client. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[tuple[str, str], _Bucket] = {}
        self._paused_until_s: dict[tuple[str, str], float] = {}

    def acquire(self, host: str, family: str) -> None:
        """Return when the call may be sent; sleeps at most once."""
        with self._lock:
            now_s = self._clock.monotonic_s()
            bucket = self._buckets.get((host, family))
            wait_s = bucket.reserve(now_s) if bucket else 0.0
            for key in ((host, family), (host, "")):
                wait_s = max(wait_s, self._paused_until_s.get(key, 0.0) - now_s)
        if wait_s > 0:
            self._clock.sleep(wait_s)

    def learn(self, host: str, family: str, headers: Mapping[str, str]) -> None:
        """Take over what an answer says about the limit of its family and of the whole host."""
        limit = _number(headers, "X-Api-Ratelimit-Limit")
        period_s = _number(headers, "X-Api-Ratelimit-Refresh-Period-Seconds") or 1.0
        remaining = _number(headers, "X-Api-Ratelimit-Remaining")
        with self._lock:
            now_s = self._clock.monotonic_s()
            if limit is not None and limit > 0:
                bucket = self._buckets.setdefault(
                    (host, family), _Bucket(limit, limit / period_s, limit, now_s)
                )
                bucket.learn(limit, period_s, remaining, now_s)
            if _number(headers, "X-Ratelimit-Remaining") == 0:
                reset_s = _number(headers, "X-Ratelimit-Reset") or 0.0
                self._pause((host, ""), now_s + min(reset_s, PAUSE_S_MAX))

    def pause(self, host: str, family: str, duration_s: float) -> None:
        """Nobody sends a call of this family for a while: the cluster said `Retry-After`."""
        with self._lock:
            until_s = self._clock.monotonic_s() + min(duration_s, PAUSE_S_MAX)
            self._pause((host, family), until_s)

    def _pause(self, key: tuple[str, str], until_s: float) -> None:
        self._paused_until_s[key] = max(until_s, self._paused_until_s.get(key, 0.0))


def _number(headers: Mapping[str, str], name: str) -> float | None:
    try:
        return float(headers[name])
    except (KeyError, ValueError):
        return None
