"""Find and remove what a killed session left on the cluster, and nothing else (N6, N7, N10, N11, W16).

Why nothing of a living session, and nothing of anybody else, is ever removed:

- A candidate must be named by a record of ours: a journal entry whose session has no live lease, or
  the source of a commit record that is no longer the newest of its VM and job. And the object on the
  cluster must carry our mark. A name alone, or a record alone, removes nothing.
- Leases and journal are read *before* the restore points. A session forgets the journal entry of its
  recovery point only after the commit record is durable; so a recovery point that is missing from
  the journal as read is named by a commit record as read afterwards, and the newest one is kept.
- Intent precedes creation, so whatever exists on the cluster was in the journal before it existed.
- An entry that cannot be judged (another cluster connection, a damaged record) is left and reported.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from jobs.journal import (
    Entry,
    all_entries,
    drop_lease,
    forget_entry,
    leased_sessions,
    live_sessions,
)
from jobs.marks import repository_prefix
from jobs.worker_pool import release_worker
from nutanix import AhvClient, NutanixError
from repository import Clock, Repository, RestorePoint

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Leftover:
    """One thing to remove, and why it is ours to remove."""

    kind: str
    name: str
    object_id: str | None
    why: str
    entry: Entry | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.name} ({self.why})"


def find_leftovers(
    client: AhvClient, repository: Repository, *, cluster_url: str, clock: Clock
) -> list[Leftover]:
    """What can be removed now, and why it is ours. Removes nothing.

    Raises `NutanixError` or `RepositoryError` when cluster or repository cannot be asked.
    """
    alive = live_sessions(repository.live, clock)
    entries = all_entries(repository.live)
    points = repository.points().points  # after the journal: see the head of this file
    dead = [
        entry
        for entry in entries
        if entry.session_id not in alive and entry.cluster_url == cluster_url
    ]
    held = {entry.object_id for entry in entries if entry.session_id in alive}
    committed = {point.source.get("recovery_point_id") for point in points}
    kept = held | {point.source.get("recovery_point_id") for point in newest_points(points)}
    leftovers = [_from_entry(entry) for entry in dead if entry.object_id not in committed]
    journalled = {entry.object_id for entry in entries}
    for point in client.recovery_points(name_prefix=repository_prefix(repository.id)):
        if point.id in kept or point.id in journalled or point.id not in committed:
            continue
        why = "reference of a restore point that has a successor"
        leftovers.append(Leftover("recovery-point", point.name, point.id, why))
    leftovers += [
        Leftover("journal entry", entry.name, None, "its recovery point was committed", entry)
        for entry in dead
        if entry.object_id in committed
    ]
    return leftovers


def newest_points(points: Iterable[RestorePoint]) -> list[RestorePoint]:
    """The newest restore point of every VM and job: their sources are the references in use (N4)."""
    newest: dict[tuple[str, str], RestorePoint] = {}
    for point in points:
        key = (point.vm_id, point.job)
        if key not in newest or point.created_at >= newest[key].created_at:
            newest[key] = point
    return list(newest.values())


def remove_leftovers(
    client: AhvClient,
    repository: Repository,
    leftovers: Iterable[Leftover],
    *,
    clock: Clock,
) -> list[str]:
    """Remove them, one by one; returns what was removed, in words.

    One that cannot be removed is told in the log, stays in the journal and hinders no other.
    """
    removed = []
    # A volume group holds a clone of the recovery point and uses the worker: groups go first.
    order = {"volume-group": 0, "vm": 1, "recovery-point": 2, "worker-power": 3}
    for leftover in sorted(leftovers, key=lambda each: order.get(each.kind, 4)):
        try:
            if _remove(client, repository, leftover, clock=clock):
                removed.append(str(leftover))
                log.info("Removed %s", leftover)
        except NutanixError as error:
            log.warning("%s stays for now: %s", leftover, error)
    _drop_ended_leases(repository, clock)
    return removed


def remove_own_leftovers(
    client: AhvClient, repository: Repository, *, session_id: str, clock: Clock
) -> None:
    """What this session could not remove when it should have, or left when a step failed midway.

    The last thing a session does with the cluster, after its workers; never raises, because by then
    the result stands, and the journal hands what is left to the next session.
    """
    own = [entry for entry in all_entries(repository.live) if entry.session_id == session_id]
    for entry in own:
        try:
            _remove(client, repository, _from_entry(entry), clock=clock)
        except NutanixError as error:
            log.warning("%s %s is left to the next session: %s", entry.kind, entry.name, error)


def _from_entry(entry: Entry) -> Leftover:
    why = f"left by session {entry.session_id[:8]}, which ended without removing it"
    return Leftover(entry.kind, entry.name, entry.object_id, why, entry)


def _remove(
    client: AhvClient,
    repository: Repository,
    leftover: Leftover,
    *,
    clock: Clock,
) -> bool:
    """Remove one; false when there was nothing of it on the cluster."""
    entry = leftover.entry
    if leftover.kind == "worker-power" and entry is not None:
        return release_worker(client, repository.live, clock, entry)
    object_ids = _existing(client, leftover)
    for object_id in object_ids:
        if leftover.kind == "volume-group":
            client.delete_volume_group(object_id)
        elif leftover.kind == "vm":
            client.delete_vm(object_id)
        elif leftover.kind == "recovery-point":
            client.delete_recovery_point(object_id)
    if entry is not None:
        forget_entry(repository.live, entry)
    return bool(object_ids)


def _existing(client: AhvClient, leftover: Leftover) -> list[str]:
    """Ids of what carries the leftover's name now, and is the recorded object where an id is recorded.

    A crash between the creating call and its answer leaves an entry without id. Its name is unique
    to one session and VM and was recorded before the call, so the name alone identifies it then.
    """
    listed: Iterable[tuple[str, str]]
    if leftover.kind == "volume-group":
        listed = ((each.id, each.name) for each in client.volume_groups(name_prefix=leftover.name))
    elif leftover.kind == "recovery-point":
        listed = (
            (each.id, each.name) for each in client.recovery_points(name_prefix=leftover.name)
        )
    elif leftover.kind == "vm" and leftover.object_id is not None:
        # A restored VM has the name its operator chose, so only its id can prove it ours.
        listed = (
            (each.id, leftover.name) for each in client.vms() if each.id == leftover.object_id
        )
    else:
        return []
    return [
        object_id
        for object_id, name in listed
        if name == leftover.name and leftover.object_id in (None, object_id)
    ]


def _drop_ended_leases(repository: Repository, clock: Clock) -> None:
    alive = live_sessions(repository.live, clock)
    for session_id in leased_sessions(repository.live) - alive:
        drop_lease(repository.live, session_id)
