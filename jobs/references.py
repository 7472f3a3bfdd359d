"""What a new restore point builds on: the last one, and how far change tracking may be asked against it.

Three questions, answered apart. Which restore point came before (a chain goes by the VM's id, and by
a strict rule over a move that changed the id)? Which of its disks may a disk be compared with by
digest? And is its recovery point one against which the cluster may be asked for changed regions?
Only the last could make a wrong restore point, so it needs the same VM, the same cluster, the same
disk by id, and a VM that was not put back to an earlier state. A wrong answer to the first two costs
reading, never correctness: whatever is compared by digest was read.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from jobs.extents import ReadCause
from jobs.marks import repository_prefix
from jobs.model import BackupJob
from jobs.reconcile import newest_points
from jobs.session import BackupSession
from jobs.snapshots import Snapshot
from nutanix import AhvClient, DiskRecoveryPointRef, NotFound
from repository import DiskRecord, Repository, RestorePoint

log = logging.getLogger(__name__)

DAMAGE_TOLD = (
    "verification found the last restore point damaged, and this one may inherit that: run "
    "`ahvault repair`, and the backup after it reads what was lost from the VM again"
)


class Inquiry(Protocol):
    """Who asks what a VM builds on: a session, or the preview of one."""

    @property
    def client(self) -> AhvClient: ...
    @property
    def repository(self) -> Repository: ...
    @property
    def job(self) -> BackupJob: ...


class SeenDisk(Protocol):
    """A disk of a VM: in a snapshot, or as it is now."""

    @property
    def disk_id(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...


class SeenVm(Protocol):
    """A VM at one moment: a snapshot, or how it is now."""

    @property
    def vm_id(self) -> str: ...
    @property
    def vm_name(self) -> str: ...
    @property
    def cluster_id(self) -> str: ...
    @property
    def created_at(self) -> datetime: ...
    @property
    def disks(self) -> Sequence[SeenDisk]: ...
    @property
    def vm_config(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Reference:
    """What the new restore point of a VM builds on."""

    point: RestorePoint | None
    recovery_point_id: str | None
    """The recovery point `point` came from, when it is still on the cluster."""
    damaged_count: int = 0
    """Commit records of the repository that cannot be read; a newer point may be among them."""
    distrust: ReadCause | None = None
    """Why changed regions mean nothing against it, whatever the cluster would answer."""
    bases: Mapping[str, DiskRecord] = field(default_factory=dict)
    """Ids of the VM's disks as they are now, and what each may be compared with by digest."""
    replaced: frozenset[str] = frozenset()
    """Disks that have taken the place of another."""
    warnings: tuple[str, ...] = ()
    """What the operator should know of the restore point that is built on."""

    def base(self, disk_id: str) -> DiskRecord | None:
        """The disk as the last restore point holds it."""
        return self.bases.get(disk_id)

    def of_disk(self, disk_id: str) -> DiskRecoveryPointRef | ReadCause:
        """The disk recovery point to ask changed regions against, or why there is none."""
        if self.point is None:
            return ReadCause.FIRST_RUN
        if self.distrust is not None:
            return self.distrust
        own = self.point.disk(disk_id)
        if own is None:
            return ReadCause.REPLACED_DISK if disk_id in self.replaced else ReadCause.NEW_DISK
        facts = own.source_facts.get("recovery_point")
        if facts is None:
            return ReadCause.REFERENCE_UNKNOWN
        if self.recovery_point_id is None:
            return ReadCause.REFERENCE_GONE
        return DiskRecoveryPointRef.model_validate(facts)


def find_reference(session: Inquiry, snapshot: SeenVm) -> Reference:
    """The newest restore point of this VM in this job, and whether its recovery point still stands.

    A reference is one recovery point per VM and job (N4), named by the commit record itself (N8).
    Only points older than the snapshot count: changed regions against a later one mean nothing.
    """
    listing = session.repository.points(snapshot.vm_id)
    damaged = len(listing.damaged)
    newest = newest_before(listing.points, session.job.name, snapshot.created_at)
    if newest is None:
        earlier = find_predecessor(session, snapshot)
        if earlier is None:
            return Reference(None, None, damaged)
        cause = ReadCause.VM_RECREATED
        bases = comparable_disks(earlier, snapshot.disks, by_place=True)
        return Reference(earlier, None, damaged, cause, bases)
    distrust = _distrust(newest, snapshot)
    return Reference(
        point=newest,
        recovery_point_id=_standing(session, newest),
        damaged_count=damaged,
        distrust=distrust,
        bases=comparable_disks(newest, snapshot.disks, by_place=distrust is not None),
        replaced=_replaced(newest, snapshot.disks),
        warnings=_known_damage(session, newest),
    )


def _known_damage(session: Inquiry, point: RestorePoint) -> tuple[str, ...]:
    """Whether an open finding concerns the point: what it inherits would be damaged too (H4, H6)."""
    concerned = {
        part.point_id
        for found in session.repository.open_findings()
        for part in found.finding.concerned
    }
    return (DAMAGE_TOLD,) if point.id in concerned else ()


def newest_before(
    points: Sequence[RestorePoint], job: str, moment: datetime | None
) -> RestorePoint | None:
    """The newest of these points, oldest first, that the job made of an earlier moment."""
    own = [
        point
        for point in points
        if point.job == job and (moment is None or point.created_at < moment)
    ]
    return own[-1] if own else None


def find_predecessor(session: Inquiry, snapshot: SeenVm) -> RestorePoint | None:
    """The last restore point of the VM that this one evidently was, under another id (B table).

    A move to another cluster can change a VM's id. Two VMs are never taken for one: the earlier VM
    must have had this name in this job, be gone from the cluster, have the same BIOS id where both
    are known, and share a disk in place and size; and only one VM may fit all that. Its chain is
    continued by digest comparison alone, and its reference is left to the reconciler (N9).
    """
    newest: dict[str, RestorePoint] = {}
    for point in session.repository.points().points:
        if point.job == session.job.name and point.created_at < snapshot.created_at:
            newest[point.vm_id] = point
    fitting = [point for point in newest.values() if _fits(session, point, snapshot)]
    if len(fitting) > 1:
        log.info("%s: several VMs that are gone fit it; it begins anew", snapshot.vm_name)
    return fitting[0] if len(fitting) == 1 else None


def _fits(session: Inquiry, point: RestorePoint, snapshot: SeenVm) -> bool:
    if point.vm_id == snapshot.vm_id or point.vm_name != snapshot.vm_name:
        return False
    if _differ(point, snapshot, "biosUuid"):
        return False
    if not comparable_disks(point, snapshot.disks, by_place=True):
        return False
    try:
        session.client.vm(point.vm_id)
    except NotFound:
        return True
    return False


def comparable_disks(
    point: RestorePoint, disks: Sequence[SeenDisk], *, by_place: bool
) -> dict[str, DiskRecord]:
    """What each disk may be compared with by digest: the disk of its id, never that of its slot.

    With `by_place`, when ids have lost their meaning, also the disk that had its bus, index and size.
    """
    found = {disk.disk_id: disk for disk in point.disks}
    current = {disk.disk_id for disk in disks}
    places = {
        (disk.label, disk.size_bytes): disk
        for disk in point.disks
        if by_place and disk.disk_id not in current
    }
    bases = {
        disk.disk_id: found.get(disk.disk_id) or places.get((disk.label, disk.size_bytes))
        for disk in disks
    }
    return {disk_id: base for disk_id, base in bases.items() if base is not None}


def _replaced(point: RestorePoint, disks: Sequence[SeenDisk]) -> frozenset[str]:
    current = {disk.disk_id for disk in disks}
    left = {disk.label for disk in point.disks if disk.disk_id not in current}
    return frozenset(disk.disk_id for disk in disks if disk.label in left)


def _distrust(point: RestorePoint, snapshot: SeenVm) -> ReadCause | None:
    """Moved, or put back to an earlier state: then the id of a disk does not vouch for its history.

    A VM's generation id changes with every revert and restore in place, as guests rely on; it is
    compared where both configurations have one (`nutanix-v4 §12`).
    """
    before = point.source.get("cluster_id")
    if before and snapshot.cluster_id and before != snapshot.cluster_id:
        return ReadCause.VM_MOVED
    if _differ(point, snapshot, "generationUuid"):
        return ReadCause.VM_REVERTED
    return None


def _differ(point: RestorePoint, snapshot: SeenVm, name: str) -> bool:
    """Whether both configurations have this field, and not the same."""
    before, now = point.vm_config.get(name), snapshot.vm_config.get(name)
    return bool(before and now and before != now)


def _standing(session: Inquiry, point: RestorePoint) -> str | None:
    """The recovery point that a restore point came from, if it is still on the cluster."""
    recovery_point_id = point.source.get("recovery_point_id")
    if recovery_point_id is None:
        return None
    try:
        return session.client.recovery_point(str(recovery_point_id)).id
    except NotFound:
        log.warning("%s: recovery point %s is gone", point.vm_name, recovery_point_id)
        return None


def settle_snapshot(session: BackupSession, snapshot: Snapshot, reference: Reference) -> None:
    """After the commit: the new recovery point is the reference, the old one goes (S8, N4).

    The journal lets go of the new one first: from here on the commit record names it. The old one
    is deleted only if it carries our mark (a repository may hold points that were copied from
    another one, whose references those are) and no newest point names it.
    """
    session.journal.forget(snapshot.entry)
    old = reference.recovery_point_id
    if old is None:
        return
    points = session.repository.points(snapshot.vm_id).points
    in_use = {point.source.get("recovery_point_id") for point in newest_points(points)}
    if old in in_use:
        return
    try:
        name = session.client.recovery_point(old).name
    except NotFound:
        return
    if name.startswith(repository_prefix(session.repository.id)):
        session.client.delete_recovery_point(old)
