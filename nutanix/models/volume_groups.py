"""Volume groups, their disks and their attachments (`nutanix-v4 §16`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from nutanix.models.wire import WireModel, typed


@dataclass(frozen=True, slots=True)
class DiskFromRecoveryPoint:
    """A new volume disk that starts as the clone of a disk recovery point."""

    index: int
    disk_recovery_point_id: str

    def wire(self) -> dict[str, Any]:
        """The disk as volume-group create takes it."""
        return _volume_disk(self.index, "DISK_RECOVERY_POINT", self.disk_recovery_point_id)


@dataclass(frozen=True, slots=True)
class BlankDisk:
    """A new volume disk of zeros. `size_bytes` must be at least 512 KiB."""

    index: int
    size_bytes: int
    storage_container_id: str

    def wire(self) -> dict[str, Any]:
        """The disk as volume-group create takes it."""
        source = _volume_disk(self.index, "STORAGE_CONTAINER", self.storage_container_id)
        return {**source, "diskSizeBytes": self.size_bytes}


@dataclass(frozen=True, slots=True)
class DiskFromVolumeDisk:
    """A new volume disk that starts as the clone of another one."""

    index: int
    volume_disk_id: str

    def wire(self) -> dict[str, Any]:
        """The disk as volume-group create takes it."""
        return _volume_disk(self.index, "VOLUME_DISK", self.volume_disk_id)


VolumeDiskSource = DiskFromRecoveryPoint | BlankDisk | DiskFromVolumeDisk


def _volume_disk(index: int, entity_type: str, ext_id: str) -> dict[str, Any]:
    return typed(
        "volumes.v4.config.VolumeDisk",
        index=index,
        diskDataSourceReference=typed(
            "common.v1.config.EntityReference", extId=ext_id, entityType=entity_type
        ),
    )


class VolumeDisk(WireModel):
    """One disk of a volume group. `index` is fixed for its life."""

    id: str = Field(alias="extId")
    index: int
    size_bytes: int = Field(alias="diskSizeBytes")
    storage_container_id: str | None = None


@dataclass(frozen=True, slots=True)
class VolumeDiskRef:
    """Names a volume disk as the source of a VM's disk."""

    volume_group_id: str
    volume_disk_id: str


@dataclass(frozen=True, slots=True)
class VmAttachment:
    """A volume group attached to a VM. `index` is its place on the VM's SCSI bus."""

    volume_group_id: str
    vm_id: str
    index: int | None


class _WireAttachment(WireModel):
    ext_id: str | None = None
    index: int | None = None
    object_type: str | None = Field(default=None, alias="$objectType")


class _AttachmentEntry(WireModel):
    attachment: _WireAttachment | None = None


class VolumeGroup(WireModel):
    """A set of disks that can be attached to a VM together."""

    id: str = Field(alias="extId")
    name: str = ""
    description: str | None = None
    cluster_id: str | None = Field(default=None, alias="clusterReference")
    usage_type: str | None = None
    enabled_authentications: str | None = None
    target_name: str | None = None
    """The last part of its iSCSI target's name."""
    wire_attachments: Annotated[tuple[_AttachmentEntry, ...] | None, Field(alias="attachments")] = (
        None
    )

    @property
    def uses_chap(self) -> bool:
        """Whether whoever attaches it must know a secret."""
        return self.enabled_authentications == "CHAP"

    @property
    def vm_attachments(self) -> tuple[VmAttachment, ...]:
        """The VMs it is attached to. Empty before API 4.1; the client then asks the sub-list."""
        return tuple(
            VmAttachment(volume_group_id=self.id, vm_id=each.ext_id, index=each.index)
            for each in self._held("VmAttachment")
            if each.ext_id
        )

    @property
    def iscsi_client_ids(self) -> tuple[str, ...]:
        """The iSCSI clients it is attached to."""
        return tuple(each.ext_id for each in self._held("IscsiClientAttachment") if each.ext_id)

    def _held(self, kind: str) -> list[_WireAttachment]:
        held = [entry.attachment for entry in self.wire_attachments or () if entry.attachment]
        return [each for each in held if (each.object_type or "").endswith(f".{kind}")]


class IscsiClient(WireModel):
    """Somebody who may reach volume groups over iSCSI; made by the first attach."""

    id: str = Field(alias="extId")
    initiator_name: str | None = Field(default=None, alias="iscsiInitiatorName")
