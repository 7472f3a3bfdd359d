"""Keeping below the cluster's call limits: one token bucket per host and endpoint family.

The limits are not published and differ per release and size of Prism Central; answers announce them
in their headers (`nutanix-v4 §8`), often as low as one call per second. An announced limit becomes
binding with the first call that the cluster turns down for it: whether a release enforces what it
announces is not documented, a refused call does no harm, and a backup paced for nothing takes
minutes longer. From then on the family is held to its rate.

Waiting is by reservation: each caller books the next free moment and sleeps once until then, so
that many threads against one call per second neither spin nor starve.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from nutanix.clock import Clock

_ID_SEGMENT = re.compile(r"[^/]*(?:[0-9a-fA-F]{4}-|%3[Aa]|:)[^/]*")
PAUSE_S_MAX = 60.0
PERIOD_MARGIN = 1.05
"""A little slower than announced, so that calls sent a period apart also arrive a period apart."""


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
            paused_until_s = max(
                self._paused_until_s.get((host, family), 0.0),
                self._paused_until_s.get((host, ""), 0.0),
            )
            pause_s = max(0.0, paused_until_s - now_s)
            bucket = self._buckets.get((host, family))
            wait_s = bucket.reserve(now_s + pause_s) if bucket else 0.0
        if pause_s + wait_s > 0:
            self._clock.sleep(pause_s + wait_s)

    def learn(self, host: str, headers: Mapping[str, str]) -> None:
        """Take over what an answer says about the limit of its whole host."""
        if _number(headers, "X-Ratelimit-Remaining") == 0:
            self._pause((host, ""), _number(headers, "X-Ratelimit-Reset") or 0.0)

    def turned_down(
        self, host: str, family: str, headers: Mapping[str, str], retry_after_s: float | None
    ) -> None:
        """A call of this family was one too many: hold the family to the rate that is announced."""
        limit = _number(headers, "X-Api-Ratelimit-Limit")
        period_s = _number(headers, "X-Api-Ratelimit-Refresh-Period-Seconds") or 1.0
        if limit is not None and limit > 0:
            rate_per_s = limit / (period_s * PERIOD_MARGIN)
            with self._lock:
                now_s = self._clock.monotonic_s()
                self._buckets.setdefault((host, family), _Bucket(limit, rate_per_s, 0.0, now_s))
        if retry_after_s:
            self._pause((host, family), retry_after_s)

    def _pause(self, key: tuple[str, str], duration_s: float) -> None:
        with self._lock:
            until_s = self._clock.monotonic_s() + min(duration_s, PAUSE_S_MAX)
            self._paused_until_s[key] = max(until_s, self._paused_until_s.get(key, 0.0))


def _number(headers: Mapping[str, str], name: str) -> float | None:
    try:
        return float(headers[name])
    except (KeyError, ValueError):
        return None
