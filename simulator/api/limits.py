"""Rate limits: the two families of headers on every answer, and 429 beyond them (nutanix-v4 §8)."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from simulator.clock import Clock
from simulator.settings import Settings

# Shown while nothing is enforced. A PC 7.6 announces one call per second for some APIs; announced without
# being enforced, that would only slow down the clients that behave (`api_limit_per_s=1` does both).
_TOTAL_SHOWN, _API_SHOWN = 40, 40


class Limiter:
    """Counts calls per second, over everything and per namespace. Thread-safe."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._lock = threading.Lock()
        self._second = 0
        self._counts: dict[str, int] = {}

    def take(self, family: str) -> bool:
        """Count one call; False when it is one too many."""
        limits = {"": self._settings.total_limit_per_s, family: self._settings.api_limit_per_s}
        with self._lock:
            self._roll()
            for name, limit in limits.items():
                if limit and self._counts.get(name, 0) >= limit:
                    return False
            for name in limits:
                self._counts[name] = self._counts.get(name, 0) + 1
        return True

    def _roll(self) -> None:
        second = int(self._clock.now_s())
        if second != self._second:
            self._second, self._counts = second, {}

    def headers(self) -> Mapping[str, str]:
        """The announcement that every answer carries."""
        total = self._settings.total_limit_per_s or _TOTAL_SHOWN
        api = self._settings.api_limit_per_s or _API_SHOWN
        with self._lock:
            self._roll()
            used = self._counts.get("", 0)
        left_ms = int(1000 - self._clock.now_s() % 1 * 1000)
        return {
            "x-ratelimit-limit": str(total),
            "x-ratelimit-remaining": str(max(0, total - used)),
            "x-ratelimit-reset": "0",
            "x-api-ratelimit-limit": str(api),
            "x-api-ratelimit-remaining": str(max(0, api - used)),
            "x-api-ratelimit-refresh-period-seconds": "1",
            "x-api-ratelimit-reset": str(left_ms),
        }
