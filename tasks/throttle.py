"""Limits that transfers share over processes and machines: Prefect's global concurrency limits.

A limit with slot decay is a counter that falls by so much a second. `rate_limit` waits until a grant
fits under the counter's ceiling; where many wait, the server's answers of "not yet" cost a tenth of
the rate, because each resets the time from which the decay is counted (`prefect-notes §2.4`: 6.6 s
for 6.0). So nobody is ever refused here: the ceiling is out of reach, a grant is put on top of what
is reserved already, and what lies below it, divided by the decay, is how long it has to wait. That
is a queue in which everybody knows his time, and what is granted is the decay exactly.

Two calls of some milliseconds per turn of half a second, of all transfers under a limit together.
"""

from __future__ import annotations

import math
import threading
from contextvars import copy_context

from httpx import HTTPError
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import (
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
)
from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from jobs import TURN_S_MAX, Grant, LimitsUnavailable

PREFIX = "ahvault-throttle:"
SLOT_BYTES = 1024
_CEILING_SLOTS = 2**31 - 1  # the largest that a server on PostgreSQL can hold
_TIMEOUT_S = 10.0  # meanwhile transfers go on by themselves; what comes late still counts
_TURN_S_MAX = 2 * TURN_S_MAX


class PrefectLimits:
    """Limits shared by everybody who uses the same Prefect server. Thread-safe.

    A limit appears in the Prefect UI as `ahvault-throttle:...`, in slots of a KiB, with the first
    transfer under it. Uses the server that is configured where it is made.
    """

    def __init__(self) -> None:
        self._context = copy_context()
        self._guard = threading.Lock()
        self._client: SyncPrefectClient | None = None
        self._rates: dict[str, float] = {}

    def close(self) -> None:
        """Let go of the connection."""
        with self._guard:
            if self._client is not None:
                self._client.__exit__(None, None, None)
                self._client = None

    def reserve(self, key: str, bytes_s: float, length_bytes: int) -> Grant:
        """As `SharedLimits.reserve`. A rate that this process has not used yet becomes that of all."""
        try:
            return self._context.copy().run(self._reserve, key, bytes_s, length_bytes)
        except (HTTPError, OSError, RuntimeError, ObjectNotFound) as error:
            raise LimitsUnavailable(key, str(error) or type(error).__name__) from error

    def _reserve(self, key: str, bytes_s: float, length_bytes: int) -> Grant:
        name, slots = f"{PREFIX}{key}", math.ceil(length_bytes / SLOT_BYTES)
        # What is lost by waiting for a server is more than what is lost by doing without it.
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 1}):
            client = self._connected()
            if not _occupy(client, name, slots):
                _create(client, name, bytes_s)
                _occupy(client, name, slots)
            found = client.read_global_concurrency_limit_by_name(name)
            if self._is_changed(key, bytes_s, found):
                _set_rate(client, name, bytes_s, slots)
                return Grant(0.0, length_bytes, bytes_s)
            return self._grant(client, found, slots)

    def _connected(self) -> SyncPrefectClient:
        with self._guard:
            if self._client is None:
                client = get_client(sync_client=True, httpx_settings={"timeout": _TIMEOUT_S})
                self._client = client.__enter__()
            return self._client

    def _is_changed(self, key: str, bytes_s: float, found: GlobalConcurrencyLimitResponse) -> bool:
        """Whether this process knows of a rate that the server does not have yet."""
        with self._guard:
            news = self._rates.get(key) != bytes_s
            self._rates[key] = bytes_s
        return news and not math.isclose(found.slot_decay_per_second, bytes_s / SLOT_BYTES)

    def _grant(
        self, client: SyncPrefectClient, found: GlobalConcurrencyLimitResponse, slots: int
    ) -> Grant:
        """The turn, at the server's rate. A turn too long for it is shortened: somebody cut the
        limit, and this process has not heard of it yet."""
        slots_s = found.slot_decay_per_second
        wait_s = max(0.0, (found.active_slots - slots) / slots_s)
        kept = max(1, min(slots, math.ceil(slots_s * _TURN_S_MAX)))
        if kept < slots:
            client.request(
                "POST",
                "/v2/concurrency_limits/decrement",
                json={"names": [found.name], "slots": slots - kept},
            )
        return Grant(wait_s, kept * SLOT_BYTES, slots_s * SLOT_BYTES)


def _occupy(client: SyncPrefectClient, name: str, slots: int) -> bool:
    """Put a grant on top of what is reserved; False if there is no such limit."""
    return bool(client.increment_concurrency_slots([name], slots, "rate_limit").json())


def _create(client: SyncPrefectClient, name: str, bytes_s: float) -> None:
    try:
        client.create_global_concurrency_limit(
            GlobalConcurrencyLimitCreate(
                name=name, limit=_CEILING_SLOTS, slot_decay_per_second=bytes_s / SLOT_BYTES
            )
        )
    except ObjectAlreadyExists:  # somebody was quicker
        return


def _set_rate(client: SyncPrefectClient, name: str, bytes_s: float, slots: int) -> None:
    """The limit has a new rate from here on; what was reserved at the old one is void."""
    client.update_global_concurrency_limit(
        name,
        GlobalConcurrencyLimitUpdate(
            slot_decay_per_second=bytes_s / SLOT_BYTES, active_slots=slots
        ),
    )
