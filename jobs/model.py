"""The job: what an operator decides before a session runs. Its fields are the flow's parameters."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from jobs.policies import (
    BackupWindow,
    CircuitBreaker,
    Consistency,
    Hooks,
    IfNotConsistent,
    RetryPolicy,
    SpaceLimits,
    TransferLimits,
)
from jobs.selection import DiskRule, Scope, refuse_contradictions
from repository import RetentionPolicy

JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,39}")

Access = Literal["direct", "iscsi", "kernel-iscsi"]
"""How a worker reaches disks: attached to its VM; over iSCSI by itself; over its kernel's iSCSI."""


class WorkerSpec(BaseModel):
    """A VM that moves data: disks are attached to it and read there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vm: Annotated[
        str,
        Field(
            min_length=1,
            description="Name or id of the worker VM on the cluster. With iSCSI, a machine outside of "
            "the cluster has any other name.",
        ),
    ]
    access: Annotated[
        Access,
        Field(
            description="How the worker reaches disks: direct (attached to its VM), iscsi (through the "
            "cluster's data services address, without help of the system), or kernel-iscsi (the same "
            "through the system's open-iscsi)."
        ),
    ] = "direct"
    device_root: Annotated[
        str, Field(description="Directory where the disks attached to this worker appear.")
    ] = "/dev"
    initiator: Annotated[
        str | None,
        Field(
            max_length=64,
            description="iSCSI name that the worker logs in with. By default made of its own name; "
            "with kernel-iscsi that of the system.",
        ),
    ] = None
    slots: Annotated[
        int, Field(ge=1, le=64, description="How many VMs this worker may move at once.")
    ] = 4
    disk_timeout_s: Annotated[
        float, Field(gt=0, le=600, description="Seconds to wait until an attached disk appears.")
    ] = 60.0
    enabled: Annotated[bool, Field(description="A disabled worker is never selected.")] = True
    queue: Annotated[
        str | None,
        Field(
            description="Work queue of the Prefect worker that runs inside this worker and moves its "
            "disks there. Empty: the disks are read on the machine that runs the session."
        ),
    ] = None
    boot_timeout_s: Annotated[
        float,
        Field(gt=0, le=3600, description="Seconds from power-on until the worker must be of use."),
    ] = 300.0
    shutdown_timeout_s: Annotated[
        float,
        Field(
            ge=0,
            le=3600,
            description="Seconds a guest gets to shut down before its power is cut.",
        ),
    ] = 120.0

    @model_validator(mode="after")
    def _names_its_initiator_from_afar(self) -> Self:
        if self.access == "kernel-iscsi" and self.queue is not None and self.initiator is None:
            raise ValueError(
                "a worker with a queue that uses kernel-iscsi needs `initiator`: the name in its own "
                "/etc/iscsi/initiatorname.iscsi, which cannot be read from elsewhere"
            )
        return self


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
    scope: Annotated[
        Scope,
        Field(
            title="What is protected",
            description="Which VMs, looked up at each run. Leave all lists empty for every VM of the cluster; workers and the platform's own VMs are never taken.",
        ),
    ] = Scope()
    disk_rules: Annotated[
        tuple[DiskRule, ...],
        AfterValidator(refuse_contradictions),
        Field(
            title="Disk rules",
            description="Only where not all disks of a VM are wanted. What a rule leaves out is said with "
            "every restore point.",
        ),
    ] = ()
    parallel_vms: Annotated[
        int,
        Field(
            ge=1,
            le=64,
            title="VMs at a time",
            description="How many VMs are processed at the same time.",
        ),
    ] = 2
    consistency: Annotated[
        Consistency,
        Field(
            title="Consistency",
            description="What is asked of the cluster: `application` has the guest tools quiesce the VM, "
            "`crash` is a snapshot as a power cut would leave it. What was reached is stored with "
            "every restore point.",
        ),
    ] = "crash"
    if_not_consistent: Annotated[
        IfNotConsistent,
        Field(
            title="If application consistency is not reached",
            description="`fail`: no restore point. `warn`: a crash-consistent one, and a warning. "
            "`accept`: a crash-consistent one.",
        ),
    ] = "warn"
    retention: Annotated[
        RetentionPolicy | None,
        Field(
            title="Retention",
            description="How long restore points stay; carried out at the end of each session. Empty: "
            "none of them ever goes by itself.",
        ),
    ] = None
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
    window: Annotated[BackupWindow, Field(title="Window", description="When data may move.")] = (
        BackupWindow()
    )
    limits: Annotated[
        TransferLimits, Field(title="Limits", description="How fast this job may be.")
    ] = TransferLimits()
    retry: Annotated[
        RetryPolicy, Field(title="Retries", description="What is done about VMs that failed.")
    ] = RetryPolicy()
    breaker: Annotated[
        CircuitBreaker,
        Field(title="Circuit breaker", description="When no further VMs are started."),
    ] = CircuitBreaker()
    hooks: Annotated[
        Hooks, Field(title="Hooks", description="Programs to run before and after.")
    ] = Hooks()
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
    reference_expiry_days: Annotated[
        int,
        Field(
            ge=2,
            le=365,
            title="Days until an unused snapshot expires",
            description="Safety net: the cluster drops our recovery point after this many days if no "
            "later run did. Must lie well beyond the longest gap between runs.",
        ),
    ] = 30
    departed_days: Annotated[
        int,
        Field(
            ge=1,
            le=365,
            title="Days until the snapshot of a departed VM is deleted",
            description="When a VM has left the job, or the job no longer runs, the recovery point that "
            "its next incremental would have needed is deleted after so many days.",
        ),
    ] = 14
    space: Annotated[
        SpaceLimits, Field(title="Free space", description="How little is too little.")
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
