"""Signs of life of sessions, and how they are judged.

A session that lives is never cleaned up after. Doubt counts as life: a lease that cannot be read
keeps its session alive until somebody has looked at it.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, ValidationError

from repository import Clock, DamagedObject, DamagedRecord, LiveRecords, RepositoryError

log = logging.getLogger(__name__)

LEASES = "sessions"
LEASE_LIFE = timedelta(minutes=5)
LEASE_RENEWAL_S = 60.0


class Lease(BaseModel):
    """A sign of life of one session."""

    model_config = ConfigDict(frozen=True)

    session_id: str
    job: str
    machine: str
    """Names one space of processes: host, boot and process namespace. Hosts cloned from one image
    share a host name, containers share host and boot."""
    process: str
    """Process id and start time: an id alone is used again."""
    started_at: datetime
    renewed_at: datetime

    def is_alive(self, now: datetime) -> bool:
        """Whether the session may still be working.

        Where its process can be seen, that decides: gone means over at once, so that the run after
        a kill can clean up. Anywhere else its age decides.
        """
        if self.machine == this_machine() and self.process:
            return process_token(int(self.process.partition("@")[0])) == self.process
        return now - self.renewed_at < LEASE_LIFE


class LeaseHolder:
    """Keeps the lease of one session: written at `open`, renewed by a thread, removed at `close`."""

    def __init__(
        self,
        records: LiveRecords,
        *,
        session_id: str,
        job: str,
        clock: Clock,
        on_lapse: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_lapse` is called, once, when others may take this session for dead: it must stop then."""
        self._records, self._session_id, self._job, self._clock = records, session_id, job, clock
        self._on_lapse = on_lapse
        self._renewed_s = clock.monotonic_s()
        self._started_at = clock.now()
        self._ended = threading.Event()

    def open(self) -> None:
        """Show that this session lives; durable on return."""
        self._write()
        threading.Thread(target=self._renew, name="session-lease", daemon=True).start()

    def close(self) -> None:
        """This session is over; what its journal still names may be removed by anybody."""
        self._ended.set()
        self._records.delete(LEASES, self._session_id)

    def _renew(self) -> None:
        while not self._ended.wait(LEASE_RENEWAL_S):
            if self._clock.monotonic_s() - self._renewed_s > LEASE_LIFE.total_seconds():
                # The store was away, or this process was frozen: what it held may be gone by now.
                log.error("The session's lease has lapsed; the session stops")
                self._on_lapse()
                return
            try:
                self._write()
            except RepositoryError as error:
                # The lease outlives several renewals; the transfers meet the same store and report it.
                log.warning("The session's lease was not renewed: %s", error)

    def _write(self) -> None:
        lease = Lease(
            session_id=self._session_id,
            job=self._job,
            machine=this_machine(),
            process=process_token(os.getpid()) or "",
            started_at=self._started_at,
            renewed_at=self._clock.now(),
        )
        began_s = self._clock.monotonic_s()
        self._records.put(LEASES, self._session_id, lease.model_dump(mode="json"))
        self._renewed_s = began_s


def live_sessions(records: LiveRecords, clock: Clock) -> set[str]:
    """Ids of the sessions that may still be working, those of unreadable leases among them."""
    listing = records.list(LEASES)
    alive = {_session_of(record) for record in listing.damaged}
    for session_id, document in listing.records.items():
        if _judge(session_id, document, clock.now()):
            alive.add(session_id)
    for record in listing.damaged:
        log.warning("The lease %s cannot be read; its session counts as alive", record.key)
    return alive


def living_jobs(records: LiveRecords, clock: Clock) -> set[str]:
    """Names of the jobs that a session may be running right now; of unreadable leases they are unknown."""
    alive = live_sessions(records, clock)
    listed = records.list(LEASES).records
    return {str(record.get("job")) for key, record in listed.items() if key in alive}


def running_sessions(records: LiveRecords, clock: Clock) -> list[Lease]:
    """The leases of the sessions that may still be working, oldest first; unreadable ones are left out."""
    leases = []
    for record in records.list(LEASES).records.values():
        try:
            lease = Lease.model_validate(record)
        except ValidationError:
            continue
        if lease.is_alive(clock.now()):
            leases.append(lease)
    return sorted(leases, key=lambda lease: lease.started_at)


def is_alive(records: LiveRecords, session_id: str, clock: Clock) -> bool:
    """Whether one session may still be working, judged by its lease as it is now."""
    try:
        record = records.get(LEASES, session_id)
    except DamagedObject:
        return True
    return record is not None and _judge(session_id, record, clock.now())


def drop_ended_leases(records: LiveRecords, clock: Clock) -> None:
    """Remove the leases of sessions that are over, each judged once more right before."""
    for session_id in records.list(LEASES).records:
        if not is_alive(records, session_id, clock):
            records.delete(LEASES, session_id)


def leased_sessions(records: LiveRecords) -> set[str]:
    """Ids of the sessions that have a lease, alive or not."""
    listing = records.list(LEASES)
    return {*listing.records, *(_session_of(record) for record in listing.damaged)}


def lease_jobs(records: LiveRecords) -> dict[str, str]:
    """The job of every session that has a readable lease, alive or not."""
    found = records.list(LEASES).records
    return {session_id: str(record.get("job", "")) for session_id, record in found.items()}


def _session_of(record: DamagedRecord) -> str:
    return PurePosixPath(record.key).stem


def _judge(session_id: str, record: dict[str, object], now: datetime) -> bool:
    try:
        return Lease.model_validate(record).is_alive(now)
    except ValidationError:
        log.warning("The lease of session %s is of an unknown kind; it counts as alive", session_id)
        return True


def this_machine() -> str:
    """Names the space in which this process's id means something."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    boot_id = boot.read_text().strip() if boot.is_file() else ""
    namespace = Path("/proc/self/ns/pid")
    space = str(namespace.readlink()) if namespace.is_symlink() else ""
    return f"{socket.gethostname()}/{boot_id}/{space}"


def process_token(pid: int) -> str | None:
    """`pid@start`, or `None` when that process works no more (gone, or killed and not yet reaped)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    state, start_ticks = fields[0], fields[19]
    return None if state in "ZX" else f"{pid}@{start_ticks}"
