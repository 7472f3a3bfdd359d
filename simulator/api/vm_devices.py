"""vmm: disks, CD-ROM drives, NICs and the other devices of a VM, and its guest tools (nutanix-v4 §11)."""

from __future__ import annotations

from simulator.api.routes import Answer, Call, Catalogue
from simulator.api.vmm import VM, tagged_vm
from simulator.cluster import entity_tag
from simulator.hardware import VM_REL, require_vm
from simulator.vm_devices import FIELDS, require_device

catalogue = Catalogue("vmm", "vmm.v4.ahv.config")
route = catalogue.route

DISKS, DISK = f"{VM}/disks", f"{VM}/disks/{{device}}"
DRIVES, DRIVE = f"{VM}/cd-roms", f"{VM}/cd-roms/{{device}}"
NICS, NIC = f"{VM}/nics", f"{VM}/nics/{{device}}"


def _list(call: Call, kind: str) -> Answer:
    vm = require_vm(call.cluster, call.params["vm"])
    return call.page(vm.document.get(FIELDS[kind], []))


def _get(call: Call, kind: str) -> Answer:
    device = require_device(
        require_vm(call.cluster, call.params["vm"]), kind, call.params["device"]
    )
    return Answer(device, tag=entity_tag(device))


def _create(call: Call, operation: str) -> Answer:
    vm = tagged_vm(call)
    return call.task(operation, {"vmExtId": vm.ext_id, "spec": call.body}, (VM_REL, vm.ext_id))


def _change(call: Call, kind: str, operation: str, **arguments: object) -> Answer:
    """A change of one device, for which the device's own ETag counts (§10)."""
    vm = require_vm(call.cluster, call.params["vm"])
    device = require_device(vm, kind, call.params["device"])
    call.check_tag(entity_tag(device))
    given = {
        "vmExtId": vm.ext_id,
        "extId": device["extId"],
        "kind": kind,
        "spec": call.body,
        **arguments,
    }
    return call.task(operation, given, (VM_REL, vm.ext_id), (f"{VM_REL}:{kind}", device["extId"]))


@route("GET", DISKS)
def list_disks(call: Call) -> Answer:
    return _list(call, "disk")


@route("POST", DISKS)
def create_disk(call: Call) -> Answer:
    call.need("backingInfo")
    return _create(call, "CreateDisk")


@route("GET", DISK)
def get_disk(call: Call) -> Answer:
    return _get(call, "disk")


@route("PUT", DISK)
def update_disk(call: Call) -> Answer:
    return _change(call, "disk", "UpdateDisk")


@route("DELETE", DISK)
def delete_disk(call: Call) -> Answer:
    return _change(call, "disk", "DeleteDevice")


@route("GET", DRIVES)
def list_cd_roms(call: Call) -> Answer:
    return _list(call, "cdrom")


@route("POST", DRIVES)
def create_cd_rom(call: Call) -> Answer:
    return _create(call, "CreateCdRom")


@route("GET", DRIVE)
def get_cd_rom(call: Call) -> Answer:
    return _get(call, "cdrom")


@route("DELETE", DRIVE)
def delete_cd_rom(call: Call) -> Answer:
    return _change(call, "cdrom", "DeleteDevice")


@route("POST", f"{DRIVE}/$actions/insert")
def insert_cd_rom(call: Call) -> Answer:
    call.need("backingInfo")
    return _change(call, "cdrom", "ChangeMedium", backingInfo=call.body["backingInfo"])


@route("POST", f"{DRIVE}/$actions/eject")
def eject_cd_rom(call: Call) -> Answer:
    return _change(call, "cdrom", "ChangeMedium")


@route("GET", NICS)
def list_nics(call: Call) -> Answer:
    return _list(call, "nic")


@route("POST", NICS)
def create_nic(call: Call) -> Answer:
    return _create(call, "CreateNic")


@route("GET", NIC)
def get_nic(call: Call) -> Answer:
    return _get(call, "nic")


@route("PUT", NIC)
def update_nic(call: Call) -> Answer:
    return _change(call, "nic", "UpdateNic")


@route("DELETE", NIC)
def delete_nic(call: Call) -> Answer:
    return _change(call, "nic", "DeleteDevice")


def _none(call: Call) -> Answer:
    """No simulated VM has devices of this kind."""
    require_vm(call.cluster, call.params["vm"])
    return call.page([])


@route("GET", f"{VM}/gpus")
def list_gpus(call: Call) -> Answer:
    return _none(call)


@route("GET", f"{VM}/serial-ports")
def list_serial_ports(call: Call) -> Answer:
    return _none(call)


@route("GET", f"{VM}/pcie-devices")
def list_pcie_devices(call: Call) -> Answer:
    return _none(call)


@route("GET", f"{VM}/guest-tools")
def get_guest_tools(call: Call) -> Answer:
    vm = require_vm(call.cluster, call.params["vm"])
    absent = {
        "$objectType": "vmm.v4.ahv.config.GuestTools",
        "isInstalled": False,
        "isEnabled": False,
    }
    return Answer(vm.document.get("guestTools") or absent, tag=entity_tag(vm.document, vm.revision))
