"""Disks, CD-ROM drives and NICs of VMs that exist: adding, changing and removing them (nutanix-v4 §11, §12)."""

from __future__ import annotations

from collections.abc import Callable

from simulator.cluster import Cluster, operation, refuse
from simulator.documents import Document, Record
from simulator.errors import NotFoundError
from simulator.hardware import (
    VM_REL,
    addresses,
    is_vm_disk,
    make_backing,
    make_cd_rom,
    make_disk,
    make_nic,
    put_vm,
    require_vm,
)
from simulator.tasks import Outcome, RunningTask

# Where each kind of device stands in the record of its VM, and how tasks name it.
FIELDS = {"disk": "disks", "cdrom": "cdRoms", "nic": "nics"}


def require_device(vm: Record, kind: str, ext_id: str) -> Document:
    """One device of a VM, or NotFoundError as vmm says it."""
    for device in vm.document.get(FIELDS[kind], ()):
        if device["extId"] == ext_id:
            return dict(device)
    raise NotFoundError(kind, ext_id, "vmm")


def _finish(
    cluster: Cluster,
    task: RunningTask,
    kind: str,
    change: Callable[[Record, Outcome], list[Document]],
) -> None:
    """Put the devices that `change` makes of those the VM has now, and show a worker its disks."""
    with task.finishing() as outcome:
        vm = require_vm(cluster, task.arguments["vmExtId"])
        put_vm(cluster, vm.ext_id, **{FIELDS[kind]: change(vm, outcome)})
        outcome.affects(VM_REL, vm.ext_id)
    cluster.refresh_devices(vm.ext_id)


@operation("CreateDisk")
def create_disk(cluster: Cluster, task: RunningTask) -> None:
    """Add a disk; on a running VM it appears at once."""
    taken = addresses(require_vm(cluster, task.arguments["vmExtId"]).document)
    _add(cluster, task, "disk", make_disk(cluster, task, task.arguments["spec"], taken))


@operation("CreateCdRom")
def create_cd_rom(cluster: Cluster, task: RunningTask) -> None:
    """Add a CD-ROM drive."""
    taken = addresses(require_vm(cluster, task.arguments["vmExtId"]).document)
    _add(cluster, task, "cdrom", make_cd_rom(cluster, task, task.arguments["spec"], taken))


@operation("CreateNic")
def create_nic(cluster: Cluster, task: RunningTask) -> None:
    """Add a NIC."""
    _add(cluster, task, "nic", make_nic(cluster, task.arguments["spec"]))


def _add(cluster: Cluster, task: RunningTask, kind: str, device: Document) -> None:
    def change(vm: Record, outcome: Outcome) -> list[Document]:
        outcome.affects(f"{VM_REL}:{kind}", device["extId"])
        return [*vm.document.get(FIELDS[kind], ()), device]

    _finish(cluster, task, kind, change)


@operation("UpdateDisk")
def update_disk(cluster: Cluster, task: RunningTask) -> None:
    """Grow a disk; it cannot shrink, and everything else about it stays."""
    vm = require_vm(cluster, task.arguments["vmExtId"])
    disk = require_device(vm, "disk", task.arguments["extId"])
    if not is_vm_disk(disk):
        raise refuse("That disk is a volume group.", code="VMM-20001", group="VM_INVALID_INPUT")
    backing = task.arguments["spec"].get("backingInfo") or {}
    size = int(backing.get("diskSizeBytes") or disk["backingInfo"]["diskSizeBytes"])
    if size < disk["backingInfo"]["diskSizeBytes"]:
        raise refuse("A disk cannot shrink.", code="VMM-20001", group="VM_INVALID_INPUT")
    cluster.disks.grow(disk["extId"], size)
    _replace(
        cluster,
        task,
        "disk",
        {**disk, "backingInfo": {**disk["backingInfo"], "diskSizeBytes": size}},
    )


@operation("UpdateNic")
def update_nic(cluster: Cluster, task: RunningTask) -> None:
    """Replace what a NIC is connected to; its id stays."""
    old = require_device(
        require_vm(cluster, task.arguments["vmExtId"]), "nic", task.arguments["extId"]
    )
    spec = task.arguments["spec"]
    backing = {
        **old["nicBackingInfo"],
        **(spec.get("nicBackingInfo") or spec.get("backingInfo") or {}),
    }
    network = {
        **old["nicNetworkInfo"],
        **(spec.get("nicNetworkInfo") or spec.get("networkInfo") or {}),
    }
    made = make_nic(cluster, {"nicBackingInfo": backing, "nicNetworkInfo": network})
    _replace(cluster, task, "nic", {**made, "extId": old["extId"]})


def _replace(cluster: Cluster, task: RunningTask, kind: str, device: Document) -> None:
    def change(vm: Record, outcome: Outcome) -> list[Document]:
        require_device(vm, kind, device["extId"])
        outcome.affects(f"{VM_REL}:{kind}", device["extId"])
        return [device if d["extId"] == device["extId"] else d for d in vm.document[FIELDS[kind]]]

    _finish(cluster, task, kind, change)


@operation("DeleteDevice")
def delete_device(cluster: Cluster, task: RunningTask) -> None:
    """Remove a disk, a drive or a NIC; a disk's content goes with it."""
    kind, ext_id = task.arguments["kind"], task.arguments["extId"]
    vm = require_vm(cluster, task.arguments["vmExtId"])
    device = require_device(vm, kind, ext_id)
    if kind == "disk" and not is_vm_disk(device):
        raise refuse("Detach the volume group instead.", code="VMM-20001", group="VM_INVALID_INPUT")

    def change(vm: Record, outcome: Outcome) -> list[Document]:
        outcome.affects(f"{VM_REL}:{kind}", ext_id)
        return [d for d in vm.document[FIELDS[kind]] if d["extId"] != ext_id]

    _finish(cluster, task, kind, change)
    content = (
        device["backingInfo"]["diskExtId"] if device.get("backingInfo") and kind != "nic" else ""
    )
    if content in vm.private["vdisks"]:
        cluster.disks.drop_live(content)


@operation("ChangeMedium")
def change_medium(cluster: Cluster, task: RunningTask) -> None:
    """Insert a medium into a drive, or eject what is in it."""
    vm = require_vm(cluster, task.arguments["vmExtId"])
    drive = require_device(vm, "cdrom", task.arguments["extId"])
    backing = task.arguments.get("backingInfo")
    medium: Document | None = None
    if backing:
        vdisk_id, container = make_backing(cluster, task, backing)
        medium = {
            "$objectType": "vmm.v4.ahv.config.VmDisk",
            "diskExtId": vdisk_id,
            "diskSizeBytes": cluster.disks.get(vdisk_id).live.size_bytes,
            "storageContainer": {"extId": container},
        }
    _replace(cluster, task, "cdrom", {**drive, "backingInfo": medium})
    old = (drive.get("backingInfo") or {}).get("diskExtId")
    if old:
        cluster.disks.drop_live(old)
