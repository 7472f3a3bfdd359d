"""Trying a worker out as a session would use it (W11): power, self-test, and a disk there and back."""

from __future__ import annotations

import os

from pydantic import BaseModel, ConfigDict

from jobs.errors import NoWorker
from jobs.session import Session
from jobs.volumes import Attachment, attach, detach, make_group, remove_group
from nutanix import BlankDisk, DiskIoError, NutanixError

TRIAL_JOB = "workers test"
DISK_BYTES = 1 << 20


class TrialStep(BaseModel):
    """One thing that was tried; `error` is `None` when it worked."""

    model_config = ConfigDict(frozen=True)

    what: str
    error: str | None = None


def try_worker(run: Session) -> list[TrialStep]:
    """Use the run's one worker as a session does; ends at the first thing that does not work.

    The run powers it on, and off again at its end if it was off. A worker with a queue is tried as
    far as its Prefect worker; what moves its disks is on that VM.
    """
    steps: list[TrialStep] = []
    for what, attempt in (("power on and self-test", _prepare), ("a disk there and back", _move)):
        try:
            attempt(run)
        except (NutanixError, NoWorker) as error:
            return [*steps, TrialStep(what=what, error=_reason(error))]
        steps.append(TrialStep(what=what))
    return steps


def _reason(error: NutanixError | NoWorker) -> str:
    """One worker was asked for, so its own reason is the whole story."""
    if isinstance(error, NoWorker) and len(error.reasons) == 1:
        return next(iter(error.reasons.values()))
    return str(error)


def _prepare(run: Session) -> None:
    run.workers.ignore_drains()
    run.workers.prepare()


def _move(run: Session) -> None:
    """A blank disk, attached, written, read back, and gone again."""
    cluster = run.client.clusters()[0]
    container = next(
        each
        for each in run.client.storage_containers()
        if each.cluster_id in (None, cluster.id) and not each.is_internal
    )
    group = make_group(
        run,
        name=run.object_name("test"),
        purpose="move a test disk",
        vm_id="worker-test",
        cluster_id=cluster.id,
        host_id=None,
        sources=[BlankDisk(index=0, size_bytes=DISK_BYTES, storage_container_id=container.id)],
        sizes_bytes=[DISK_BYTES],
        is_urgent=True,  # Tried also while all its slots are taken.
    )
    try:
        attachment = attach(run, group, {})
        try:
            if attachment.choice.worker.queue is None:
                _write_and_read(attachment)
        finally:
            detach(run, attachment)
    finally:
        remove_group(run, group)


def _write_and_read(attachment: Attachment) -> None:
    wanted, found = os.urandom(DISK_BYTES), bytearray(DISK_BYTES)
    with attachment.open_disk(0, writable=True) as disk:
        disk.write_at(0, wanted)
        disk.flush()
        disk.read_into(0, memoryview(found))
    if found != wanted:
        raise DiskIoError("read back", "0", "the test disk", 0, "other bytes came back")
