"""vmm: virtual machines with their devices, VM recovery points, images (nutanix-v4 §11-§14, §17)."""

from __future__ import annotations

from simulator.api.routes import Answer, Call, Catalogue
from simulator.cluster import entity_tag
from simulator.documents import Record
from simulator.errors import SchemaError
from simulator.hardware import VM_REL, require_vm
from simulator.recovery_points import VM_POINT_REL, show_captured
from simulator.vms import POWER_ACTIONS

catalogue = Catalogue("vmm", "vmm.v4.ahv.config")
route = catalogue.route

VMS = "/ahv/config/vms"
VM = f"{VMS}/{{vm}}"
_VM_FILTERS = [
    "name",
    "extId",
    "cluster/extId",
    "host/extId",
    "powerState",
    "isAgentVm",
    "machineType",
    "memorySizeBytes",
    "numSockets",
    "numCoresPerSocket",
    "numThreadsPerCore",
    "isGpuConsoleEnabled",
    "isVgaConsoleEnabled",
    "isCpuPassthroughEnabled",
    "nics",
    "gpus",
]
_VM_ORDERS = ("name", "memorySizeBytes", "numSockets", "numCoresPerSocket", "numThreadsPerCore")


def _tag(vm: Record) -> str:
    return entity_tag(vm.document, vm.revision)


def tagged_vm(call: Call) -> Record:
    """The VM of the path, with its ETag checked as every change of a VM needs it (§10)."""
    vm = require_vm(call.cluster, call.params["vm"])
    call.check_tag(_tag(vm))
    return vm


@route("GET", VMS)
def list_vms(call: Call) -> Answer:
    vms = [r.document for r in call.cluster.documents.all("vm")]
    return call.page(vms, filters=_VM_FILTERS, orders=_VM_ORDERS)


@route("POST", VMS, needs_request_id=True)
def create_vm(call: Call) -> Answer:
    call.need("name", "cluster")
    if len(call.body["name"]) > 80:
        raise SchemaError("A VM name has at most 80 characters.", "name")
    call.cluster.require("cluster", call.body["cluster"].get("extId", ""), "vmm")
    ext_id = call.cluster.new_id()
    return call.task("CreateVm", {"extId": ext_id, "spec": call.body}, (VM_REL, ext_id))


@route("GET", VM)
def get_vm(call: Call) -> Answer:
    vm = require_vm(call.cluster, call.params["vm"])
    return Answer(vm.document, tag=_tag(vm))


@route("PUT", VM)
def update_vm_by_id(call: Call) -> Answer:
    vm = tagged_vm(call)
    return call.task("UpdateVm", {"extId": vm.ext_id, "spec": call.body}, (VM_REL, vm.ext_id))


@route("DELETE", VM)
def delete_vm_by_id(call: Call) -> Answer:
    vm = tagged_vm(call)
    return call.task("DeleteVm", {"extId": vm.ext_id}, (VM_REL, vm.ext_id))


def _power(call: Call, action: str) -> Answer:
    vm = tagged_vm(call)
    arguments = {"extId": vm.ext_id, "action": action}
    is_start = POWER_ACTIONS[action] == "ON"
    settings = call.cluster.settings
    duration_s = settings.power_on_s if is_start else settings.task_s
    return call.task("SetVmPower", arguments, (VM_REL, vm.ext_id), duration_s=duration_s)


@route("POST", f"{VM}/$actions/power-on", needs_request_id=True)
def power_on_vm(call: Call) -> Answer:
    return _power(call, "power-on")


@route("POST", f"{VM}/$actions/power-off", needs_request_id=True)
def power_off_vm(call: Call) -> Answer:
    return _power(call, "power-off")


@route("POST", f"{VM}/$actions/shutdown", needs_request_id=True)
def shutdown_vm(call: Call) -> Answer:
    return _power(call, "shutdown")


@route("POST", f"{VM}/$actions/power-cycle", needs_request_id=True)
def power_cycle_vm(call: Call) -> Answer:
    return _power(call, "power-cycle")


@route("POST", f"{VM}/$actions/reset", needs_request_id=True)
def reset_vm(call: Call) -> Answer:
    return _power(call, "reset")


@route("POST", f"{VM}/$actions/reboot", needs_request_id=True)
def reboot_vm(call: Call) -> Answer:
    return _power(call, "reboot")


@route("POST", f"{VM}/$actions/guest-shutdown", needs_request_id=True)
def shutdown_guest_vm(call: Call) -> Answer:
    return _power(call, "guest-shutdown")


@route("POST", f"{VM}/$actions/guest-reboot", needs_request_id=True)
def reboot_guest_vm(call: Call) -> Answer:
    return _power(call, "guest-reboot")


@route("POST", f"{VM}/$actions/clone")
def clone_vm(call: Call) -> Answer:
    vm = tagged_vm(call)
    ext_id = call.cluster.new_id()
    spec = {"name": f"{vm.document['name']}-clone", **call.body}
    arguments = {"sourceExtId": vm.ext_id, "extId": ext_id, "spec": spec}
    return call.task("CloneVm", arguments, (VM_REL, ext_id))


@route("POST", f"{VM}/$actions/revert")
def revert_vm(call: Call) -> Answer:
    vm = tagged_vm(call)
    call.need("vmRecoveryPointExtId")
    point = call.cluster.require("vm_recovery_point", call.body["vmRecoveryPointExtId"], "vmm")
    arguments = {"extId": vm.ext_id, "vmRecoveryPointExtId": point.ext_id}
    return call.task("RevertVm", arguments, (VM_REL, vm.ext_id))


@route("POST", f"{VM}/$actions/migrate-to-host")
def migrate_vm_to_host(call: Call) -> Answer:
    vm = tagged_vm(call)
    call.need("host")
    host = call.cluster.require("host", call.body["host"].get("extId", ""), "vmm")
    return call.task(
        "MigrateVm", {"extId": vm.ext_id, "hostExtId": host.ext_id}, (VM_REL, vm.ext_id)
    )


def _categories(call: Call, *, associate: bool) -> Answer:
    vm = tagged_vm(call)
    call.need("categories")
    named = [row["extId"] for row in call.body["categories"]]
    arguments = {"extId": vm.ext_id, "categories": named, "associate": associate}
    return call.task("ChangeVmCategories", arguments, (VM_REL, vm.ext_id))


@route("POST", f"{VM}/$actions/associate-categories")
def associate_categories(call: Call) -> Answer:
    return _categories(call, associate=True)


@route("POST", f"{VM}/$actions/disassociate-categories")
def disassociate_categories(call: Call) -> Answer:
    return _categories(call, associate=False)


# -- recovery points, the vmm view -----------------------------------------------------------------


@route("GET", "/ahv/config/vm-recovery-points", since_minor=1)
def list_vm_recovery_points(call: Call) -> Answer:
    points = call.cluster.documents.all("vm_recovery_point")
    shown = [show_captured(record, is_whole=False) for record in points]
    return call.page(
        shown, filters=("name", "extId", "vmExtId", "creationTime"), orders=("name", "creationTime")
    )


@route("GET", "/ahv/config/vm-recovery-points/{point}", since_minor=1)
def get_vm_recovery_point_by_id(call: Call) -> Answer:
    record = call.cluster.require("vm_recovery_point", call.params["point"], "vmm")
    return Answer(
        show_captured(record, is_whole=True), tag=entity_tag(record.document, record.revision)
    )


@route("POST", "/ahv/config/vm-recovery-points", since_minor=1, needs_request_id=True)
def create_vm_recovery_point(call: Call) -> Answer:
    call.need("vmExtId")
    vm = require_vm(call.cluster, call.body["vmExtId"])
    point, vm_point = call.cluster.new_id(), call.cluster.new_id()
    ids = {"extId": point, "vmPoints": {vm.ext_id: vm_point}, "vgPoints": {}}
    spec = {**call.body, "vmRecoveryPoints": [{"vmExtId": vm.ext_id}]}
    return call.task("CreateRecoveryPoint", {"spec": spec, "ids": ids}, (VM_POINT_REL, vm_point))


@route("DELETE", "/ahv/config/vm-recovery-points/{point}", since_minor=1)
def delete_vm_recovery_point_by_id(call: Call) -> Answer:
    record = call.cluster.require("vm_recovery_point", call.params["point"], "vmm")
    return call.task(
        "DeleteVmRecoveryPoint", {"extId": record.ext_id}, (VM_POINT_REL, record.ext_id)
    )


@route("POST", "/ahv/config/vm-recovery-points/{point}/$actions/restore", since_minor=1)
def restore_vm_recovery_point(call: Call) -> Answer:
    record = call.cluster.require("vm_recovery_point", call.params["point"], "vmm")
    override = call.body.get("vmConfigOverrideSpec") or {}
    new_id = call.cluster.new_id()
    row = {"pointExtId": record.ext_id, "extId": new_id, "override": override}
    return call.task("RestoreRecoveryPoint", {"vms": [row], "groups": []}, (VM_REL, new_id))


# -- what a VM is called and whose it is -----------------------------------------------------------


@route("POST", f"{VM}/$actions/assign-owner")
def assign_vm_owner(call: Call) -> Answer:
    vm = tagged_vm(call)
    call.need("owner")
    owner = {"$objectType": "vmm.v4.ahv.config.OwnershipInfo", "owner": call.body["owner"]}
    arguments = {"extId": vm.ext_id, "spec": {"ownershipInfo": owner}}
    return call.task("UpdateVm", arguments, (VM_REL, vm.ext_id))


def _attributes(call: Call, *, adds: bool) -> Answer:
    """Custom attributes are texts like `key:value` (§12)."""
    vm = tagged_vm(call)
    call.need("customAttributes")
    named = list(call.body["customAttributes"])
    kept = [a for a in vm.document.get("customAttributes", ()) if a not in named]
    spec = {"customAttributes": kept + named if adds else kept}
    return call.task("UpdateVm", {"extId": vm.ext_id, "spec": spec}, (VM_REL, vm.ext_id))


@route("POST", f"{VM}/$actions/add-custom-attributes", since_minor=2)
def add_vm_custom_attributes(call: Call) -> Answer:
    return _attributes(call, adds=True)


@route("POST", f"{VM}/$actions/remove-custom-attributes", since_minor=2)
def remove_vm_custom_attributes(call: Call) -> Answer:
    return _attributes(call, adds=False)
