"""Recovery points at their three levels, and the regions of their disks (`nutanix-v4 §14`, `§15`)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nutanix.models.wire import ManyOf, WireModel, typed

Consistency = Literal["crash", "application"]
"""`application`: quiesced by the guest tools. Ask `RecoveryPoint.consistency` what was reached."""

WIRE_CONSISTENCY = {"crash": "CRASH_CONSISTENT", "application": "APPLICATION_CONSISTENT"}


class DiskRecoveryPointRef(BaseModel):
    """The three ids that name one disk inside a recovery point. Kept with a restore point as JSON.

    The disk belongs to a VM or to a volume group: exactly one of the two ids in the middle is set.
    """

    model_config = ConfigDict(frozen=True)

    recovery_point_id: str
    vm_recovery_point_id: str | None = None
    volume_group_recovery_point_id: str | None = None
    disk_recovery_point_id: str

    @model_validator(mode="after")
    def _has_one_owner(self) -> Self:
        if bool(self.vm_recovery_point_id) == bool(self.volume_group_recovery_point_id):
            raise ValueError("a disk recovery point belongs to one VM or to one volume group")
        return self

    @property
    def owner_path(self) -> str:
        """The middle of its path: whose disk it is."""
        if self.vm_recovery_point_id:
            return f"vm-recovery-points/{self.vm_recovery_point_id}"
        return f"volume-group-recovery-points/{self.volume_group_recovery_point_id}"

    def wire(self) -> dict[str, str]:
        """The reference as `discover-cluster` takes it."""
        kind = "Vm" if self.vm_recovery_point_id else "VolumeGroup"
        return typed(
            f"dataprotection.v4.content.{kind}DiskRecoveryPointReference",
            recoveryPointExtId=self.recovery_point_id,
            vmRecoveryPointExtId=self.vm_recovery_point_id,
            volumeGroupRecoveryPointExtId=self.volume_group_recovery_point_id,
            diskRecoveryPointExtId=self.disk_recovery_point_id,
        )

    def wire_as_reference(self) -> dict[str, str]:
        """The three ids as `compute-changed-regions` takes what it compares against."""
        owner = {
            "referenceVmRecoveryPointExtId": self.vm_recovery_point_id,
            "referenceVolumeGroupRecoveryPointExtId": self.volume_group_recovery_point_id,
        }
        return {
            "referenceRecoveryPointExtId": self.recovery_point_id,
            **{name: each for name, each in owner.items() if each},
            "referenceDiskRecoveryPointExtId": self.disk_recovery_point_id,
        }


class DiskRecoveryPoint(BaseModel):
    """One disk inside a recovery point.

    `disk_id` is `None` for backing disks that are no data disks (CD-ROM, UEFI variables, vTPM).
    """

    model_config = ConfigDict(frozen=True)

    disk_id: str | None
    ref: DiskRecoveryPointRef


class _WireDiskPoint(WireModel):
    id: str = Field(alias="diskRecoveryPointExtId")
    disk_id: str | None = Field(default=None, alias="diskExtId")

    def inside(
        self,
        recovery_point_id: str,
        *,
        vm_recovery_point_id: str | None = None,
        volume_group_recovery_point_id: str | None = None,
    ) -> DiskRecoveryPoint:
        """The disk with its full reference: which recovery point, and whose part of it."""
        ref = DiskRecoveryPointRef(
            recovery_point_id=recovery_point_id,
            vm_recovery_point_id=vm_recovery_point_id,
            volume_group_recovery_point_id=volume_group_recovery_point_id,
            disk_recovery_point_id=self.id,
        )
        return DiskRecoveryPoint(disk_id=self.disk_id, ref=ref)


class VmRecoveryPoint(WireModel):
    """One VM inside a recovery point. Nested in a recovery point, most fields but the ids are empty."""

    id: str = Field(alias="extId")
    vm_id: str | None = Field(default=None, alias="vmExtId")
    name: str | None = None
    consistency_wire: str | None = Field(default=None, alias="recoveryPointType")
    category_names: Annotated[tuple[str, ...], ManyOf] = Field(default=(), alias="vmCategories")
    """`key/value`, as the VM had them."""
    wire_disk_points: Annotated[tuple[_WireDiskPoint, ...], ManyOf] = Field(
        default=(), alias="diskRecoveryPoints"
    )

    def disks(self, recovery_point_id: str) -> tuple[DiskRecoveryPoint, ...]:
        """The disks held, each with the full reference that changed regions need."""
        return tuple(
            disk.inside(recovery_point_id, vm_recovery_point_id=self.id)
            for disk in self.wire_disk_points
        )


class VolumeGroupRecoveryPoint(WireModel):
    """One volume group inside a recovery point. Its disks are told here and nowhere else (`§11`)."""

    id: str = Field(alias="extId")
    volume_group_id: str | None = Field(default=None, alias="volumeGroupExtId")
    wire_disk_points: Annotated[tuple[_WireDiskPoint, ...], ManyOf] = Field(
        default=(), alias="diskRecoveryPoints"
    )

    def disks(self, recovery_point_id: str) -> tuple[DiskRecoveryPoint, ...]:
        """The disks held, each with the full reference that changed regions need."""
        return tuple(
            disk.inside(recovery_point_id, volume_group_recovery_point_id=self.id)
            for disk in self.wire_disk_points
        )


class RecoveryPoint(WireModel):
    """The cluster's frozen state of one or more VMs and volume groups, all at one moment."""

    id: str = Field(alias="extId")
    name: str = ""
    created_at: datetime = Field(alias="creationTime")
    expires_at: datetime | None = Field(default=None, alias="expirationTime")
    """`None`: never."""
    consistency_wire: str | None = Field(default=None, alias="recoveryPointType")
    vm_recovery_points: Annotated[tuple[VmRecoveryPoint, ...], ManyOf] = ()
    volume_group_recovery_points: Annotated[tuple[VolumeGroupRecoveryPoint, ...], ManyOf] = ()
    size_exclusive_bytes: int | None = Field(default=None, alias="totalExclusiveUsageBytes")
    """What deleting it would free; only clusters from API 4.2 on say."""

    @property
    def consistency(self) -> Consistency:
        """The level actually reached, never the one asked for (N1); unknown counts as `crash`."""
        return (
            "application" if self.consistency_wire == WIRE_CONSISTENCY["application"] else "crash"
        )


@dataclass(frozen=True, slots=True, order=True)
class ChangedRegion:
    """`[offset_bytes, offset_bytes + length_bytes)` of a disk; `is_zeroed`: it now holds zeros only."""

    offset_bytes: int
    length_bytes: int
    is_zeroed: bool

    @property
    def end_bytes(self) -> int:
        """One past the last byte."""
        return self.offset_bytes + self.length_bytes


@dataclass(frozen=True, slots=True)
class ChangedRegions:
    """A complete answer: sorted, merged, not overlapping, inside `[0, size_bytes)` (B5).

    With a reference: what is not listed is unchanged. Without: what is allocated, and a gap is not
    proof of zeros (`nutanix-v4 §27.1`).
    """

    size_bytes: int
    """Size of the disk at the newer recovery point."""
    block_size_bytes: int
    regions: tuple[ChangedRegion, ...]
