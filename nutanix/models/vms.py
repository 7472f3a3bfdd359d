"""The VM as the API shows it: all that a backup keeps and a restore needs (`nutanix-v4 §12`)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AliasPath, Field, field_validator, model_validator

from nutanix.models.wire import ManyOf, ReferencedId, WireModel

VM_DISK = "VmDisk"
VOLUME_GROUP = "ADSFVolumeGroupReference"


def _kind(document: Any) -> str:
    """The last word of an object's `$objectType`."""
    name = document.get("$objectType") if isinstance(document, dict) else None
    return str(name or "").rpartition(".")[2]


class DiskAddress(WireModel):
    """Where a disk or CD-ROM sits inside the VM."""

    bus: str = Field(default="SCSI", alias="busType")
    index: int = 0

    @property
    def label(self) -> str:
        """Bus and index, such as `scsi.0`."""
        return f"{self.bus.lower()}.{self.index}"


class VmDisk(WireModel):
    """One disk entry of a VM: a disk of its own, or a volume group attached to it."""

    id: str = Field(alias="extId")
    address: DiskAddress = Field(default_factory=DiskAddress, alias="diskAddress")
    backing_kind: str = VM_DISK
    size_bytes: int = 0
    storage_container_id: str | None = None
    volume_group_id: str | None = None
    serial: str | None = None
    """How the hypervisor names it to the guest; only clusters from API 4.3 on say."""

    @model_validator(mode="before")
    @classmethod
    def _flatten_backing(cls, document: Any) -> Any:
        if not isinstance(document, dict) or "extId" not in document:
            return document
        backing = document.get("backingInfo") or {}
        return {
            **document,
            "backingKind": _kind(backing) or VM_DISK,
            "sizeBytes": backing.get("diskSizeBytes") or 0,
            "storageContainerId": (backing.get("storageContainer") or {}).get("extId"),
            "volumeGroupId": backing.get("volumeGroupExtId"),
            "serial": backing.get("serialId"),
        }

    @property
    def label(self) -> str:
        """Bus and index, such as `scsi.0`."""
        return self.address.label


class CdRom(WireModel):
    """A CD-ROM drive; `holds_image` when something is inserted."""

    id: str = Field(alias="extId")
    address: DiskAddress = Field(
        default_factory=lambda: DiskAddress(bus="IDE"), alias="diskAddress"
    )
    backing: dict[str, Any] | None = Field(default=None, alias="backingInfo", repr=False)

    @property
    def label(self) -> str:
        """Bus and index, such as `ide.0`."""
        return self.address.label

    @property
    def holds_image(self) -> bool:
        """Whether a disc is in the drive."""
        return bool(
            self.backing and (self.backing.get("dataSource") or self.backing.get("diskExtId"))
        )


class Nic(WireModel):
    """A network card, from the new field pair or the old one; the new wins (`nutanix-v4 §12`)."""

    id: str | None = Field(default=None, alias="extId")
    backing_kind: str = ""
    model: str | None = None
    mac: str | None = None
    is_connected: bool = True
    queue_count: int | None = None
    nic_type: str | None = None
    subnet_id: str | None = None
    vlan_mode: str | None = None
    trunked_vlans: tuple[int, ...] = ()
    ip_address: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _flatten_pairs(cls, document: Any) -> Any:
        if not isinstance(document, dict) or not _PAIRS & document.keys():
            return document
        backing = document.get("nicBackingInfo") or document.get("backingInfo") or {}
        network = document.get("nicNetworkInfo") or document.get("networkInfo") or {}
        ipv4 = network.get("ipv4Config") or {}
        return {
            "extId": document.get("extId"),
            "backingKind": _kind(document.get("nicBackingInfo")),
            "model": backing.get("model"),
            "mac": backing.get("macAddress"),
            "isConnected": backing.get("isConnected") is not False,
            "queueCount": backing.get("numQueues"),
            "nicType": network.get("nicType"),
            "subnetId": (network.get("subnet") or {}).get("extId"),
            "vlanMode": network.get("vlanMode"),
            "trunkedVlans": tuple(network.get("trunkedVlans") or ()),
            "ipAddress": (ipv4.get("ipAddress") or {}).get("value"),
        }

    @property
    def is_virtual_ethernet(self) -> bool:
        """Whether it is an ordinary virtual card; SR-IOV and pass-through cards are bound to a host."""
        return self.backing_kind in ("", "VirtualEthernetNic", "EmulatedNic")


_PAIRS = frozenset({"nicBackingInfo", "backingInfo", "nicNetworkInfo", "networkInfo"})


class Vm(WireModel):
    """A VM, live or as captured in a recovery point. `config` is the API's own document, untouched."""

    id: str = Field(alias="extId")
    name: str = ""
    description: str | None = None
    cluster_id: ReferencedId = Field(default=None, alias="cluster")
    host_id: ReferencedId = Field(default=None, alias="host")
    """`None` while it is off."""
    power_state: str = "UNDETERMINED"
    socket_count: int = Field(default=1, alias="numSockets")
    cores_per_socket: int = Field(default=1, alias="numCoresPerSocket")
    threads_per_core: int | None = Field(default=None, alias="numThreadsPerCore")
    memory_size_bytes: int = 0
    machine_type: str | None = None
    timezone: str | None = Field(default=None, alias="hardwareClockTimezone")
    category_ids: Annotated[tuple[str, ...], ManyOf] = Field(default=(), alias="categories")
    boot_config: dict[str, Any] | None = Field(default=None, repr=False)
    disks: Annotated[tuple[VmDisk, ...], ManyOf] = ()
    cd_roms: Annotated[tuple[CdRom, ...], ManyOf] = ()
    nics: Annotated[tuple[Nic, ...], ManyOf] = ()
    gpu_count: int = 0
    has_vtpm: bool = False
    is_agent_vm: bool | None = None
    can_vss: bool = Field(
        default=False, validation_alias=AliasPath("guestTools", "isVssSnapshotCapable")
    )
    """Whether the guest tools can quiesce it, so that an application-consistent point can be had."""
    config: dict[str, Any] = Field(default_factory=dict, repr=False)

    @model_validator(mode="before")
    @classmethod
    def _keep_config(cls, document: Any) -> Any:
        if not isinstance(document, dict) or "extId" not in document:
            return document
        vtpm = document.get("vtpmConfig") or {}
        return {
            **document,
            "hasVtpm": bool(vtpm.get("isVtpmEnabled")),
            "gpuCount": len(document.get("gpus") or ()),
            "config": document,
        }

    @field_validator("category_ids", mode="before")
    @classmethod
    def _category_ids(cls, value: Any) -> Any:
        return tuple(each["extId"] if isinstance(each, dict) else each for each in value or ())

    @field_validator("can_vss", mode="before")
    @classmethod
    def _false_if_null(cls, value: Any) -> Any:
        return value or False

    @property
    def is_on(self) -> bool:
        """Whether it runs."""
        return self.power_state == "ON"

    @property
    def is_uefi(self) -> bool:
        """Whether it boots by UEFI."""
        return _kind(self.boot_config) == "UefiBoot"

    @property
    def data_disks(self) -> tuple[VmDisk, ...]:
        """The VM's own disks: what a recovery point of it holds."""
        return tuple(disk for disk in self.disks if disk.backing_kind == VM_DISK)

    @property
    def volume_group_ids(self) -> tuple[str, ...]:
        """Volume groups attached to it; a recovery point of the VM does not hold them."""
        attached = (
            disk.volume_group_id for disk in self.disks if disk.backing_kind == VOLUME_GROUP
        )
        return tuple(dict.fromkeys(each for each in attached if each))
