"""What we created on a cluster and have not yet removed, recorded before it is created.

Each record is one small mutable object beside the repository, so that any later session, on any
machine that reaches the repository, can find what a killed one left. The order is always:

    intend (durable) -> the call that creates -> created (with the id) -> ... -> forget

A crash between any two of these leaves a record whose unique `name` and `request_id` lead to the
object. A record whose session's lease has ended (`jobs.leases`) belongs to nobody and is cleaned up
by `jobs.reconcile`.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from jobs.leases import live_sessions
from repository import Clock, LiveRecords

log = logging.getLogger(__name__)

Kind = Literal["recovery-point", "volume-group", "vm", "worker-power"]

ENTRIES = "journal"


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


class Journal:
    """The journal of one session. Thread-safe: every record is written by one VM's thread only."""

    def __init__(
        self, records: LiveRecords, *, session_id: str, cluster_url: str, clock: Clock
    ) -> None:
        self._records, self._clock = records, clock
        self.session_id, self.cluster_url = session_id, cluster_url

    def intend(self, kind: Kind, name: str, vm_id: str, *, content: str = "") -> Entry:
        """Record, durably, that `name` is about to be created. The same again returns the first record.

        `content` tells one request for the same VM from another, such as those of two attempts: a
        request id must never come with another request than its first (`nutanix-v4 §10`).
        """
        digest = f".{hashlib.sha256(content.encode()).hexdigest()[:12]}" if content else ""
        key = f"{self.session_id}.{kind}.{vm_id}{digest}"
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


@dataclass(frozen=True, slots=True)
class JournalState:
    """The journal of all sessions at one moment."""

    entries: list[Entry]
    """Oldest first."""
    alive: set[str]
    """Ids of the sessions that may still be working."""

    def of_others(self, kind: Kind, vm_id: str, *, but: str) -> list[Entry]:
        """Entries of this kind for this VM that living sessions other than `but` have."""
        return [
            entry
            for entry in self.entries
            if entry.kind == kind
            and entry.vm_id == vm_id
            and entry.session_id != but
            and entry.session_id in self.alive
        ]


def read_journal(records: LiveRecords, clock: Clock) -> JournalState:
    """Entries first, leases after: a session opens its lease before it writes its first entry.

    So whoever wrote an entry that was read had a lease by the time the leases are read, unless it
    has ended. The other order would take a session that starts in between for a dead one.
    """
    entries = all_entries(records)
    return JournalState(entries, live_sessions(records, clock))


def all_entries(records: LiveRecords) -> list[Entry]:
    """Every entry of every session, oldest first; one that cannot be read is told in the log."""
    listing = records.list(ENTRIES)
    entries, unreadable = [], [record.key for record in listing.damaged]
    for key, record in listing.records.items():
        try:
            entries.append(Entry.model_validate(record))
        except ValidationError:
            unreadable.append(key)
    for key in unreadable:
        log.warning("Journal entry %s cannot be read; what it names stays on the cluster", key)
    return sorted(entries, key=lambda entry: (entry.created_at, entry.key))


def forget_entry(records: LiveRecords, entry: Entry) -> None:
    """The thing is gone: nobody has to look for it any more."""
    records.delete(ENTRIES, entry.key)
