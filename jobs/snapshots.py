"""The snapshot of one VM, and the reference of its last one (N1-N10)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict

from jobs.errors import SnapshotIncomplete, VmBusy
from jobs.extents import NoReference
from jobs.journal import Entry, read_journal
from jobs.marks import repository_prefix
from jobs.reconcile import committed_sources, newest_points
from jobs.session import BackupSession
from nutanix import DiskRecoveryPointRef, FeatureMissing, NotFound, Vm
from repository import DiskRecord, RestorePoint

log = logging.getLogger(__name__)


class DiskSnapshot(BaseModel):
    """One disk inside a recovery point."""

    model_config = ConfigDict(frozen=True)

    disk_id: str
    label: str
    """Bus and index, such as `scsi.0`."""
    size_bytes: int
    recovery_point: DiskRecoveryPointRef


class Snapshot(BaseModel):
    """A recovery point of one VM with what is needed to read it and to re-create the VM."""

    model_config = ConfigDict(frozen=True)

    vm_id: str
    vm_name: str
    cluster_id: str
    host_id: str | None
    recovery_point_id: str
    created_at: datetime
    consistency: str
    disks: tuple[DiskSnapshot, ...]
    vm_config: dict[str, Any]
    warnings: tuple[str, ...] = ()
    entry: Entry

    def source(self) -> dict[str, Any]:
        """What the commit record says of where the restore point came from (N8)."""
        return {
            "kind": "nutanix-recovery-point",
            "cluster_id": self.cluster_id,
            "recovery_point_id": self.recovery_point_id,
        }


@dataclass(frozen=True, slots=True)
class Reference:
    """What the new restore point of a VM builds on."""

    point: RestorePoint | None
    recovery_point_id: str | None
    """The recovery point `point` came from, when it is still on the cluster."""
    damaged_count: int = 0
    """Commit records of the repository that cannot be read; a newer point may be among them."""

    def base(self, disk_id: str) -> DiskRecord | None:
        """The disk as the last restore point holds it, keyed by the disk's id, never by its slot."""
        if self.point is None:
            return None
        return next((disk for disk in self.point.disks if disk.disk_id == disk_id), None)

    def of_disk(self, disk_id: str) -> DiskRecoveryPointRef | NoReference:
        """The disk recovery point to ask changed regions against, or why there is none."""
        if self.point is None:
            return NoReference.FIRST_RUN
        base = self.base(disk_id)
        if base is None:
            return NoReference.NEW_DISK
        facts = base.source_facts.get("recovery_point")
        if facts is None:
            return NoReference.REFERENCE_UNKNOWN
        if self.recovery_point_id is None:
            return NoReference.REFERENCE_GONE
        return DiskRecoveryPointRef.model_validate(facts)


def take_snapshot(session: BackupSession, vm_id: str) -> Snapshot:
    """Take one recovery point over all disks of a VM, and read back what it holds.

    Journalled before it is created; the caller discards it with `abandon_snapshot` unless a commit
    record comes to name it. Calling again after a failure resends the same request id, so that at
    most one recovery point comes of it. Raises `NutanixError` or `SnapshotIncomplete`.
    """
    session.raise_if_stopped()
    vm = session.client.vm(vm_id)
    name = session.object_name(vm.name)
    entry = session.journal.intend("recovery-point", name, vm.id)
    _require_first(session, vm, entry)
    recovery_point_id = session.client.create_recovery_point(
        name=name,
        vm_ids=[vm.id],
        # From the entry and not from now: a resent request must be the same request.
        expires_at=entry.created_at + timedelta(days=session.job.reference_expiry_days),
        consistency=session.job.consistency,
        request_id=entry.request_id,
    )
    entry = session.journal.created(entry, recovery_point_id)
    return _read_back(session, vm, entry)


def _read_back(session: BackupSession, vm: Vm, entry: Entry) -> Snapshot:
    client = session.client
    point = client.recovery_point(str(entry.object_id))
    vm_point_id = point.vm_recovery_points[0].id
    captured, warnings = _captured(session, vm, vm_point_id)
    held = {disk.disk_id: disk.ref for disk in client.disk_recovery_points(point.id, vm_point_id)}
    missing = [disk.label for disk in captured.data_disks if disk.id not in held]
    if missing:
        raise SnapshotIncomplete(vm.name, missing)
    return Snapshot(
        vm_id=vm.id,
        vm_name=captured.name,
        cluster_id=vm.cluster_id or "",
        host_id=vm.host_id,
        recovery_point_id=point.id,
        created_at=point.created_at,
        consistency=point.consistency,
        disks=tuple(
            DiskSnapshot(
                disk_id=disk.id,
                label=disk.label,
                size_bytes=disk.size_bytes,
                recovery_point=held[disk.id],
            )
            for disk in captured.data_disks
        ),
        vm_config=captured.config,
        warnings=(*warnings, *_told_honestly(captured, point.consistency, session.job.consistency)),
        entry=entry,
    )


def _captured(session: BackupSession, vm: Vm, vm_recovery_point_id: str) -> tuple[Vm, list[str]]:
    """The VM's configuration at the snapshot; the live one, with a warning, on an old cluster."""
    try:
        return session.client.captured_vm(vm_recovery_point_id), []
    except FeatureMissing as error:
        return vm, [f"the configuration stored is the one just before the snapshot: {error}"]


def _told_honestly(captured: Vm, got: str, wanted: str) -> Iterator[str]:
    """What the restore point will lack; nothing is left out or downgraded in silence (N1, N3)."""
    if wanted == "application" and got != wanted:
        yield "the snapshot is crash-consistent; application consistency was not reached"
    for volume_group_id in captured.volume_group_ids:
        yield f"volume group {volume_group_id} is attached to the VM and is not in the restore point"


def _require_first(session: BackupSession, vm: Vm, entry: Entry) -> None:
    """Of several sessions that want the same VM at once, the one whose intent is oldest goes on (S11)."""
    state = read_journal(session.repository.live, session.clock)
    for other in state.of_others("recovery-point", vm.id, but=session.session_id):
        if (other.created_at, other.key) < (entry.created_at, entry.key):
            session.journal.forget(entry)
            raise VmBusy(vm.name, other.session_id)


def abandon_snapshot(session: BackupSession, snapshot: Snapshot) -> None:
    """Delete a recovery point that no commit record names (N6); quiet when it is gone already.

    The commit of a VM that failed may have been carried out all the same: then the recovery point
    is the reference of a restore point that exists, and stays. Raises `RepositoryError` when that
    cannot be found out; nothing is deleted then.
    """
    if snapshot.recovery_point_id not in committed_sources(session.repository):
        session.client.delete_recovery_point(snapshot.recovery_point_id)
    session.journal.forget(snapshot.entry)


def find_reference(
    session: BackupSession, vm_id: str, *, before: datetime | None = None
) -> Reference:
    """The newest restore point of this VM in this job, and whether its recovery point still stands.

    A reference is one recovery point per VM and job (N4), named by the commit record itself (N8).
    Only points older than `before` count: changed regions against a later one mean nothing.
    """
    listing = session.repository.points(vm_id)
    points = [
        point
        for point in listing.points
        if point.job == session.job.name and (before is None or point.created_at < before)
    ]
    damaged = len(listing.damaged)
    if not points:
        return Reference(None, None, damaged)
    newest = points[-1]
    recovery_point_id = newest.source.get("recovery_point_id")
    if recovery_point_id is None:
        return Reference(newest, None, damaged)
    try:
        session.client.recovery_point(recovery_point_id)
    except NotFound:
        log.warning("%s: recovery point %s is gone", newest.vm_name, recovery_point_id)
        return Reference(newest, None, damaged)
    return Reference(newest, recovery_point_id, damaged)


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
