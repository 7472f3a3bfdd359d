"""Steps of a restore."""

from __future__ import annotations

import jobs
from jobs import Attachment, RestoreTarget
from repository import DiskRecord, RestorePoint
from tasks.context import current_session, current_story
from tasks.gather import finish_all, quoted
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


@step("attach-blank-disks")
def attach_blank_disks(point: RestorePoint, target: RestoreTarget) -> Attachment | None:
    """Create blank disks and attach them to a worker."""
    story = current_story()
    attachment = jobs.attach_blank_disks(current_session(), point, target)
    if attachment is not None:
        choice = attachment.choice
        story.worker, story.worker_reason = choice.worker.name, choice.reason
        story.step(f"blank disks attached to worker {choice.worker.name}: {choice.reason}")
    return attachment


@step("restore-disk", run_name="restore-{label}")
def restore_disk(
    label: str,  # noqa: ARG001 - names the task run
    index: int,
    disk: DiskRecord,
    point: RestorePoint,
    attachment: Attachment,
) -> None:
    """Fill one blank disk from the repository."""
    jobs.restore_disk(
        current_session(),
        current_story(),
        point=point,
        disk=disk,
        index=index,
        attachment=attachment,
    )


def restore_disks(point: RestorePoint, attachment: Attachment | None) -> None:
    """Fill all disks at once; waits for every one, then raises the first failure."""
    if attachment is None:
        return
    with current_story().transferring():
        futures = [
            restore_disk.submit(disk.label, index, quoted(disk), quoted(point), quoted(attachment))
            for index, disk in enumerate(point.disks)
        ]
        finish_all(futures)


@step("create-vm")
def create_restored_vm(
    point: RestorePoint, target: RestoreTarget, attachment: Attachment | None
) -> str:
    """Create the VM from the filled disks; returns its id."""
    vm_id, warnings = jobs.create_restored_vm(current_session(), point, target, attachment)
    for warning in warnings:
        current_story().warn(warning)
    current_story().step(f"VM {target.vm_name} created")
    return vm_id


@step("power-on-vm")
def power_on_vm(vm_id: str) -> None:
    """Power on the restored VM."""
    current_session().client.power_on(vm_id)
