"""From an attached disk into the repository: what to read, the transfer, the commit (S6-S8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from jobs.audit import (
    FULLY_READ_AT,
    READ_CAUSE,
    fully_read_at,
    is_full_read_due,
    not_zero,
    outside,
    sample_unchanged,
    sample_zeros,
)
from jobs.extents import (
    DiskPlan,
    ReadCause,
    ReadMethod,
    plan_allocated,
    plan_disk,
    read_all,
    with_more_read,
)
from jobs.references import Reference
from jobs.session import BackupSession
from jobs.snapshots import DiskSnapshot, Snapshot
from jobs.stops import TransferStop
from jobs.story import VmStory
from jobs.throttle import ThrottleEngine
from jobs.volumes import Attachment, DiskGroup, make_group
from nutanix import AhvClient, DiskFromRecoveryPoint, DiskRecoveryPointRef, OpenDisk
from repository import (
    Clock,
    DamagedObject,
    DiskRecord,
    DiskSpec,
    Extent,
    PointDraft,
    Repository,
    RepositoryError,
    RestorePoint,
    Throttle,
    TransferCounters,
    WriteSession,
)


def plan_reads(session: BackupSession, snapshot: Snapshot, reference: Reference) -> list[DiskPlan]:
    """Decide per disk what to read and why, in the order of the snapshot's disks (B1-B7)."""
    return [_plan_read(session, snapshot, disk, reference) for disk in snapshot.disks]


def _plan_read(
    session: BackupSession, snapshot: Snapshot, disk: DiskSnapshot, reference: Reference
) -> DiskPlan:
    session.raise_if_stopped()
    base = reference.base(disk.disk_id)
    against = reference.of_disk(disk.disk_id)
    earlier = against if isinstance(against, DiskRecoveryPointRef) else None
    ask = partial(session.client.changed_regions, disk.recovery_point)
    plan = plan_disk(
        size_bytes=disk.size_bytes,
        base_size_bytes=base.size_bytes if base else None,
        no_reference=against if isinstance(against, ReadCause) else None,
        changed=lambda: ask(earlier),
        allocated=lambda: ask(None),
    )
    if base is None or plan.method is not ReadMethod.CHANGED:
        return plan
    if is_full_read_due(base, snapshot.created_at, session.job.full_read_days):
        audit = ReadCause.AUDIT_DUE
        full = plan_allocated(disk.size_bytes, audit, audit.text, lambda: ask(None))
        return replace(full, claimed=plan.extents)
    return _with_damage_read_again(session, base, plan)


def _with_damage_read_again(session: BackupSession, base: DiskRecord, plan: DiskPlan) -> DiskPlan:
    """What the new restore point would inherit from packs known to be bad is read instead (H4)."""
    try:
        lost = session.writer.unreliable_extents(base)
    except DamagedObject:
        return plan  # The transfer meets the same and does without the base.
    if not lost:
        return plan
    count = sum(-(-extent.length_bytes // base.chunk_size_bytes) for extent in lost)
    reason = f"{plan.reason}, and {count} chunks whose stored copies are known to be damaged"
    return replace(plan, reason=reason, extents=with_more_read(plan.extents, lost))


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


class TransferRun(Protocol):
    """What the transfer of a disk needs of its run: the session, or a mover's part of one."""

    @property
    def session_id(self) -> str: ...
    @property
    def job_name(self) -> str: ...
    @property
    def client(self) -> AhvClient: ...
    @property
    def repository(self) -> Repository: ...
    @property
    def writer(self) -> WriteSession: ...
    @property
    def throttle(self) -> ThrottleEngine: ...
    @property
    def clock(self) -> Clock: ...


def transfer_disk(
    session: TransferRun,
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
            throttle = session.throttle.transfer(
                direction="write",
                purpose="backup",
                job=session.job_name,
                worker=attachment.choice.worker.name,
                stop=attachment.stop,
            )
            return _Transfer(session, story, disk, base, source, throttle, attachment.stop).run(
                plan
            )
    finally:
        story.disk_finished(disk.disk_id)


@dataclass(frozen=True, slots=True)
class _Transfer:
    """One disk on its way, with whatever distrust comes up while it is read."""

    session: TransferRun
    story: VmStory
    disk: DiskSnapshot
    base: DiskRecord | None
    source: OpenDisk
    throttle: Throttle
    stop: TransferStop

    def run(self, plan: DiskPlan) -> DiskRecord:
        try:
            if plan.claimed is not None:
                return self._audited(plan, plan.claimed)
            return self._write(self._confirmed(plan))
        except DamagedObject as error:
            if self.base is None:
                raise
            return self._without_base(error)

    def _write(self, plan: DiskPlan) -> DiskRecord:
        disk, counters = self.disk, self._counters(plan)
        return self.session.writer.write_disk(
            DiskSpec(disk_id=disk.disk_id, size_bytes=disk.size_bytes, label=disk.label),
            self.source,
            plan.extents,
            self.base,
            counters=counters,
            throttle=self.throttle,
            stop=self.stop,
            read_method=plan.method,
            read_reason=plan.reason,
            source_facts=self._facts(plan),
        )

    def _facts(self, plan: DiskPlan) -> dict[str, object]:
        """What the record keeps beside the data: the reference of the next run, the cause (B7)."""
        last = fully_read_at(self.base)
        if plan.method is not ReadMethod.CHANGED:
            last = self.session.clock.now()
        return {
            "recovery_point": self.disk.recovery_point.model_dump(mode="json"),
            READ_CAUSE: plan.cause,
            FULLY_READ_AT: last.isoformat() if last else None,
        }

    def _confirmed(self, plan: DiskPlan) -> DiskPlan:
        """The plan, if samples confirm its change list; else one that reads the whole disk."""
        if plan.method is not ReadMethod.CHANGED or self.base is None:
            return plan
        common_bytes = min(self.disk.size_bytes, self.base.size_bytes)
        samples = sample_unchanged(
            common_bytes, self.base.chunk_size_bytes, plan.extents, seed=self.session.session_id
        )
        wrong = self.session.repository.differing_extents(self.base, self.source, samples)
        if wrong:
            return self._alarm(wrong, f"{len(wrong)} of {len(samples)} sampled chunks")
        return replace(plan, reason=f"{plan.reason}; {len(samples)} unchanged chunks confirmed")

    def _audited(self, plan: DiskPlan, claimed: Sequence[Extent]) -> DiskRecord:
        """Read everything allocated, then hold what differs from the base against the change list."""
        if self.base is None:
            return self._write(plan)
        chunk_bytes = self.base.chunk_size_bytes
        samples = sample_zeros(plan.extents, chunk_bytes, seed=self.session.session_id)
        hidden = not_zero(self.source, samples)
        if hidden:
            what = f"{len(hidden)} of {len(samples)} sampled chunks that it called zeros hold data"
            return self._write(self._alarm(hidden, what, is_whole=True))
        record = self._write(plan)
        differing = self.session.repository.changed_extents(self.base, record)
        wrong = outside(differing, claimed, chunk_bytes)
        if wrong:
            count = sum(extent.length_bytes for extent in wrong) // chunk_bytes
            return self._write(self._alarm(wrong, f"{count} chunks"))
        read = record.figures.read_bytes // chunk_bytes
        reason = f"{plan.reason}; {read} chunks read, and none had changed that it called unchanged"
        return record.model_copy(update={"read_reason": reason})

    def _alarm(self, wrong: Sequence[Extent], what: str, *, is_whole: bool = False) -> DiskPlan:
        """The cluster was wrong about this disk: nothing that it says of it is believed in this run."""
        cause = ReadCause.TRACKING_WRONG
        told = what if is_whole else f"{what} that it called unchanged have changed"
        reason = f"{cause.text}: {told}, the first at byte {wrong[0].start_bytes}"
        self.story.warn(f"{self.disk.label}: {reason}; the whole disk is read")
        return read_all(self.disk.size_bytes, cause, reason)

    def _without_base(self, damage: RepositoryError) -> DiskRecord:
        """Begin the disk anew; chunks that can be relied on are still known by their digests."""
        cause = ReadCause.BASE_DAMAGED
        reason = f"{cause.text}: {damage}"
        self.story.warn(f"{self.disk.label}: {reason}; everything allocated is read")
        plan = plan_allocated(
            self.disk.size_bytes,
            cause,
            reason,
            lambda: self.session.client.changed_regions(self.disk.recovery_point, None),
        )
        return replace(self, base=None)._write(plan)  # noqa: SLF001 - the same transfer, without its base

    def _counters(self, plan: DiskPlan) -> TransferCounters:
        return self.story.disk_started(self.disk.disk_id, self.disk.label, plan.to_read_bytes)


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
