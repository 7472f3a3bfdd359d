"""Leases: how a running session tells collection that it is there.

A lease is a live record, renewed while the session works. It says which generation of collection
the session saw before it began, which disk states it builds on, and when it last was alive. A lease
spares work and waits; no safety rests on it alone, nor on any clock: `collect.py` says why.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
import uuid
from dataclasses import dataclass

from repository.errors import RepositoryError
from repository.live import LiveRecords
from repository.points import DiskRecord, RestorePoint
from repository.units import Clock

_LOG = logging.getLogger(__name__)

LEASES = "leases"
RENEWED_EVERY_S = 300.0
LIFETIME = dt.timedelta(hours=24)
"""After this long without a sign of life a session is taken for dead. Collection waits longer
than this anyway, so a generous time costs nothing."""


class Lease:
    """The lease of one session. Thread-safe."""

    def __init__(self, live: LiveRecords, session_id: str, generation: int, clock: Clock) -> None:
        self._live = live
        self._clock = clock
        self._key = uuid.uuid4().hex
        self.session_id = session_id
        self._generation = generation
        self._started_at = clock.now()
        self._bases: set[str] = set()
        self._renewed_s = 0.0
        self.is_taken = False
        """Whether it was ever stored."""
        self._guard = threading.Lock()

    def renew(self) -> None:
        """Say that the session is alive; durable on return."""
        with self._guard:
            self._live.put(
                LEASES,
                self._key,
                {
                    "session_id": self.session_id,
                    "started_at": self._started_at.isoformat(),
                    "alive_at": self._clock.now().isoformat(),
                    "gc_generation": self._generation,
                    "bases": sorted(self._bases),
                },
            )
            self._renewed_s = self._clock.monotonic_s()
            self.is_taken = True

    def keep_alive(self) -> None:
        """Renew it if that is due; cheap otherwise."""
        if self._clock.monotonic_s() - self._renewed_s > RENEWED_EVERY_S:
            self.renew()

    def build_on(self, base: DiskRecord) -> None:
        """Keep the restore points of this disk state from being forgotten meanwhile."""
        self._bases.add(state_name(base))
        self.renew()

    def close(self) -> None:
        """The session has ended, and all it stored is known to others."""
        try:
            self._live.delete(LEASES, self._key)
        except RepositoryError as error:
            _LOG.warning("the lease could not be ended and will run out by itself: %s", error)


@dataclass(frozen=True, slots=True)
class OpenLease:
    """A lease as others see it."""

    session_id: str
    generation: int
    bases: frozenset[str]


def open_leases(live: LiveRecords, now: dt.datetime) -> list[OpenLease]:
    """The leases of sessions that may be running; a damaged one counts as running since ever."""
    listing = live.list(LEASES)
    leases = [OpenLease("", 0, frozenset()) for _ in listing.damaged]
    for record in listing.records.values():
        try:
            alive_at = dt.datetime.fromisoformat(record["alive_at"])
            lease = OpenLease(
                str(record["session_id"]),
                int(record["gc_generation"]),
                frozenset(str(base) for base in record["bases"]),
            )
            if now - alive_at <= LIFETIME:
                leases.append(lease)
        except (KeyError, TypeError, ValueError):
            leases.append(OpenLease("", 0, frozenset()))
    return leases


def state_name(record: DiskRecord) -> str:
    """What a lease calls a disk state: the newest layer of its map."""
    return record.maps[-1].key if record.maps else ""


def builds_on(lease: OpenLease, point: RestorePoint) -> bool:
    """Whether the session may inherit from this restore point."""
    return any(state_name(disk) in lease.bases for disk in point.disks)
