"""Steps of a restore."""

from __future__ import annotations

import jobs
from jobs import Attachment, DiskGroup, RestoreTarget
from repository import DiskRecord, RestorePoint
from tasks.context import current_session, current_story
from tasks.gather import finish_all, quoted
from tasks.movers import restore_by_mover
from tasks.policy import step


@step("choose-target")
def choose_target(point: RestorePoint, vm_name: str, container: str | None) -> RestoreTarget:
    """Decide and check where the VM goes, before anything is created."""
    target = jobs.choose_target(
        current_session().client, point, vm_name=vm_name, container=container
    )
    for warning in target.warnings:
        current_story().warn(warning)
    return target


@step("restore-disk", run_name="restore-{label}")
def restore_disk(
    label: str,  # noqa: ARG001 - names the task run
    index: int,
    disk: DiskRecord,
    point: RestorePoint,
    attachment: Attachment,
    allow_damaged: bool,
) -> None:
    """Fill one blank disk from the repository."""
    jobs.restore_disk(
        current_session(),
        current_story(),
        point=point,
        disk=disk,
        index=index,
        attachment=attachment,
        allow_damaged=allow_damaged,
        is_untouched=not current_story().move_count,
    )


def restore_disks(
    point: RestorePoint, attachment: Attachment, filled: set[int], *, allow_damaged: bool
) -> None:
    """Fill all disks at once that are not in `filled` yet; adds each, by place, as it is done.

    Waits for every one, then raises the first failure. A worker with a queue fills them itself.
    """
    if attachment.choice.worker.queue is not None:
        restore_by_mover(point, attachment, filled, allow_damaged=allow_damaged)
        return
    with current_story().transferring():
        futures = {
            index: restore_disk.submit(
                disk.label, index, quoted(disk), quoted(point), quoted(attachment), allow_damaged
            )
            for index, disk in enumerate(point.disks)
            if index not in filled
        }
        finish_all(futures, lambda index, _: filled.add(index))


@step("create-vm")
def create_restored_vm(point: RestorePoint, target: RestoreTarget, group: DiskGroup | None) -> str:
    """Create the VM from the filled disks; returns its id."""
    vm_id, warnings = jobs.create_restored_vm(current_session(), point, target, group)
    for warning in warnings:
        current_story().warn(warning)
    current_story().step(f"VM {target.vm_name} created")
    return vm_id


@step("power-on-vm")
def power_on_vm(vm_id: str) -> None:
    """Power on the restored VM."""
    current_session().client.power_on(vm_id)
