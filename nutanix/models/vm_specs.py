"""What a new VM shall be, and its body as the API takes it (`nutanix-v4 §12`)."""

from __future__ import annotations

import base64
from typing import Any

from pydantic import BaseModel, ConfigDict

from nutanix.models.vms import DiskAddress, Nic
from nutanix.models.volume_groups import VolumeDiskRef
from nutanix.models.wire import typed

CONFIG = "vmm.v4.ahv.config"


class DiskSpec(BaseModel):
    """A disk of the new VM: the clone of a volume disk, at an address."""

    model_config = ConfigDict(frozen=True)

    address: DiskAddress
    source: VolumeDiskRef
    storage_container_id: str | None = None
    """`None`: the cluster chooses, which is where the volume disk is."""

    def wire(self) -> dict[str, Any]:
        """The disk as VM create takes it."""
        reference = typed(
            f"{CONFIG}.VolumeDiskReference",
            diskExtId=self.source.volume_disk_id,
            volumeGroupExtId=self.source.volume_group_id,
        )
        backing = typed(
            f"{CONFIG}.VmDisk",
            dataSource=typed(f"{CONFIG}.DataSource", reference=reference),
            storageContainer=_reference("VmDiskContainerReference", self.storage_container_id),
        )
        return typed(
            f"{CONFIG}.Disk", diskAddress=_address("DiskAddress", self.address), backingInfo=backing
        )


class ImageDisk(BaseModel):
    """A disk of the new VM: the clone of an image, grown to a size."""

    model_config = ConfigDict(frozen=True)

    address: DiskAddress
    image_id: str
    size_bytes: int
    storage_container_id: str | None = None

    def wire(self) -> dict[str, Any]:
        """The disk as VM create takes it."""
        reference = typed(f"{CONFIG}.ImageReference", imageExtId=self.image_id)
        backing = typed(
            f"{CONFIG}.VmDisk",
            dataSource=typed(f"{CONFIG}.DataSource", reference=reference),
            diskSizeBytes=self.size_bytes,
            storageContainer=_reference("VmDiskContainerReference", self.storage_container_id),
        )
        return typed(
            f"{CONFIG}.Disk", diskAddress=_address("DiskAddress", self.address), backingInfo=backing
        )


class VmSpec(BaseModel):
    """A VM to create. `boot_config` and `passed_on` are the API's own fields, carried unchanged."""

    model_config = ConfigDict(frozen=True)

    name: str
    cluster_id: str
    socket_count: int
    cores_per_socket: int
    memory_size_bytes: int
    threads_per_core: int | None = None
    description: str | None = None
    machine_type: str | None = None
    timezone: str | None = None
    boot_config: dict[str, Any] | None = None
    has_vtpm: bool = False
    category_ids: tuple[str, ...] = ()
    disks: tuple[DiskSpec, ...] = ()
    image_disks: tuple[ImageDisk, ...] = ()
    user_data: str | None = None
    """A cloud-init document for its first boot; at most 128,000 characters in base64."""
    cd_roms: tuple[DiskAddress, ...] = ()
    nics: tuple[Nic, ...] = ()
    keeps_macs: bool = True
    """Whether cards keep their MAC and fixed address; not while the old VM may still run."""
    passed_on: dict[str, Any] = {}

    def wire(self, *, old_nics: bool = False) -> dict[str, Any]:
        """The body of VM create; `old_nics` for clusters before API 4.1."""
        nic_wire = nic_wire_4_0 if old_nics else nic_wire_4_1
        return typed(
            f"{CONFIG}.Vm",
            name=self.name,
            description=self.description,
            cluster=_reference("ClusterReference", self.cluster_id),
            numSockets=self.socket_count,
            numCoresPerSocket=self.cores_per_socket,
            numThreadsPerCore=self.threads_per_core,
            memorySizeBytes=self.memory_size_bytes,
            machineType=self.machine_type,
            hardwareClockTimezone=self.timezone,
            bootConfig=self.boot_config,
            vtpmConfig=typed(f"{CONFIG}.VtpmConfig", isVtpmEnabled=True) if self.has_vtpm else None,
            categories=[_reference("CategoryReference", each) for each in self.category_ids]
            or None,
            disks=[
                *(disk.wire() for disk in self.disks),
                *(disk.wire() for disk in self.image_disks),
            ]
            or None,
            guestCustomization=_cloud_init(self.user_data),
            cdRoms=[
                typed(f"{CONFIG}.CdRom", diskAddress=_address("CdRomAddress", address))
                for address in self.cd_roms
            ]
            or None,
            nics=[nic_wire(nic, keeps_mac=self.keeps_macs) for nic in self.nics] or None,
            **self.passed_on,
        )


def _cloud_init(user_data: str | None) -> dict[str, Any] | None:
    """User data as a config drive carries it to the guest."""
    if user_data is None:
        return None
    value = base64.b64encode(user_data.encode()).decode()
    cloud_init = typed(
        f"{CONFIG}.CloudInit",
        datasourceType="CONFIG_DRIVE_V2",
        cloudInitScript=typed(f"{CONFIG}.Userdata", value=value),
    )
    return typed(f"{CONFIG}.GuestCustomizationParams", config=cloud_init)


def nic_wire_4_1(nic: Nic, *, keeps_mac: bool) -> dict[str, Any]:
    """A virtual Ethernet card in the field pair of API 4.1 and newer."""
    return typed(
        f"{CONFIG}.Nic",
        nicBackingInfo=typed(f"{CONFIG}.VirtualEthernetNic", **_nic_backing(nic, keeps_mac)),
        nicNetworkInfo=typed(
            f"{CONFIG}.VirtualEthernetNicNetworkInfo", **_nic_network(nic, keeps_mac)
        ),
    )


def nic_wire_4_0(nic: Nic, *, keeps_mac: bool) -> dict[str, Any]:
    """A virtual Ethernet card in the deprecated field pair, the only one that API 4.0 knows."""
    backing = typed(f"{CONFIG}.EmulatedNic", **_nic_backing(nic, keeps_mac))
    network = typed(f"{CONFIG}.NicNetworkInfo", **_nic_network(nic, keeps_mac))
    return typed(f"{CONFIG}.Nic", backingInfo=backing, networkInfo=network)


def _nic_backing(nic: Nic, keeps_mac: bool) -> dict[str, Any]:
    return {
        "model": nic.model,
        "macAddress": nic.mac if keeps_mac else None,
        "isConnected": nic.is_connected,
        "numQueues": nic.queue_count,
    }


def _nic_network(nic: Nic, keeps_mac: bool) -> dict[str, Any]:
    """The card's network; a fixed address goes along with the MAC it was given to."""
    address = None
    if nic.ip_address and keeps_mac:
        value = typed("common.v1.config.IPv4Address", value=nic.ip_address)
        address = typed(f"{CONFIG}.Ipv4Config", shouldAssignIp=True, ipAddress=value)
    return {
        "nicType": nic.nic_type,
        "subnet": _reference("SubnetReference", nic.subnet_id),
        "vlanMode": nic.vlan_mode,
        "trunkedVlans": list(nic.trunked_vlans) or None,
        "ipv4Config": address,
    }


def _address(kind: str, address: DiskAddress) -> dict[str, Any]:
    return typed(f"{CONFIG}.{kind}", busType=address.bus, index=address.index)


def _reference(kind: str, ext_id: str | None) -> dict[str, Any] | None:
    return typed(f"{CONFIG}.{kind}", extId=ext_id) if ext_id else None
