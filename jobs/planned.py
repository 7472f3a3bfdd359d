"""What a run of a job would do, as plain data: shown, printed as JSON, compared."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from jobs.retention import ForgottenByRule


class Basis(StrEnum):
    """What an expected amount rests on. The value is shown to the operator."""

    LAST_RUN = "as much as the last incremental read"
    ALLOCATED = "allocated at the last recovery point, says the cluster"
    SIZE = "at most: the disk's size"


class PlannedDisk(BaseModel):
    """One disk of a run to come. `method` is the one to expect; the cluster may yet refuse it."""

    model_config = ConfigDict(frozen=True)

    disk_id: str
    label: str
    size_bytes: int
    method: str
    cause: str
    """The code of the reason, as it is stored with a restore point."""
    reason: str
    expected_bytes: int
    """What will be read, as far as can be known without a new snapshot."""
    basis: Basis

    @property
    def is_bound(self) -> bool:
        """Whether nothing is known but that it cannot be more."""
        return self.basis is Basis.SIZE


class PlannedVm(BaseModel):
    """One VM of a run to come. With a `problem` it would fail, or not even start."""

    model_config = ConfigDict(frozen=True)

    vm_id: str
    vm_name: str
    kind: str | None = None
    """`full` or `incremental`."""
    consistency: str | None = None
    disks: tuple[PlannedDisk, ...] = ()
    left_out: tuple[str, ...] = ()
    """What belongs to the VM and would not be in the restore point, in words."""
    worker: str | None = None
    worker_reason: str | None = None
    warnings: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def size_bytes(self) -> int:
        """Size of the disks to back up."""
        return sum(disk.size_bytes for disk in self.disks)

    @property
    def expected_bytes(self) -> int:
        """What is expected to be read."""
        return sum(disk.expected_bytes for disk in self.disks)


class SessionPlan(BaseModel):
    """A run of a job as it would go now."""

    model_config = ConfigDict(frozen=True)

    job: str
    planned_at: datetime
    vms: tuple[PlannedVm, ...]
    """In the order in which they start."""
    parallel_vms: int
    left_out: tuple[str, ...] = ()
    """VMs that the scope selects and that would not be backed up, each with the reason."""
    warnings: tuple[str, ...] = ()
    retention_drops: tuple[ForgottenByRule, ...] = ()
    """What retention would forget at the end of a session in which every VM succeeds."""
    retention_refused: tuple[str, ...] = ()

    @property
    def is_sound(self) -> bool:
        """Whether every VM can be expected to get its restore point."""
        return not any(vm.problem for vm in self.vms)
