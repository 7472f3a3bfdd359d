"""What the repository remembers of every job: its last definition, and the VMs that it takes.

Whoever asks how well protected a VM is must know what was meant to be protected, also when the
session that should have done it was killed, never started, or failed before its first VM. So every
session writes its job's record as soon as it knows its VMs; `ahvault serve` does for jobs that have
not run yet. Retention finds there the last known policy of a job that was deleted (D3).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from jobs.model import BackupJob
from jobs.scope import VmTarget
from repository import Clock, LiveRecords, RepositoryError, RetentionPolicy

log = logging.getLogger(__name__)

JOBS = "jobs"


class KnownVm(BaseModel):
    """A VM that the job's last session took."""

    model_config = ConfigDict(frozen=True)

    name: str
    since: datetime
    """When a session of the job took it for the first time."""


class KnownJob(BaseModel):
    """The record of one job. Replaced whole; of two writers at once the later one wins."""

    model_config = ConfigDict(frozen=True)

    name: str
    definition: dict[str, Any]
    """The job's fields as last seen. Plain data: an older ahvault must be able to read a newer job."""
    since: datetime
    """When the job was first seen."""
    vms: dict[str, KnownVm] = {}
    """By VM id, as of the last session that got as far as choosing them."""
    chosen_at: datetime | None = None
    """When that was."""
    narrower_scope: dict[str, Any] | None = None
    """The scope of the last session, where that took fewer VMs and is not believed yet."""
    retired_at: datetime | None = None
    """When an operator said that the job is not to run any more; its next session takes that back."""

    @property
    def rpo_hours(self) -> float | None:
        """How old the newest good restore point of a VM may get; None when nobody said."""
        value = self.definition.get("rpo_hours")
        return float(value) if value is not None else None

    @property
    def retention(self) -> RetentionPolicy | None:
        """The job's policy; None when the job had none, or it cannot be understood any more."""
        value = self.definition.get("retention")
        try:
            return None if value is None else RetentionPolicy.model_validate(value)
        except ValidationError as error:
            log.warning("The retention of job %s cannot be read: %s", self.name, error)
            return None


def known_jobs(records: LiveRecords) -> dict[str, KnownJob]:
    """Every job that the repository knows, by name. One that cannot be read is told and left out."""
    listing = records.list(JOBS)
    for damaged in listing.damaged:
        log.warning("%s cannot be read: %s", damaged.key, damaged.detail)
    jobs = {}
    for record in listing.records.values():
        try:
            job = KnownJob.model_validate(record)
        except ValidationError as error:
            log.warning("A record of a job cannot be read: %s", error)
            continue
        jobs[job.name] = job
    return jobs


def remember_job(
    records: LiveRecords, job: BackupJob, *, vms: Sequence[VmTarget] | None, clock: Clock
) -> None:
    """Keep the job's definition and, if given, the VMs it takes now.

    A session by hand over a few of the job's VMs must not hide the others: a scope that is new and
    takes fewer VMs is believed when a second session in a row has it. Never raises `RepositoryError`: a record about backups is no reason not to make one.
    """
    try:
        old = _read(records, job.name)
        now = clock.now()
        if old is not None and vms is not None and _is_by_hand(old, job, vms):
            scope = job.scope.model_dump(mode="json")
            waiting = old.model_copy(update={"narrower_scope": scope})
            records.put(JOBS, job.name, waiting.model_dump(mode="json"))
            return
        known: Mapping[str, KnownVm] = old.vms if old else {}
        if vms is not None:
            known = {
                vm.vm_id: KnownVm(
                    name=vm.vm_name,
                    since=known[vm.vm_id].since if vm.vm_id in known else now,
                )
                for vm in vms
            }
        record = KnownJob(
            name=job.name,
            definition=job.model_dump(mode="json"),
            since=old.since if old else now,
            vms=dict(known),
            chosen_at=now if vms is not None else (old.chosen_at if old else None),
        )
        records.put(JOBS, job.name, record.model_dump(mode="json"))
    except RepositoryError as error:
        log.warning("The record of job %s was not written: %s", job.name, error)


def _is_by_hand(old: KnownJob, job: BackupJob, vms: Sequence[VmTarget]) -> bool:
    scope = job.scope.model_dump(mode="json")
    is_new = scope not in (old.definition.get("scope"), old.narrower_scope)
    return is_new and {vm.vm_id for vm in vms} < set(old.vms)


def retire_job(records: LiveRecords, name: str, *, clock: Clock) -> bool:
    """The job is not to run any more: nobody waits for its backups. False if it is not known."""
    job = _read(records, name)
    if job is None:
        return False
    retired = job.model_copy(update={"retired_at": clock.now()})
    records.put(JOBS, name, retired.model_dump(mode="json"))
    return True


def _read(records: LiveRecords, name: str) -> KnownJob | None:
    record = records.get(JOBS, name)
    try:
        return None if record is None else KnownJob.model_validate(record)
    except ValidationError as error:
        log.warning("The record of job %s cannot be read: %s", name, error)
        return None
