"""What a session did, per disk, VM and session (M1-M6). Plain data: shown, stored, compared.

Byte counts follow one chain: `provisioned` (the disk's size) >= `read` (taken from the source)
>= what was new to the repository, compressed to `stored` (sent to the store).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from jobs.retention import RetentionResult
from jobs.statistics import covered_s, session_loads

VmStatus = Literal["success", "warning", "failed", "stopped"]
SessionStatus = Literal["success", "warning", "failed", "stopped"]


class DiskResult(BaseModel):
    """One disk of one run. `read_method` is `changed`, `allocated` or `all`; the reason says why."""

    model_config = ConfigDict(frozen=True)

    disk_id: str
    label: str
    provisioned_bytes: int
    read_bytes: int
    stored_bytes: int
    read_method: str
    read_reason: str
    read_cause: str | None = None
    """The cause of the method, one of `ReadCause` (B7)."""
    fully_read_at: datetime | None = None
    """When everything allocated of the disk was last read, in this run or an earlier one."""


class VmResult(BaseModel):
    """One VM of one session. `error` is one sentence, present when no restore point was made."""

    model_config = ConfigDict(frozen=True)

    vm_id: str
    vm_name: str
    status: VmStatus
    kind: Literal["full", "incremental"] | None = None
    point_id: str | None = None
    consistency: str | None = None
    worker: str | None = None
    worker_reason: str | None = None
    started_at: datetime
    duration_s: float
    transfer_s: float = 0.0
    """Seconds in which its data moved, and since when."""
    transfer_started_at: datetime | None = None
    loads: dict[str, int] = {}
    """Percent of the transfer time in which each stage was busy (M5)."""
    bottleneck: str | None = None
    disks: tuple[DiskResult, ...] = ()
    warnings: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    """What belongs to the VM and is not in its restore point, in words (E3, N3)."""
    error: str | None = None
    tries: int = 1
    """How often the session has tried it (J4)."""
    earlier_errors: tuple[str, ...] = ()
    """Why the tries before the last one failed, oldest first."""

    @property
    def ruled_out(self) -> tuple[str, ...]:
        """What a rule of the job left out: of `lacks` what is no warning."""
        return tuple(text for text in self.lacks if text not in self.warnings)

    def after(self, earlier: VmResult) -> VmResult:
        """This result as that of a further try."""
        errors = [*earlier.earlier_errors, earlier.error or earlier.status]
        return self.model_copy(update={"tries": earlier.tries + 1, "earlier_errors": tuple(errors)})

    @property
    def provisioned_bytes(self) -> int:
        """Size of all disks, in bytes (M2 "Processed")."""
        return sum(disk.provisioned_bytes for disk in self.disks)

    @property
    def read_bytes(self) -> int:
        """Bytes read from the source before deduplication and compression (M2 "Read")."""
        return sum(disk.read_bytes for disk in self.disks)

    @property
    def stored_bytes(self) -> int:
        """Bytes sent to the repository (M2 "Transferred")."""
        return sum(disk.stored_bytes for disk in self.disks)


class JobPart(BaseModel):
    """The VMs of its job that a session takes, where that is not all of them (J5)."""

    model_config = ConfigDict(frozen=True)

    vms: tuple[str, ...]
    """As they were asked for; in a retry the names of those that failed, and none if none did."""
    vm_ids: tuple[str, ...] = ()
    """In a retry their ids, in the same order."""
    retry_of: str | None = None
    """Id of the session that a retry follows; None where somebody named the VMs."""
    retried_at: datetime | None = None
    """When that session began."""

    def describe(self) -> str:
        """`retry of 3f2a9c1d: web01, db01`, or `only web01, db01`; of many VMs their number."""
        many = len(self.vms) > _NAMED_MAX
        named = f"{len(self.vms)} VMs" if many else ", ".join(self.vms) or "nothing"
        return (
            f"only {named}" if self.retry_of is None else f"retry of {self.retry_of[:8]}: {named}"
        )


_NAMED_MAX = 6


class SessionResult(BaseModel):
    """One run of a job. The status is the worst of its VMs (M1)."""

    model_config = ConfigDict(frozen=True)

    session_id: str
    job: str
    started_at: datetime
    duration_s: float
    status: SessionStatus
    vms: tuple[VmResult, ...]
    part: JobPart | None = None
    """Which of the job's VMs it was to take; None for all."""
    cleaned: tuple[str, ...] = ()
    """What the reconciler removed at the start, in words."""
    warnings: tuple[str, ...] = ()
    """What concerns the session as a whole, in words."""
    left_out: tuple[str, ...] = ()
    """VMs that the scope selects and that were not backed up, each with the reason."""
    retention: RetentionResult | None = None
    """What retention did at the end; None when it did not run (T6: only after a successful session)."""

    @property
    def provisioned_bytes(self) -> int:
        """Size of all disks of all VMs (M2 "Processed")."""
        return sum(vm.provisioned_bytes for vm in self.vms)

    @property
    def read_bytes(self) -> int:
        """Bytes read from the source (M2 "Read")."""
        return sum(vm.read_bytes for vm in self.vms)

    @property
    def stored_bytes(self) -> int:
        """Bytes sent to the repository (M2 "Transferred")."""
        return sum(vm.stored_bytes for vm in self.vms)

    @property
    def transfer_s(self) -> float:
        """Seconds in which data of at least one VM moved: the base of the processing rate (M2)."""
        return covered_s(
            (vm.transfer_started_at, vm.transfer_s)
            for vm in self.vms
            if vm.transfer_started_at is not None
        )

    @property
    def loads(self) -> dict[str, int]:
        """Percent of the transfer time in which each stage was busy, over all VMs (M5)."""
        return session_loads((vm.loads, vm.transfer_s) for vm in self.vms)

    @property
    def point_count(self) -> int:
        """How many VMs have a new restore point."""
        return sum(vm.point_id is not None for vm in self.vms)


_WORST_LAST: tuple[VmStatus, ...] = ("success", "warning", "stopped", "failed")


def worst_status(results: Sequence[VmResult], warnings: Sequence[str] = ()) -> SessionStatus:
    """The session's status: that of its worst VM (M1), and no better than its own warnings."""
    floor: list[VmStatus] = ["warning" if warnings else "success"]
    return max([*floor, *(vm.status for vm in results)], key=_WORST_LAST.index)
