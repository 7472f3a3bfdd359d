"""Steps that move a VM's data: what to read, the transfer of each disk, the commit."""

from __future__ import annotations

from collections.abc import Sequence

import jobs
from jobs import Attachment, DiskPlan, DiskSnapshot, Reference, Snapshot
from repository import DiskRecord, RestorePoint
from tasks.context import current_backup, current_story
from tasks.gather import finish_all, quoted
from tasks.movers import transfer_by_mover
from tasks.policy import step


@step("plan-reads")
def plan_reads(snapshot: Snapshot, reference: Reference) -> list[DiskPlan]:
    """Ask the cluster, per disk, what changed, else what is allocated, else read all (B1-B7)."""
    story = current_story()
    plans = jobs.plan_reads(current_backup(), snapshot, reference)
    for disk, plan in zip(snapshot.disks, plans, strict=True):
        size = jobs.human_bytes(plan.to_read_bytes)
        tell = story.warn if plan.is_downgrade else story.step
        tell(f"{disk.label}: read {size} ({plan.method}: {plan.reason})")
    return plans


@step("transfer-disk", run_name="transfer-{label}")
def transfer_disk(
    label: str,  # noqa: ARG001 - names the task run
    index: int,
    disk: DiskSnapshot,
    plan: DiskPlan,
    base: DiskRecord | None,
    attachment: Attachment,
) -> DiskRecord:
    """Move one disk into the repository. A retry finds what the failed try had stored."""
    return jobs.transfer_disk(
        current_backup(),
        current_story(),
        disk=disk,
        index=index,
        plan=plan,
        base=base,
        attachment=attachment,
    )


def transfer_disks(
    snapshot: Snapshot,
    reference: Reference,
    plans: Sequence[DiskPlan],
    attachment: Attachment,
    records: dict[int, DiskRecord],
) -> None:
    """Transfer all disks at once that `records` does not have yet; adds each, by place, as it is done.

    Waits for every one, then raises the first failure. Plans are quoted: Prefect would otherwise
    walk every extent of them in search of futures. A worker with a queue moves the disks itself.
    """
    if attachment.choice.worker.queue is not None:
        transfer_by_mover(snapshot, reference, plans, attachment, records)
        return
    with current_story().transferring():
        futures = {
            index: transfer_disk.submit(
                disk.label,
                index,
                disk,
                quoted(plan),
                quoted(reference.base(disk.disk_id)),
                quoted(attachment),
            )
            for index, (disk, plan) in enumerate(zip(snapshot.disks, plans, strict=True))
            if index not in records
        }
        finish_all(futures, records.__setitem__)


@step("commit-point")
def commit_point(
    snapshot: Snapshot, reference: Reference, records: list[DiskRecord]
) -> RestorePoint:
    """Make the restore point exist: one object, read back before success is reported."""
    story = current_story()
    point = jobs.commit_point(current_backup(), snapshot, reference, records)
    story.committed(point)
    story.step(f"restore point {point.id} committed")
    return point
