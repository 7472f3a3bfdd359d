"""Find and remove what a killed session left on the cluster, and nothing else (N6, N7, N10, N11, W16).

Why nothing of a living session, and nothing of anybody else, is ever removed:

- A candidate must be named by a record of ours: a journal entry whose session has no live lease, or
  the source of a commit record that is no longer the newest of its VM and job. And the object on the
  cluster must carry the mark of this repository. A mark alone, or a record alone, removes nothing.
- Entries are read before leases, and both before the restore points. A session opens its lease before
  its first entry, so the owner of an entry that was read is seen alive unless it has ended. A session
  forgets the entry of its recovery point only after the commit record is durable; so a recovery point
  that is missing from the journal as read is named by a commit record as read afterwards. The lease is
  judged once more right before each removal.
- A recovery point that the newest commit record of a VM and job names is never removed, whatever the
  journal says of it: the entry alone is dropped.
- Intent precedes creation, so whatever exists on the cluster was in the journal before it existed. An
  entry without an id stays until no creation can still be under way, even when nothing of its name is
  found. Its name was made for one session and VM and carries our mark, so it identifies the object.
- A reference in use goes only when its VM has left the job or the job is gone, by the proof in
  `jobs.departed`, which is made once more right before the removal.
- A mover on a worker may outlive its session: it is told to end, and is waited for, before the disks
  that it reads are taken away (`jobs.moves`).
- What cannot be judged (another cluster connection, an unreadable record or lease) stays, and is told.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from jobs.departed import find_departed
from jobs.journal import Entry, all_entries, forget_entry, read_journal
from jobs.leases import drop_ended_leases, is_alive, live_sessions
from jobs.marks import repository_prefix
from jobs.moves import Moves, end_moves, sweep_moves
from jobs.worker_power import release_worker
from nutanix import AhvClient, NutanixError, RecoveryPoint
from repository import Clock, Repository, RepositoryError, RestorePoint

log = logging.getLogger(__name__)

CREATION_LIFE = timedelta(minutes=30)
"""Longer than any creating operation runs: the client waits 15 minutes for one."""

SUPERSEDED = "reference of a restore point that has a successor or was forgotten"

# A volume group holds a clone of the recovery point and uses the worker: groups go first.
_ORDER = {"volume-group": 0, "vm": 1, "recovery-point": 2, "worker-power": 3}


@dataclass(frozen=True, slots=True)
class Leftover:
    """One thing to remove, and why it is ours to remove."""

    kind: str
    name: str
    object_id: str | None
    why: str
    entry: Entry | None = None
    is_departed: bool = False
    """A reference that is in use by nobody's judgement but that of `jobs.departed`."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name} ({self.why})"


def find_leftovers(
    client: AhvClient, repository: Repository, *, cluster_url: str, clock: Clock
) -> list[Leftover]:
    """What can be removed now, and why it is ours. Removes nothing.

    Raises `NutanixError` or `RepositoryError` when cluster or repository cannot be asked.
    """
    state = read_journal(repository.live, clock)
    points = repository.points().points
    newest = newest_points(points)
    leftovers = [
        _from_entry(entry)
        for entry in state.entries
        if entry.session_id not in state.alive and entry.cluster_url == cluster_url
    ]
    journalled = {entry.object_id for entry in state.entries}
    superseded = committed_sources(repository) - _sources(newest) - journalled
    departed = _departed(repository, newest, clock)
    for point in client.recovery_points(name_prefix=repository_prefix(repository.id)):
        if point.id in superseded:
            leftovers.append(Leftover("recovery-point", point.name, point.id, SUPERSEDED))
        elif point.id in departed and point.id not in journalled:
            why = departed[point.id]
            leftovers.append(
                Leftover("recovery-point", point.name, point.id, why, is_departed=True)
            )
    return leftovers


def find_unclaimed(client: AhvClient, repository: Repository) -> list[RecoveryPoint]:
    """Recovery points with our mark that no record of ours names: never removed, only told.

    They come of a `live/` folder or commit records that were lost, and go when they expire.
    Raises `NutanixError` or `RepositoryError`.
    """
    named = {entry.object_id for entry in all_entries(repository.live)}
    names = {entry.name for entry in all_entries(repository.live)}
    found = client.recovery_points(name_prefix=repository_prefix(repository.id))
    named |= committed_sources(repository)
    return [point for point in found if point.id not in named and point.name not in names]


def _departed(
    repository: Repository, newest: Iterable[RestorePoint], clock: Clock
) -> dict[str, str]:
    """Recovery points that nothing will build on, and why (N9)."""
    departed = find_departed(repository, list(newest), clock)
    return {str(_source(each.point)): each.why for each in departed}


def newest_points(points: Iterable[RestorePoint]) -> list[RestorePoint]:
    """The newest restore point of every VM and job: their sources are the references in use (N4)."""
    newest: dict[tuple[str, str], RestorePoint] = {}
    for point in points:
        key = (point.vm_id, point.job)
        if key not in newest or point.created_at >= newest[key].created_at:
            newest[key] = point
    return list(newest.values())


def committed_sources(repository: Repository) -> set[str]:
    """Every recovery point that a commit record names, those of forgotten restore points too."""
    forgotten = (each.point for each in repository.forgotten())
    return _sources(repository.points().points) | _sources(forgotten)


def remove_leftovers(
    client: AhvClient, repository: Repository, leftovers: Iterable[Leftover], *, clock: Clock
) -> list[str]:
    """Remove them, one by one; returns what was removed, in words.

    One that cannot be removed is told in the log, stays in the journal and hinders no other.
    """
    removed = []
    committed = committed_sources(repository)
    for leftover in sorted(leftovers, key=lambda each: _ORDER[each.kind]):
        owner = leftover.entry.session_id if leftover.entry else None
        try:
            if owner is not None and is_alive(repository.live, owner, clock):
                continue
            if owner is not None and leftover.kind == "volume-group":
                end_moves(Moves(repository.live), owner, clock)
            if leftover.is_departed and not _is_still_departed(repository, leftover, clock):
                continue
            if _remove(client, repository, leftover, committed, clock):
                removed.append(str(leftover))
                log.info("Removed %s", leftover)
        except (NutanixError, RepositoryError) as error:
            log.warning("%s stays for now: %s", leftover, error)
    drop_ended_leases(repository.live, clock)
    sweep_moves(Moves(repository.live), live_sessions(repository.live, clock), clock)
    return removed


def _is_still_departed(repository: Repository, leftover: Leftover, clock: Clock) -> bool:
    newest = newest_points(repository.points().points)
    return leftover.object_id in _departed(repository, newest, clock)


def remove_own_leftovers(
    client: AhvClient, repository: Repository, *, session_id: str, clock: Clock
) -> None:
    """What this session could not remove when it should have, or left when a step failed midway.

    The last thing a session does with the cluster, after its workers. Raises neither `NutanixError`
    nor `RepositoryError`: the result stands, and the journal hands what is left to the next session.
    """
    try:
        own = [each for each in all_entries(repository.live) if each.session_id == session_id]
        if not own:
            return
        committed = committed_sources(repository)
    except RepositoryError as error:
        log.warning("What this session may have left stays for the next one: %s", error)
        return
    for entry in sorted(own, key=lambda each: _ORDER[each.kind]):
        try:
            _remove(client, repository, _from_entry(entry), committed, clock)
        except (NutanixError, RepositoryError) as error:
            log.warning("%s %s is left to the next session: %s", entry.kind, entry.name, error)


def _from_entry(entry: Entry) -> Leftover:
    why = f"left by session {entry.session_id[:8]}, which ended without removing it"
    return Leftover(entry.kind, entry.name, entry.object_id, why, entry)


def _sources(points: Iterable[RestorePoint]) -> set[str]:
    """The recovery points that these restore points came from."""
    return {each for each in map(_source, points) if each is not None}


def _source(point: RestorePoint) -> str | None:
    """The recovery point that a restore point came from."""
    return point.source.get("recovery_point_id")


def _remove(
    client: AhvClient,
    repository: Repository,
    leftover: Leftover,
    committed: set[str],
    clock: Clock,
) -> bool:
    """Remove one; false when nothing of it was removed from the cluster."""
    entry = leftover.entry
    if leftover.kind == "worker-power" and entry is not None:
        return release_worker(client, repository.live, clock, entry)
    if entry is not None and entry.object_id in committed:
        forget_entry(repository.live, entry)
        return False
    object_ids = _existing(client, repository, leftover)
    if entry is not None and not object_ids and _may_still_appear(entry, clock):
        return False
    for object_id in object_ids:
        if leftover.kind == "volume-group":
            client.delete_volume_group(object_id)
        elif leftover.kind == "recovery-point":
            client.delete_recovery_point(object_id)
        else:
            client.delete_vm(object_id)
    if entry is not None:
        forget_entry(repository.live, entry)
    return bool(object_ids)


def _may_still_appear(entry: Entry, clock: Clock) -> bool:
    """Whether the cluster may yet create what an unanswered call asked for.

    A call that was sent and never answered can be carried out after its sender is gone, so such an
    entry is looked for again until no operation can be that old.
    """
    return entry.object_id is None and clock.now() - entry.created_at < CREATION_LIFE


def _existing(client: AhvClient, repository: Repository, leftover: Leftover) -> list[str]:
    """Ids of what carries our mark and this name now, and is the recorded object where an id is known."""
    if leftover.kind == "vm":
        return _existing_vm(client, leftover)
    is_marked = leftover.name.startswith(repository_prefix(repository.id))
    if not is_marked and (leftover.kind != "volume-group" or leftover.object_id is None):
        return []  # A restored group bears its VM's name, so only its id can prove it ours.
    listed: Iterable[tuple[str, str]]
    if leftover.kind == "volume-group":
        listed = ((each.id, each.name) for each in client.volume_groups(name_prefix=leftover.name))
    else:
        listed = (
            (each.id, each.name) for each in client.recovery_points(name_prefix=leftover.name)
        )
    return [
        object_id
        for object_id, name in listed
        if name == leftover.name and leftover.object_id in (None, object_id)
    ]


def _existing_vm(client: AhvClient, leftover: Leftover) -> list[str]:
    """A restored VM has the name its operator chose, so only its id can prove it ours."""
    same_name = [vm.id for vm in client.vms() if vm.name == leftover.name]
    if leftover.object_id is None and same_name:
        log.warning(
            "VM %s may be what an interrupted restore made; look at it, and delete it if it is",
            leftover.name,
        )
    return [each for each in same_name if each == leftover.object_id]
