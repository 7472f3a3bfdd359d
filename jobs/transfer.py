"""From an attached disk into the repository: what to read, the transfer, the commit (S6-S8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jobs.audit import sample_unchanged
from jobs.extents import DiskPlan, NoReference, ReadMethod, plan_disk, read_all
from jobs.session import BackupSession
from jobs.snapshots import DiskSnapshot, Reference, Snapshot
from jobs.story import VmStory
from jobs.volumes import Attachment, DiskGroup, make_group
from nutanix import AttachedDisk, DiskFromRecoveryPoint
from repository import DamagedObject, DiskRecord, DiskSpec, PointDraft, RestorePoint


def plan_reads(session: BackupSession, snapshot: Snapshot, reference: Reference) -> list[DiskPlan]:
    """Decide per disk what to read and why, in the order of the snapshot's disks (B1-B7)."""
    return [_plan_read(session, disk, reference) for disk in snapshot.disks]


def _plan_read(session: BackupSession, disk: DiskSnapshot, reference: Reference) -> DiskPlan:
    session.raise_if_stopped()
    base = reference.base(disk.disk_id)
    earlier = reference.of_disk(disk.disk_id)
    no_reference = earlier if isinstance(earlier, NoReference) else None
    against = None if isinstance(earlier, NoReference) else earlier
    return plan_disk(
        size_bytes=disk.size_bytes,
        base_size_bytes=base.size_bytes if base else None,
        no_reference=no_reference,
        changed=lambda: session.client.changed_regions(disk.recovery_point, against),
        allocated=lambda: session.client.changed_regions(disk.recovery_point, None),
    )


def group_snapshot(session: BackupSession, snapshot: Snapshot) -> DiskGroup:
    """A volume group with clones of the snapshot's disks, for a worker to read."""
    return make_group(
        session,
        name=session.object_name(snapshot.vm_name),
        purpose=f"back up {snapshot.vm_name}",
        vm_id=snapshot.vm_id,
        cluster_id=snapshot.cluster_id,
        host_id=snapshot.host_id,
        sources=[
            DiskFromRecoveryPoint(index, disk.recovery_point.disk_recovery_point_id)
            for index, disk in enumerate(snapshot.disks)
        ],
        sizes_bytes=[disk.size_bytes for disk in snapshot.disks],
    )


def transfer_disk(
    session: BackupSession,
    story: VmStory,
    *,
    disk: DiskSnapshot,
    index: int,
    plan: DiskPlan,
    base: DiskRecord | None,
    attachment: Attachment,
) -> DiskRecord:
    """Move one disk into the repository. Idempotent: a second call finds what the first one stored.

    Raises `DiskError` when the attached disk fails, `RepositoryError` when the store does, and
    `Stopped` once the run is to stop or the worker is lost.
    """
    try:
        with attachment.open_disk(index) as source:
            try:
                plan = _confirmed(session, story, disk, plan, base, source)
                return _write(session, story, disk, plan, base, source, attachment)
            except DamagedObject as error:
                if base is None:
                    raise
                reason = f"the last restore point cannot be built on: {error}"
                story.warn(f"{disk.label}: {reason}; the whole disk is read")
                plan = read_all(disk.size_bytes, reason)
                return _write(session, story, disk, plan, None, source, attachment)
    finally:
        story.disk_finished(disk.disk_id)


def _write(
    session: BackupSession,
    story: VmStory,
    disk: DiskSnapshot,
    plan: DiskPlan,
    base: DiskRecord | None,
    source: AttachedDisk,
    attachment: Attachment,
) -> DiskRecord:
    return session.writer.write_disk(
        DiskSpec(disk_id=disk.disk_id, size_bytes=disk.size_bytes, label=disk.label),
        source,
        plan.extents,
        base,
        counters=story.disk_started(disk.disk_id, disk.label, plan.to_read_bytes),
        stop=attachment.stop,
        read_method=plan.method,
        read_reason=plan.reason,
        source_facts={"recovery_point": disk.recovery_point.model_dump(mode="json")},
    )


def _confirmed(
    session: BackupSession,
    story: VmStory,
    disk: DiskSnapshot,
    plan: DiskPlan,
    base: DiskRecord | None,
    source: AttachedDisk,
) -> DiskPlan:
    """The plan, if samples confirm its change list; else one that reads the whole disk, and an alarm."""
    if plan.method is not ReadMethod.CHANGED or base is None:
        return plan
    common_bytes = min(disk.size_bytes, base.size_bytes)
    samples = sample_unchanged(
        common_bytes, base.chunk_size_bytes, plan.extents, seed=session.session_id
    )
    wrong = session.repository.differing_extents(base, source, samples)
    if not wrong:
        return replace(plan, reason=f"{plan.reason}; {len(samples)} unchanged chunks confirmed")
    reason = (
        f"the cluster's change list was wrong: {len(wrong)} of {len(samples)} sampled chunks that it "
        f"called unchanged have changed, the first at byte {wrong[0].start_bytes}"
    )
    story.warn(f"{disk.label}: {reason}; the whole disk is read")
    return read_all(disk.size_bytes, reason)


def commit_point(
    session: BackupSession, snapshot: Snapshot, reference: Reference, records: Sequence[DiskRecord]
) -> RestorePoint:
    """Make the restore point exist. It names the recovery point it came from (N8)."""
    session.raise_if_stopped()
    return session.writer.commit(
        PointDraft(
            vm_id=snapshot.vm_id,
            vm_name=snapshot.vm_name,
            job=session.job.name,
            session_id=session.session_id,
            session_started_at=session.started_at,
            created_at=snapshot.created_at,
            consistency=snapshot.consistency,
            disks=tuple(records),
            vm_config=snapshot.vm_config,
            source=snapshot.source(),
            previous_point_id=reference.point.id if reference.point else None,
        )
    )
