"""The job: what an operator decides before a session runs. Its fields are the flow's parameters."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,39}")

Consistency = Literal["crash", "application"]
IfNotConsistent = Literal["fail", "warn", "accept"]


class Scope(BaseModel):
    """Which VMs a job protects. Exclusion always beats inclusion (E2)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vms: Annotated[
        tuple[str, ...],
        Field(
            title="VMs",
            description="VMs by name or id. Leave empty to protect every VM of the cluster.",
        ),
    ] = ()
    exclude: Annotated[
        tuple[str, ...],
        Field(title="Except", description="VMs by name or id that are never backed up."),
    ] = ()

    def describe(self) -> str:
        """The scope in words, for messages."""
        chosen = ", ".join(self.vms) if self.vms else "every VM"
        return f"{chosen} except {', '.join(self.exclude)}" if self.exclude else chosen


class WorkerSpec(BaseModel):
    """A VM that moves data: disks are attached to it and read there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vm: Annotated[
        str, Field(min_length=1, description="Name or id of the worker VM on the cluster.")
    ]
    device_root: Annotated[
        str, Field(description="Directory where the disks attached to this worker appear.")
    ] = "/dev"
    slots: Annotated[
        int, Field(ge=1, le=64, description="How many VMs this worker may move at once (W3).")
    ] = 4
    disk_timeout_s: Annotated[
        float, Field(gt=0, le=600, description="Seconds to wait until an attached disk appears.")
    ] = 60.0
    enabled: Annotated[bool, Field(description="A disabled worker is never selected (W3).")] = True


class SpaceLimits(BaseModel):
    """How little free space is too little (P4). Looked at before any snapshot (S2)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    container_warn_percent: Annotated[
        float,
        Field(
            ge=0,
            le=100,
            title="Storage container: warn below, %",
            description="A VM whose storage container has less free than this gets a warning.",
        ),
    ] = 10.0
    container_skip_percent: Annotated[
        float,
        Field(
            ge=0,
            le=100,
            title="Storage container: skip below, %",
            description="A VM whose storage container has less free than this gets no snapshot; it "
            "counts as failed, with the reason.",
        ),
    ] = 5.0
    repository_warn_percent: Annotated[
        float,
        Field(
            ge=0,
            le=100,
            title="Repository: warn below, %",
            description="Free space of the repository below which the session warns. Only a "
            "repository in a directory can say how much is free.",
        ),
    ] = 10.0


class BackupJob(BaseModel):
    """A validated job. One definition serves the Prefect UI, schedules, Python and the command line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[
        str,
        Field(
            title="Job name",
            description="Name of the job. Restore points and snapshots carry it; renaming a job "
            "starts its incrementals anew.",
        ),
    ] = "adhoc"
    scope: Annotated[Scope, Field(description="Which VMs are protected.")] = Scope()
    consistency: Annotated[
        Consistency,
        Field(
            description="Consistency asked of the cluster. What was obtained is recorded per restore point (N1)."
        ),
    ] = "crash"
    if_not_consistent: Annotated[
        IfNotConsistent,
        Field(
            title="If application consistency is not reached",
            description="fail: no restore point. warn: a crash-consistent one, with a warning. "
            "accept: a crash-consistent one. What was reached is stored either way (N1).",
        ),
    ] = "warn"
    full_read_days: Annotated[
        int | None,
        Field(
            ge=1,
            le=3650,
            title="Days between full reads",
            description="Once in so many days everything allocated of a disk is read and compared, to "
            "prove the cluster's change lists since the last time. Leave empty for never.",
        ),
    ] = 30
    parallel_vms: Annotated[
        int,
        Field(
            ge=1,
            le=64,
            title="VMs at a time",
            description="How many VMs are processed at the same time.",
        ),
    ] = 2
    reference_expiry_days: Annotated[
        int,
        Field(
            ge=2,
            le=365,
            title="Days until an unused snapshot expires",
            description="Safety net: the cluster drops our recovery point after this many days if no "
            "later run did. Must lie well beyond the longest gap between runs (N5).",
        ),
    ] = 30
    rpo_hours: Annotated[
        float | None,
        Field(
            gt=0,
            le=100_000,
            title="RPO in hours",
            description="How old the newest good restore point of a VM may get before the VM counts as "
            "late. Empty: what the schedule implies where a job file has one, else nobody is late.",
        ),
    ] = None
    departed_days: Annotated[
        int,
        Field(
            ge=1,
            le=365,
            title="Days until the snapshot of a departed VM is deleted",
            description="When a VM has left the job, or the job no longer runs, the recovery point that "
            "its next incremental would have needed is deleted after so many days (N9).",
        ),
    ] = 14
    space: Annotated[
        SpaceLimits, Field(title="Free space", description="Limits of free space (P4).")
    ] = SpaceLimits()

    @field_validator("name")
    @classmethod
    def _name_is_printable(cls, value: str) -> str:
        if not JOB_NAME.fullmatch(value):
            raise ValueError(
                "a job name has 1 to 40 letters, digits, spaces, dots, underscores or hyphens "
                f"and starts with a letter or digit; got {value!r}"
            )
        return value
