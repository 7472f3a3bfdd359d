"""A VM's disks on their way through a worker, and through the next one when that fails (W2, S5, S6).

The one place that attaches, transfers and detaches: `move_disks` for a backup, `filled_disks` for a
restore. The volume group stays the same from worker to worker; what one of them had stored is not
stored again. How the disks of an attachment are moved is one function each, `transfer_disks` and
`restore_disks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import jobs
from jobs import (
    Attachment,
    DiskGroup,
    DiskPlan,
    NoWorker,
    Reference,
    RestoreTarget,
    Snapshot,
    WorkersTried,
)
from nutanix import NutanixError
from repository import DiskRecord, RestorePoint
from tasks.context import current_backup, current_session, current_story
from tasks.disks import transfer_disks
from tasks.gather import quoted
from tasks.policy import step
from tasks.restore import restore_disks


def move_disks(
    snapshot: Snapshot, reference: Reference, plans: Sequence[DiskPlan]
) -> list[DiskRecord]:
    """Bring the snapshot's disks into the repository, by as many workers as it takes.

    Raises `NoWorker`, with the reason for each, when none is left; the store's errors and a stop
    end it at once. Nothing stays on the cluster, or it stays in the journal.
    """
    if not snapshot.disks:
        return []
    records: dict[int, DiskRecord] = {}
    with _removed_after(group_snapshot(snapshot)) as group:
        _on_workers(
            group,
            lambda attachment: transfer_disks(snapshot, reference, plans, attachment, records),
        )
    return [record for _, record in sorted(records.items())]


@contextmanager
def filled_disks(
    point: RestorePoint, target: RestoreTarget, *, allow_damaged: bool
) -> Iterator[DiskGroup | None]:
    """Blank disks, filled from the restore point; they exist inside the block, `None` for no disks.

    Where damage is allowed, what cannot be read stays zeros. Raises as `move_disks`.
    """
    if not point.disks:
        yield None
        return
    filled: set[int] = set()
    with _removed_after(group_blank_disks(point, target)) as group:
        _on_workers(
            group,
            lambda attachment: restore_disks(
                point, attachment, filled, allow_damaged=allow_damaged
            ),
        )
        yield group


def _on_workers(group: DiskGroup, move: Callable[[Attachment], None]) -> None:
    """Run `move` on the best worker; when that worker fails, on the next best, until none is left."""
    tried = WorkersTried()
    while not _moved(_attach_next(group, tried), tried, move):
        pass


def _attach_next(group: DiskGroup, tried: WorkersTried) -> Attachment:
    """Attached to the best worker that is left; the last `NoWorker` is raised as it is."""
    while True:
        try:
            return attach_disks(quoted(group), quoted(tried.failed))
        except NoWorker:
            again = tried.allow_second_chance()
            if not again:
                raise
            current_story().step(f"no other worker is left; trying {', '.join(again)} once more")


def _moved(attachment: Attachment, tried: WorkersTried, move: Callable[[Attachment], None]) -> bool:
    """Whether all disks were moved; False when the worker failed and the group is free again."""
    story, name = current_story(), attachment.choice.worker.name
    try:
        move(attachment)
    except Exception as error:
        why = jobs.worker_failure(error, attachment)
        if why is None or current_session().stop.is_set():
            _let_go(attachment)
            raise
        tried.failed_in_transfer(name, why)
        story.warn(f"worker {name} failed and is left out for this VM: {why}")
        detach_disks(quoted(attachment))  # Not sure to be detached: not safe on another worker.
        return False
    except BaseException:
        _let_go(attachment)
        raise
    _let_go(attachment)
    return True


def _let_go(attachment: Attachment) -> None:
    """Detach where nobody else needs the group: what goes wrong is left to its removal."""
    try:
        detach_disks(quoted(attachment))
    except NutanixError as error:
        current_story().warn(
            f"the disks could not be detached from worker {attachment.choice.worker.name}: {error}"
        )


@contextmanager
def _removed_after(group: DiskGroup) -> Iterator[DiskGroup]:
    try:
        yield group
    finally:
        remove_group(quoted(group))


@step("group-disks")
def group_snapshot(snapshot: Snapshot) -> DiskGroup:
    """Make the volume group with clones of the snapshot's disks."""
    return jobs.group_snapshot(current_backup(), snapshot)


@step("group-blank-disks")
def group_blank_disks(point: RestorePoint, target: RestoreTarget) -> DiskGroup:
    """Make the volume group with blank disks for a restore."""
    return jobs.group_blank_disks(current_session(), point, target)


@step("attach-disks")
def attach_disks(group: DiskGroup, failed: dict[str, str]) -> Attachment:
    """Bring the disks to a worker: same host, else same cluster, else any (W1, W2)."""
    story = current_story()
    attachment = jobs.attach(current_session(), group, failed, tell=story.step)
    choice = attachment.choice
    story.worker, story.worker_reason = choice.worker.name, choice.reason
    story.step(f"disks attached to worker {choice.worker.name}: {choice.reason}")
    if choice.warning:
        story.warn(choice.warning)
    return attachment


@step("detach-disks")
def detach_disks(attachment: Attachment) -> None:
    """Take the disks away from the worker and free its slot."""
    jobs.detach(current_session(), attachment)


@step("remove-group")
def remove_group(group: DiskGroup) -> None:
    """Delete the volume group. What stays behind is a warning, never a failed backup."""
    left = jobs.remove_group(current_session(), group)
    if left:
        current_story().warn(left)
