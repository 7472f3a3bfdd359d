"""What we created on a cluster and have not yet removed, recorded before it is created.

Each record is one small mutable object beside the repository, so that any later session, on any
machine that reaches the repository, can find what a killed one left. The order is always:

    intend (durable) -> the call that creates -> created (with the id) -> ... -> forget

A crash between any two of these leaves a record whose unique `name` and `request_id` lead to the
object. Sessions keep a lease; a record whose session's lease has ended belongs to nobody and is
cleaned up by `jobs.reconcile`.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import uuid
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from repository import Clock, LiveRecords, RepositoryError

log = logging.getLogger(__name__)

Kind = Literal["recovery-point", "volume-group", "vm", "worker-power"]

ENTRIES = "journal"
LEASES = "sessions"
LEASE_LIFE = timedelta(minutes=5)
LEASE_RENEWAL_S = 60.0


class Entry(BaseModel):
    """One thing on the cluster that is ours to remove."""

    model_config = ConfigDict(frozen=True)

    key: str
    kind: Kind
    name: str
    request_id: str
    """Resent with every retry of the creating call, so that it happens once (`nutanix-v4 §10`)."""
    session_id: str
    cluster_url: str
    """The cluster connection it was created over; another one cannot judge it."""
    vm_id: str
    created_at: datetime
    object_id: str | None = None
    """The cluster's id of it; `None` until the creating call was answered."""


class Lease(BaseModel):
    """A sign of life of one session."""

    model_config = ConfigDict(frozen=True)

    session_id: str
    job: str
    host: str
    boot_id: str
    process: str
    """Process id and start time: an id alone is used again."""
    started_at: datetime
    renewed_at: datetime


class Journal:
    """The journal of one session. Thread-safe: every record is written by one VM's thread only."""

    def __init__(
        self, records: LiveRecords, *, session_id: str, job: str, cluster_url: str, clock: Clock
    ) -> None:
        self._records, self._clock = records, clock
        self.session_id, self._job, self.cluster_url = session_id, job, cluster_url
        self._started_at = clock.now()
        self._ended = threading.Event()

    def intend(self, kind: Kind, name: str, vm_id: str) -> Entry:
        """Record, durably, that `name` is about to be created. The same again returns the first record."""
        key = f"{self.session_id}.{kind}.{vm_id}"
        found = self._records.get(ENTRIES, key)
        if found is not None:
            return Entry.model_validate(found)
        entry = Entry(
            key=key,
            kind=kind,
            name=name,
            request_id=str(uuid.uuid4()),
            session_id=self.session_id,
            cluster_url=self.cluster_url,
            vm_id=vm_id,
            created_at=self._clock.now(),
        )
        self._records.put(ENTRIES, key, entry.model_dump(mode="json"))
        return entry

    def created(self, entry: Entry, object_id: str) -> Entry:
        """Record the id the cluster gave."""
        entry = entry.model_copy(update={"object_id": object_id})
        self._records.put(ENTRIES, entry.key, entry.model_dump(mode="json"))
        return entry

    def forget(self, entry: Entry) -> None:
        """The thing is gone, or is now named by a commit record."""
        forget_entry(self._records, entry)

    def open_lease(self) -> None:
        """Show that this session lives, until `close_lease`; a thread renews the lease."""
        self._write_lease()
        threading.Thread(target=self._renew, name="session-lease", daemon=True).start()

    def close_lease(self) -> None:
        """This session is over; what its journal still names may be removed by anybody."""
        self._ended.set()
        self._records.delete(LEASES, self.session_id)

    def _renew(self) -> None:
        while not self._ended.wait(LEASE_RENEWAL_S):
            try:
                self._write_lease()
            except RepositoryError as error:
                # The lease outlives several renewals; the transfers meet the same store and report it.
                log.warning("The session's lease was not renewed: %s", error)

    def _write_lease(self) -> None:
        lease = Lease(
            session_id=self.session_id,
            job=self._job,
            host=socket.gethostname(),
            boot_id=_boot_id(),
            process=_process_token(os.getpid()) or "",
            started_at=self._started_at,
            renewed_at=self._clock.now(),
        )
        self._records.put(LEASES, self.session_id, lease.model_dump(mode="json"))


def all_entries(records: LiveRecords) -> list[Entry]:
    """Every entry of every session, oldest first."""
    entries = [Entry.model_validate(record) for record in records.list(ENTRIES).records.values()]
    return sorted(entries, key=lambda entry: (entry.created_at, entry.key))


def forget_entry(records: LiveRecords, entry: Entry) -> None:
    """The thing is gone: nobody has to look for it any more."""
    records.delete(ENTRIES, entry.key)


def live_sessions(records: LiveRecords, clock: Clock) -> set[str]:
    """Ids of the sessions that may still be working.

    A lease of this machine is judged by its process: gone means over at once, so that the run after
    a kill can clean up. One of another machine, or of an earlier boot, is judged by its age alone.
    """
    leases = [Lease.model_validate(record) for record in records.list(LEASES).records.values()]
    return {lease.session_id for lease in leases if _is_alive(lease, clock.now())}


def drop_lease(records: LiveRecords, session_id: str) -> None:
    """Remove the lease that a dead session left."""
    records.delete(LEASES, session_id)


def leased_sessions(records: LiveRecords) -> set[str]:
    """Ids of the sessions that have a lease, alive or not."""
    return set(records.list(LEASES).records)


def _is_alive(lease: Lease, now: datetime) -> bool:
    if lease.host == socket.gethostname() and lease.process:
        pid = int(lease.process.partition("@")[0])
        return lease.boot_id == _boot_id() and _process_token(pid) == lease.process
    return now - lease.renewed_at < LEASE_LIFE


def _process_token(pid: int) -> str | None:
    """`pid@start`, or `None` when that process works no more (gone, or killed and not yet reaped)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    state, start_ticks = fields[0], fields[19]
    return None if state in "ZX" else f"{pid}@{start_ticks}"


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
