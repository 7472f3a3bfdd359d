"""What VMs are made of: disks, drives and NICs, and the record they stand in.

A disk's id is the id of its vdisk; its content is made here, from nothing or from what a request names.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from simulator.clock import stamp
from simulator.cluster import Cluster, refuse
from simulator.devices import serial_of
from simulator.documents import Document, Record
from simulator.tasks import RunningTask

VM_REL = "vmm:ahv:config:vm"
_TYPE = "vmm.v4.ahv.config."


def require_vm(cluster: Cluster, ext_id: str) -> Record:
    """The VM, or NotFoundError as vmm says it."""
    return cluster.require("vm", ext_id, "vmm")


def typed(kind: str, /, **fields: object) -> Document:
    """A value of one of vmm's types."""
    return {"$objectType": _TYPE + kind, **fields}


def reference(name: str, ext_id: str) -> Document:
    """A typed reference to another entity."""
    return typed(name, extId=ext_id)


def disk_document(cluster: Cluster, vdisk_id: str, address: Document, container: str) -> Document:
    """A VM disk as the API shows it."""
    backing = typed(
        "VmDisk",
        diskExtId=vdisk_id,
        diskSizeBytes=cluster.disks.get(vdisk_id).live.size_bytes,
        storageContainer=typed("VmDiskContainerReference", extId=container),
        storageConfig=typed("VmDiskStorageConfig", isFlashModeEnabled=False),
        isMigrationInProgress=False,
        serialId=serial_of(vdisk_id),
    )
    return typed("Disk", extId=vdisk_id, diskAddress=address, backingInfo=backing)


def address_of(bus: str, index: int) -> Document:
    """A disk address."""
    return typed("DiskAddress", busType=bus, index=index)


def free_index(taken: Iterable[int], first: int = 0) -> int:
    """The lowest index from `first` that is not taken."""
    used = set(taken)
    return next(i for i in range(first, 16384) if i not in used)


def scsi_indexes(cluster: Cluster, vm: Document, vm_ext_id: str) -> list[int]:
    """SCSI indexes in use on a VM: by its own disks and by attached volume groups."""
    own = [
        d["diskAddress"]["index"]
        for d in vm.get("disks", ())
        if d["diskAddress"]["busType"] == "SCSI"
    ]
    groups = [
        r.private["vm_attachments"].get(vm_ext_id) for r in cluster.documents.all("volume_group")
    ]
    return own + [index for index in groups if index is not None]


def _default_container(cluster: Cluster) -> str:
    return cluster.documents.all("storage_container")[0].ext_id


def make_backing(cluster: Cluster, task: RunningTask, backing: Document) -> tuple[str, str]:
    """Make the vdisk that a `VmDisk` in a request describes; returns its id and its container."""
    container = (backing.get("storageContainer") or {}).get("extId") or _default_container(cluster)
    cluster.require("storage_container", container, "vmm")
    size = int(backing.get("diskSizeBytes") or 0)
    source = (backing.get("dataSource") or {}).get("reference")
    if source is not None:
        return task.owns(_clone_source(cluster, source, size)), container
    if size <= 0:
        raise refuse(
            "A disk needs a size or a data source.", code="VMM-20001", group="VM_INVALID_INPUT"
        )
    return task.owns(cluster.disks.create(size)), container


def _clone_source(cluster: Cluster, source: Document, size_bytes: int) -> str:
    """Clone what a `dataSource.reference` names (nutanix-v4 §12, "Reference types")."""
    kind = str(source.get("$objectType", "")).removeprefix(_TYPE)
    if kind == "ImageReference":
        image = cluster.require("image", source["imageExtId"], "vmm")
        return cluster.disks.clone(image.private["vdisks"][0], size_bytes=size_bytes)
    if kind == "VmDiskReference":
        return cluster.disks.clone(_vm_disk_id(cluster, source), size_bytes=size_bytes)
    if kind == "VolumeDiskReference":
        return cluster.disks.clone(_volume_disk_id(cluster, source), size_bytes=size_bytes)
    if kind in ("VmDiskRecoveryPointReference", "VolumeDiskRecoveryPointReference"):
        point = cluster.require("disk_recovery_point", source["diskRecoveryPointExtId"], "vmm")
        private = point.private
        return cluster.disks.clone(private["vdisk"], private["generation"], size_bytes)
    raise refuse(
        f"The data source {source.get('$objectType')} is not supported.",
        code="VMM-20001",
        group="VM_INVALID_INPUT",
    )


def _vm_disk_id(cluster: Cluster, source: Document) -> str:
    if source.get("diskExtId"):
        return str(source["diskExtId"])
    vm = require_vm(cluster, source["vmReference"]["extId"])
    wanted = source["diskAddress"]
    for disk in vm.document.get("disks", ()):
        address = disk["diskAddress"]
        if (address["busType"], address["index"]) == (wanted["busType"], wanted["index"]):
            return str(disk["extId"])
    raise refuse("No disk at that address.", code="VMM-20005", group="VM_DISK_NOT_FOUND")


def _volume_disk_id(cluster: Cluster, source: Document) -> str:
    group_id = source.get("volumeGroupExtId")
    for record in cluster.documents.all("volume_group"):
        if group_id in (None, record.ext_id) and source["diskExtId"] in record.private["vdisks"]:
            return str(source["diskExtId"])
    raise refuse(
        f"There is no volume disk {source['diskExtId']}.",
        code="VMM-20005",
        group="ENTITY_NOT_FOUND",
    )


def make_disk(
    cluster: Cluster, task: RunningTask, spec: Document, taken: list[tuple[str, int]]
) -> Document:
    """Make one disk of a VM from its description, at its address or the next free one."""
    backing = spec.get("backingInfo") or {}
    if not str(backing.get("$objectType", "")).endswith(".VmDisk"):
        raise refuse("A disk needs a backing.", code="VMM-20001", group="VM_INVALID_INPUT")
    wanted = spec.get("diskAddress") or {}
    bus = wanted.get("busType") or "SCSI"
    index = wanted.get("index")
    if index is None:
        index = free_index(i for b, i in taken if b == bus)
    if (bus, index) in taken:
        raise refuse(
            f"The address {bus}.{index} is taken.", code="VMM-20001", group="VM_INVALID_INPUT"
        )
    taken.append((bus, index))
    vdisk_id, container = make_backing(cluster, task, backing)
    return disk_document(cluster, vdisk_id, address_of(bus, index), container)


def make_nic(cluster: Cluster, spec: Document) -> Document:
    """Give a NIC from a request its id and, unless it names one, its MAC address."""
    backing = dict(spec.get("nicBackingInfo") or spec.get("backingInfo") or {})
    network = dict(spec.get("nicNetworkInfo") or spec.get("networkInfo") or {})
    subnet = (network.get("subnet") or {}).get("extId")
    if subnet:
        cluster.require("subnet", subnet, "vmm")
    mac = "50:6b:8d:" + ":".join(f"{random.randrange(256):02x}" for _ in range(3))
    defaults = {"macAddress": mac, "model": "VIRTIO", "isConnected": True, "numQueues": 1}
    backing = {**defaults, **{k: v for k, v in backing.items() if v is not None}}
    plain = {k: v for k, v in backing.items() if k != "$objectType"}
    open_network = {k: v for k, v in network.items() if k != "$objectType"}
    return typed(
        "Nic",
        extId=cluster.new_id(),
        nicBackingInfo=typed("VirtualEthernetNic", **plain),
        nicNetworkInfo=typed(
            "VirtualEthernetNicNetworkInfo", **{"nicType": "NORMAL_NIC", **open_network}
        ),
        backingInfo=typed("EmulatedNic", **plain),
        networkInfo=typed("NicNetworkInfo", **open_network),
    )


def make_cd_rom(
    cluster: Cluster, task: RunningTask, spec: Document, taken: list[tuple[str, int]]
) -> Document:
    """Make a CD-ROM drive, with a medium if the request names a source."""
    wanted = spec.get("diskAddress") or {}
    bus = wanted.get("busType") or "SATA"
    index = wanted.get("index")
    index = free_index(i for b, i in taken if b == bus) if index is None else index
    taken.append((bus, index))
    backing = spec.get("backingInfo")
    address = typed("CdRomAddress", busType=bus, index=index)
    drive = typed("CdRom", extId=cluster.new_id(), diskAddress=address, isoType="OTHER")
    if not backing:
        return drive
    vdisk_id, container = make_backing(cluster, task, backing)
    medium = disk_document(cluster, vdisk_id, address_of(bus, index), container)["backingInfo"]
    return {**drive, "extId": vdisk_id, "backingInfo": medium}


def addresses(vm: Document) -> list[tuple[str, int]]:
    """Bus and index of every disk and drive of a VM."""
    devices = [*vm.get("disks", ()), *vm.get("cdRoms", ())]
    return [(d["diskAddress"]["busType"], d["diskAddress"]["index"]) for d in devices]


def own_vdisks(vm: Document) -> list[str]:
    """The vdisks that belong to a VM and go with it."""
    disks = [d["extId"] for d in vm.get("disks", ()) if is_vm_disk(d)]
    return disks + [
        d["backingInfo"]["diskExtId"] for d in vm.get("cdRoms", ()) if d.get("backingInfo")
    ]


def is_vm_disk(disk: Document) -> bool:
    """Whether a disk entry is a disk of the VM, and not a volume group attached to it."""
    return str(disk["backingInfo"].get("$objectType")).endswith(".VmDisk")


def put_vm(cluster: Cluster, ext_id: str, /, **changes: object) -> Document:
    """Change fields of a VM as it is now; None removes one. Within a change."""
    vm = require_vm(cluster, ext_id)
    changed = {**vm.document, "updateTime": stamp(cluster.clock.now()), **changes}
    document = {k: v for k, v in changed.items() if v is not None}
    private = {**vm.private, "vdisks": own_vdisks(document)}
    cluster.documents.put("vm", ext_id, document, private)
    return document
