"""Steps on the cluster's side of one VM: snapshot and reference."""

from __future__ import annotations

import logging

import jobs
from jobs import Reference, Snapshot
from nutanix import NutanixError
from repository import RepositoryError
from tasks.context import current_backup, current_story
from tasks.policy import step

log = logging.getLogger(__name__)


@step("take-snapshot")
def take_snapshot(vm_id: str) -> Snapshot:
    """Take the VM's recovery point and read back what it holds."""
    story = current_story()
    snapshot = jobs.take_snapshot(current_backup(), vm_id)
    story.consistency = snapshot.consistency
    for warning in snapshot.warnings:
        story.warn(warning)
    story.lacks = snapshot.lacks
    for text in snapshot.lacks:
        if text not in snapshot.warnings:
            story.step(text)
    story.step(f"snapshot taken: {len(snapshot.disks)} disk(s), {snapshot.consistency}-consistent")
    return snapshot


@step("find-reference")
def find_reference(snapshot: Snapshot) -> Reference:
    """The VM's newest restore point in this job, and whether its recovery point still stands."""
    story = current_story()
    reference = jobs.find_reference(current_backup(), snapshot)
    if reference.damaged_count:
        story.warn(
            f"{reference.damaged_count} commit records cannot be read; building on the newest that can"
        )
    for warning in reference.warnings:
        story.warn(warning)
    story.kind = "full" if reference.point is None else "incremental"
    return reference


@step("abandon-snapshot")
def abandon_snapshot(snapshot: Snapshot) -> None:
    """Delete the recovery point of a VM that failed, and keep the old reference (N6)."""
    try:
        jobs.abandon_snapshot(current_backup(), snapshot)
    except (NutanixError, RepositoryError) as error:
        log.warning("The recovery point of %s is left to the next run: %s", snapshot.vm_name, error)


@step("settle-snapshot")
def settle_snapshot(snapshot: Snapshot, reference: Reference) -> None:
    """The new recovery point becomes the reference, and the old one goes (S8, N4)."""
    try:
        jobs.settle_snapshot(current_backup(), snapshot, reference)
    except (NutanixError, RepositoryError) as error:
        current_story().warn(f"the old reference is left to the next run: {error}")
