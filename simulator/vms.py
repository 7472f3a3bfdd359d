"""Virtual machines: creating, changing, powering, cloning, reverting and deleting them.

The wire shape of a VM is its record (nutanix-v4 §12). A disk's id is the id of its vdisk.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from simulator.clock import stamp
from simulator.cluster import Cluster, operation, refuse
from simulator.devices import serial_of
from simulator.documents import Document, Record
from simulator.errors import RefusedError
from simulator.tasks import RunningTask

VM_REL = "vmm:ahv:config:vm"
_TYPE = "vmm.v4.ahv.config."
POWER_ACTIONS = {
    "power-on": "ON",
    "power-off": "OFF",
    "shutdown": "OFF",
    "guest-shutdown": "OFF",
    "power-cycle": "ON",
    "reset": "ON",
    "reboot": "ON",
    "guest-reboot": "ON",
}


def require_vm(cluster: Cluster, ext_id: str) -> Record:
    """The VM, or NotFoundError as vmm says it."""
    return cluster.require("vm", ext_id, "vmm")


# -- building blocks -------------------------------------------------------------------------------


def _object(kind: str, /, **fields: object) -> Document:
    return {"$objectType": _TYPE + kind, **fields}


def reference(name: str, ext_id: str) -> Document:
    """A typed reference to another entity."""
    return _object(name, extId=ext_id)


def disk_document(cluster: Cluster, vdisk_id: str, address: Document, container: str) -> Document:
    """A VM disk as the API shows it."""
    backing = _object(
        "VmDisk",
        diskExtId=vdisk_id,
        diskSizeBytes=cluster.disks.get(vdisk_id).live.size_bytes,
        storageContainer=_object("VmDiskContainerReference", extId=container),
        storageConfig=_object("VmDiskStorageConfig", isFlashModeEnabled=False),
        isMigrationInProgress=False,
        serialId=serial_of(vdisk_id),
    )
    return _object("Disk", extId=vdisk_id, diskAddress=address, backingInfo=backing)


def address_of(bus: str, index: int) -> Document:
    """A disk address."""
    return _object("DiskAddress", busType=bus, index=index)


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
    return _object(
        "Nic",
        extId=cluster.new_id(),
        nicBackingInfo=_object("VirtualEthernetNic", **plain),
        nicNetworkInfo=_object(
            "VirtualEthernetNicNetworkInfo", **{"nicType": "NORMAL_NIC", **open_network}
        ),
        backingInfo=_object("EmulatedNic", **plain),
        networkInfo=_object("NicNetworkInfo", **open_network),
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
    drive = _object(
        "CdRom", extId=cluster.new_id(), diskAddress=address_of(bus, index), isoType="OTHER"
    )
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
    disks = [d["extId"] for d in vm.get("disks", ()) if _is_vm_disk(d)]
    return disks + [d["extId"] for d in vm.get("cdRoms", ()) if d.get("backingInfo")]


def _is_vm_disk(disk: Document) -> bool:
    return str(disk["backingInfo"].get("$objectType")).endswith(".VmDisk")


# -- create, clone, delete -------------------------------------------------------------------------


@operation("CreateVm")
def create_vm(cluster: Cluster, task: RunningTask) -> None:
    """Make a VM from a request; its id was chosen when the request was taken."""
    spec, ext_id = task.arguments["spec"], task.arguments["extId"]
    document, group_ids = build_vm(cluster, task, ext_id, spec)
    with task.finishing() as outcome:
        put_new_vm(cluster, document)
        for group_id in group_ids:
            attach_group(cluster, group_id, ext_id, None)
        outcome.affects(VM_REL, ext_id, document["name"])


def put_new_vm(cluster: Cluster, document: Document, **private: object) -> Record:
    """Record a new VM. Within a change."""
    hidden = {
        "affinity_host": cluster.documents.all("host")[0].ext_id,
        "is_worker": False,
        **private,
    }
    hidden["vdisks"] = own_vdisks(document)
    return cluster.documents.put("vm", document["extId"], document, hidden)


def build_vm(
    cluster: Cluster, task: RunningTask, ext_id: str, spec: Document
) -> tuple[Document, list[str]]:
    """The record of a VM that a request describes, its vdisks made, and the groups to attach."""
    given = {k: v for k, v in spec.items() if v is not None and k not in _SERVER_FIELDS}
    now = stamp(cluster.clock.now())
    defaults = {
        "description": "",
        "numSockets": 1,
        "numCoresPerSocket": 1,
        "numThreadsPerCore": 1,
        "memorySizeBytes": 1 << 30,
        "hardwareClockTimezone": "UTC",
        "machineType": "PC",
        "bootConfig": _object("LegacyBoot", bootOrder=["CDROM", "DISK", "NETWORK"]),
        "protectionType": "UNPROTECTED",
        "isAgentVm": False,
        "categories": [],
    }
    document: Document = {"$objectType": _TYPE + "Vm", **defaults, **given}
    document |= {"extId": ext_id, "createTime": now, "updateTime": now, "powerState": "OFF"}
    document |= {"biosUuid": ext_id, "generationUuid": cluster.new_id()}
    document["cluster"] = reference("ClusterReference", cluster.aos.ext_id)
    taken: list[tuple[str, int]] = []
    specs = spec.get("disks") or []
    own = [d for d in specs if not _is_group_disk(d)]
    # Disks that name their address come first, so that the others do not take it.
    own.sort(key=lambda d: (d.get("diskAddress") or {}).get("index") is None)
    document["disks"] = [make_disk(cluster, task, d, taken) for d in own]
    document["cdRoms"] = [make_cd_rom(cluster, task, d, taken) for d in spec.get("cdRoms") or []]
    document["nics"] = [make_nic(cluster, nic) for nic in spec.get("nics") or []]
    groups = [d["backingInfo"]["volumeGroupExtId"] for d in specs if _is_group_disk(d)]
    return document, groups


# What a client sends back from a GET and the server decides by itself.
_SERVER_FIELDS = frozenset(
    [
        "extId",
        "createTime",
        "updateTime",
        "powerState",
        "host",
        "cluster",
        "disks",
        "cdRoms",
        "nics",
        "$reserved",
        "$unknownFields",
        "biosUuid",
        "generationUuid",
        "links",
        "tenantId",
    ]
)


def _is_group_disk(disk: Document) -> bool:
    return "volumeGroupExtId" in (disk.get("backingInfo") or {})


@operation("CloneVm")
def clone_vm(cluster: Cluster, task: RunningTask) -> None:
    """Clone a VM's disks as they are now into a new VM, with the overrides of the request."""
    source = require_vm(cluster, task.arguments["sourceExtId"])
    overrides = {
        k: v for k, v in task.arguments["spec"].items() if v is not None and k != "$objectType"
    }
    spec = {
        **source.document,
        **overrides,
        "disks": [_as_clone(d) for d in source.document["disks"] if _is_vm_disk(d)],
        "cdRoms": [],
    }
    if "nics" not in overrides:
        spec["nics"] = [_without_mac(nic) for nic in source.document.get("nics", ())]
    document, _groups = build_vm(cluster, task, task.arguments["extId"], spec)
    with task.finishing() as outcome:
        put_new_vm(cluster, document)
        outcome.affects(VM_REL, document["extId"], document["name"])


def _as_clone(disk: Document) -> Document:
    source = _object("VmDiskReference", diskExtId=disk["extId"])
    backing = _object("VmDisk", dataSource=_object("DataSource", reference=source))
    return {"diskAddress": disk["diskAddress"], "backingInfo": backing}


def _without_mac(nic: Document) -> Document:
    return {
        "nicBackingInfo": {k: v for k, v in nic["nicBackingInfo"].items() if k != "macAddress"},
        "nicNetworkInfo": nic["nicNetworkInfo"],
    }


@operation("DeleteVm")
def delete_vm(cluster: Cluster, task: RunningTask) -> None:
    """Delete a VM and its disks; volume groups attached to it stay, detached."""
    ext_id = task.arguments["extId"]
    vm = require_vm(cluster, ext_id)
    with task.finishing() as outcome:
        for record in cluster.documents.all("volume_group"):
            if ext_id in record.private["vm_attachments"]:
                detach_group(cluster, record.ext_id, ext_id)
        cluster.documents.delete("vm", ext_id)
        outcome.affects(VM_REL, ext_id, vm.document["name"])
    for vdisk_id in vm.private["vdisks"]:
        cluster.disks.drop_live(vdisk_id)
    cluster.devices.show(vm.document["name"], ())


# -- change ----------------------------------------------------------------------------------------


def put_vm(cluster: Cluster, vm: Record, **changes: object) -> Document:
    """Change fields of a VM; None removes one. Within a change."""
    changed = {**vm.document, "updateTime": stamp(cluster.clock.now()), **changes}
    document = {k: v for k, v in changed.items() if v is not None}
    private = {**vm.private, "vdisks": own_vdisks(document)}
    cluster.documents.put("vm", vm.ext_id, document, private)
    return document


@operation("UpdateVm")
def update_vm(cluster: Cluster, task: RunningTask) -> None:
    """Replace what a client may change of a VM; devices have their own calls."""
    vm = require_vm(cluster, task.arguments["extId"])
    given = {k: v for k, v in task.arguments["spec"].items() if k not in _SERVER_FIELDS}
    with task.finishing() as outcome:
        put_vm(cluster, vm, **given)
        outcome.affects(VM_REL, vm.ext_id)


@operation("SetVmPower")
def set_power(cluster: Cluster, task: RunningTask) -> None:
    """Power a VM on or off; a VM has a host only while it runs (nutanix-v4 §13)."""
    vm = require_vm(cluster, task.arguments["extId"])
    state = POWER_ACTIONS[task.arguments["action"]]
    host = reference("HostReference", vm.private["affinity_host"]) if state == "ON" else None
    with task.finishing() as outcome:
        put_vm(cluster, vm, powerState=state, host=host)
        outcome.affects(VM_REL, vm.ext_id)
    cluster.refresh_devices(vm.ext_id)


@operation("MigrateVm")
def migrate_vm(cluster: Cluster, task: RunningTask) -> None:
    """Move a running VM to another host, or set where a stopped one will start."""
    vm = require_vm(cluster, task.arguments["extId"])
    host = cluster.require("host", task.arguments["hostExtId"], "vmm")
    with task.finishing() as outcome:
        cluster.documents.put(
            "vm", vm.ext_id, vm.document, {**vm.private, "affinity_host": host.ext_id}
        )
        if vm.document["powerState"] == "ON":
            moved = require_vm(cluster, vm.ext_id)
            put_vm(cluster, moved, host=reference("HostReference", host.ext_id))
        outcome.affects(VM_REL, vm.ext_id)


@operation("ChangeVmCategories")
def change_categories(cluster: Cluster, task: RunningTask) -> None:
    """Associate categories with a VM or take them away."""
    vm = require_vm(cluster, task.arguments["extId"])
    named = set(task.arguments["categories"])
    for ext_id in named:
        cluster.require("category", ext_id, "vmm")
    kept = [c for c in vm.document.get("categories", ()) if c["extId"] not in named]
    if task.arguments["associate"]:
        kept += [reference("CategoryReference", ext_id) for ext_id in sorted(named)]
    with task.finishing() as outcome:
        put_vm(cluster, vm, categories=kept)
        outcome.affects(VM_REL, vm.ext_id)


@operation("RevertVm")
def revert_vm(cluster: Cluster, task: RunningTask) -> None:
    """Put a VM's disks back to a recovery point; they become new vdisks."""
    vm = require_vm(cluster, task.arguments["extId"])
    point = cluster.require("vm_recovery_point", task.arguments["vmRecoveryPointExtId"], "vmm")
    if point.document["vmExtId"] != vm.ext_id:
        raise refuse(
            "That recovery point is of another VM.", code="VMM-20001", group="VM_INVALID_INPUT"
        )
    disks = clone_recovered_disks(cluster, task, point)
    old = vm.private["vdisks"]
    with task.finishing() as outcome:
        put_vm(cluster, require_vm(cluster, vm.ext_id), disks=disks, cdRoms=[])
        outcome.affects(VM_REL, vm.ext_id)
        for disk in disks:
            outcome.affects(f"{VM_REL}:disk", disk["extId"])
    for vdisk_id in old:
        cluster.disks.drop_live(vdisk_id)
    cluster.refresh_devices(vm.ext_id)


def clone_recovered_disks(cluster: Cluster, task: RunningTask, point: Record) -> list[Document]:
    """Clones of the data disks of a VM recovery point, at the addresses they had."""
    captured = {d["extId"]: d for d in point.document["vm"].get("disks", ()) if _is_vm_disk(d)}
    disks = []
    for row in point.private["disks"]:
        was = captured.get(row["vdisk"])
        if was is not None:
            vdisk_id = task.owns(cluster.disks.clone(row["vdisk"], row["generation"]))
            container = was["backingInfo"]["storageContainer"]["extId"]
            disks.append(disk_document(cluster, vdisk_id, was["diskAddress"], container))
    return disks


# -- volume groups on a VM -------------------------------------------------------------------------


def attach_group(cluster: Cluster, group_id: str, vm_ext_id: str, index: int | None) -> int:
    """Attach a group to a VM at a SCSI index (default: the next free one). Within a change."""
    group = cluster.require("volume_group", group_id, "volumes")
    vm = require_vm(cluster, vm_ext_id)
    attached = group.private["vm_attachments"]
    if attached and vm_ext_id not in attached and group.document["sharingStatus"] == "NOT_SHARED":
        raise _group_refusal(f"The volume group {group_id} is attached to another VM already.")
    if vm_ext_id in attached:
        raise _group_refusal(f"The volume group {group_id} is attached to this VM already.")
    taken = scsi_indexes(cluster, vm.document, vm_ext_id)
    chosen = free_index(taken) if index is None else index
    if chosen in taken:
        raise _group_refusal(f"The SCSI index {chosen} is taken on the VM {vm_ext_id}.")
    put_attachments(cluster, group, {**attached, vm_ext_id: chosen})
    entry = _object(
        "Disk",
        extId=cluster.new_id(),
        diskAddress=address_of("SCSI", chosen),
        backingInfo=_object("ADSFVolumeGroupReference", volumeGroupExtId=group_id),
    )
    put_vm(cluster, vm, disks=[*vm.document.get("disks", ()), entry])
    return chosen


def detach_group(cluster: Cluster, group_id: str, vm_ext_id: str) -> None:
    """Undo `attach_group`. Within a change."""
    group = cluster.require("volume_group", group_id, "volumes")
    vm = require_vm(cluster, vm_ext_id)
    attached = dict(group.private["vm_attachments"])
    if attached.pop(vm_ext_id, None) is None:
        raise _group_refusal(f"The volume group {group_id} is not attached to the VM {vm_ext_id}.")
    put_attachments(cluster, group, attached)
    kept = [d for d in vm.document["disks"] if d["backingInfo"].get("volumeGroupExtId") != group_id]
    put_vm(cluster, vm, disks=kept)


def put_attachments(cluster: Cluster, group: Record, attached: dict[str, int]) -> None:
    """Record to which VMs a group is attached. Within a change."""
    clients = group.private["iscsi_clients"]
    kind = "DIRECT" if attached else "EXTERNAL" if clients else "NONE"
    rows = [
        {"$objectType": "volumes.v4.config.VmAttachment", "extId": vm, "index": index}
        for vm, index in attached.items()
    ]
    rows += [
        {"$objectType": "volumes.v4.config.IscsiClientAttachment", "extId": c} for c in clients
    ]
    wrapped = [
        {"$objectType": "volumes.v4.config.AttachmentDetails", "attachment": r} for r in rows
    ]
    document = {**group.document, "attachments": wrapped, "attachmentType": kind}
    private = {**group.private, "vm_attachments": attached}
    cluster.documents.put("volume_group", group.ext_id, document, private)


def _group_refusal(message: str) -> RefusedError:
    return refuse(message, code="VOL-30010", group="VOLUME_ATTACHMENT_ERROR")
