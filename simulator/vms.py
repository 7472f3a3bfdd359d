"""Virtual machines: creating, changing, powering, cloning, reverting and deleting them.

The wire shape of a VM is its record (nutanix-v4 §12).
"""

from __future__ import annotations

import base64

from simulator.attachments import attach_group, detach_group
from simulator.clock import stamp
from simulator.cluster import Cluster, operation, refuse
from simulator.documents import Document, Record
from simulator.errors import RefusedError
from simulator.hardware import (
    VM_REL,
    disk_document,
    is_vm_disk,
    make_cd_rom,
    make_disk,
    make_nic,
    own_vdisks,
    put_vm,
    reference,
    require_vm,
    typed,
)
from simulator.places import place_of_vm, require_place
from simulator.tasks import RunningTask

_TYPE = "vmm.v4.ahv.config."
_USER_DATA_CHARACTERS_MAX = 128_000
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


# -- create, clone, delete -------------------------------------------------------------------------


@operation("CreateVm")
def create_vm(cluster: Cluster, task: RunningTask) -> None:
    """Make a VM from a request; its id was chosen when the request was taken."""
    spec, ext_id = task.arguments["spec"], task.arguments["extId"]
    user_data = read_cloud_init(spec.get("guestCustomization"))
    document, group_ids = build_vm(cluster, task, ext_id, spec)
    if user_data is not None:
        cluster.devices.prepare([document["name"]])
    with task.finishing() as outcome:
        put_new_vm(cluster, document, is_worker=user_data is not None, user_data=user_data)
        for group_id in group_ids:
            attach_group(cluster, group_id, ext_id, None)
        outcome.affects(VM_REL, ext_id, document["name"])


def read_cloud_init(customization: Document | None) -> str | None:
    """Check the user data for a first boot and return it; `None` where there is none.

    Nothing boots here, so its commands are not run. What a guest that runs them would see is there: a
    VM with cloud-init gets a folder of devices, as the workers of a new cluster have.
    """
    if not customization:
        return None
    config = customization.get("config") or {}
    if not str(config.get("$objectType", "")).endswith(".CloudInit"):
        raise _no_customization("only cloud-init is supported")
    if config.get("datasourceType", "CONFIG_DRIVE_V2") != "CONFIG_DRIVE_V2":
        raise _no_customization("only a config drive is supported")
    value = str((config.get("cloudInitScript") or {}).get("value", ""))
    if len(value) > _USER_DATA_CHARACTERS_MAX:
        raise _no_customization(f"user data has more than {_USER_DATA_CHARACTERS_MAX} characters")
    try:
        text = base64.b64decode(value, validate=True).decode()
    except ValueError as error:
        raise _no_customization("user data is not base64 of a text") from error
    if not text.startswith(("#cloud-config", "#!")):
        raise _no_customization("user data is neither a cloud-config nor a script")
    return text


def _no_customization(reason: str) -> RefusedError:
    message = f"The guest cannot be customized: {reason}."
    return refuse(message, code="VMM-20001", group="VM_INVALID_INPUT")


def put_new_vm(cluster: Cluster, document: Document, **private: object) -> Record:
    """Record a new VM. Within a change."""
    hidden = {
        "affinity_host": _hosts_of(cluster, document["cluster"]["extId"])[0].ext_id,
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
        "bootConfig": typed("LegacyBoot", bootOrder=["CDROM", "DISK", "NETWORK"]),
        "protectionType": "UNPROTECTED",
        "isAgentVm": False,
        "categories": [],
    }
    document: Document = {"$objectType": _TYPE + "Vm", **defaults, **given}
    document |= {"extId": ext_id, "createTime": now, "updateTime": now, "powerState": "OFF"}
    document |= {"biosUuid": ext_id, "generationUuid": cluster.new_id()}
    place = (spec.get("cluster") or {}).get("extId") or cluster.aos.ext_id
    document["cluster"] = reference("ClusterReference", place)
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
        "guestCustomization",
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
        "disks": [_as_clone(d) for d in source.document["disks"] if is_vm_disk(d)],
        "cdRoms": [],
    }
    if "nics" not in overrides:
        spec["nics"] = [_without_mac(nic) for nic in source.document.get("nics", ())]
    document, _groups = build_vm(cluster, task, task.arguments["extId"], spec)
    with task.finishing() as outcome:
        put_new_vm(cluster, document)
        outcome.affects(VM_REL, document["extId"], document["name"])


def _as_clone(disk: Document) -> Document:
    source = typed("VmDiskReference", diskExtId=disk["extId"])
    backing = typed("VmDisk", dataSource=typed("DataSource", reference=source))
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


@operation("UpdateVm")
def update_vm(cluster: Cluster, task: RunningTask) -> None:
    """Replace what a client may change of a VM; devices have their own calls."""
    vm = require_vm(cluster, task.arguments["extId"])
    given = {k: v for k, v in task.arguments["spec"].items() if k not in _SERVER_FIELDS}
    with task.finishing() as outcome:
        put_vm(cluster, vm.ext_id, **given)
        outcome.affects(VM_REL, vm.ext_id)


@operation("SetVmPower")
def set_power(cluster: Cluster, task: RunningTask) -> None:
    """Power a VM on or off; a VM has a host only while it runs (nutanix-v4 §13)."""
    vm = require_vm(cluster, task.arguments["extId"])
    action = task.arguments["action"]
    state = POWER_ACTIONS[action]
    if cluster.settings.guests_ignore_shutdown and action in ("shutdown", "guest-shutdown"):
        state = vm.document["powerState"]
    host = _host_that_is_up(cluster, vm) if state == "ON" else None
    with task.finishing() as outcome:
        put_vm(cluster, vm.ext_id, powerState=state, host=host)
        outcome.affects(VM_REL, vm.ext_id)
    cluster.refresh_devices(vm.ext_id)


def _host_that_is_up(cluster: Cluster, vm: Record) -> Document:
    """The host that a VM starts on: the one it was placed on, unless that is down."""
    hosts = _hosts_of(cluster, place_of_vm(vm))
    hosts.sort(key=lambda host: host.ext_id != vm.private["affinity_host"])
    for host in hosts:
        if host.document["nodeStatus"] == "NORMAL":
            return reference("HostReference", host.ext_id)
    raise refuse("No host is up.", code="VMM-20010", group="VM_NO_HOST_AVAILABLE")


def _hosts_of(cluster: Cluster, place: str) -> list[Record]:
    hosts = cluster.documents.all("host")
    return [host for host in hosts if host.document["cluster"]["uuid"] == place]


@operation("MigrateVm")
def migrate_vm(cluster: Cluster, task: RunningTask) -> None:
    """Move a running VM to another host, or set where a stopped one will start."""
    host = cluster.require("host", task.arguments["hostExtId"], "vmm")
    home = str(host.document["cluster"]["uuid"])
    with task.finishing() as outcome:
        vm = require_vm(cluster, task.arguments["extId"])
        require_place(home, place_of_vm(vm), f"The host {host.ext_id}")
        private = {**vm.private, "affinity_host": host.ext_id}
        cluster.documents.put("vm", vm.ext_id, vm.document, private)
        if vm.document["powerState"] == "ON":
            put_vm(cluster, vm.ext_id, host=reference("HostReference", host.ext_id))
        outcome.affects(VM_REL, vm.ext_id)


@operation("ChangeVmCategories")
def change_categories(cluster: Cluster, task: RunningTask) -> None:
    """Associate categories with a VM or take them away."""
    named = set(task.arguments["categories"])
    for ext_id in named:
        cluster.require("category", ext_id, "vmm")
    with task.finishing() as outcome:
        vm = require_vm(cluster, task.arguments["extId"])
        kept = [c for c in vm.document.get("categories", ()) if c["extId"] not in named]
        if task.arguments["associate"]:
            kept += [reference("CategoryReference", ext_id) for ext_id in sorted(named)]
        put_vm(cluster, vm.ext_id, categories=kept)
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
        # The guest must notice that it lives its past again.
        put_vm(cluster, vm.ext_id, disks=disks, cdRoms=[], generationUuid=cluster.new_id())
        outcome.affects(VM_REL, vm.ext_id)
        for disk in disks:
            outcome.affects(f"{VM_REL}:disk", disk["extId"])
    for vdisk_id in old:
        cluster.disks.drop_live(vdisk_id)
    cluster.refresh_devices(vm.ext_id)


def clone_recovered_disks(cluster: Cluster, task: RunningTask, point: Record) -> list[Document]:
    """Clones of the data disks of a VM recovery point, at the addresses they had."""
    captured = {d["extId"]: d for d in point.document["vm"].get("disks", ()) if is_vm_disk(d)}
    disks = []
    for row in point.private["disks"]:
        was = captured.get(row["vdisk"])
        if was is not None:
            vdisk_id = task.owns(cluster.disks.clone(row["vdisk"], row["generation"]))
            container = was["backingInfo"]["storageContainer"]["extId"]
            disks.append(disk_document(cluster, vdisk_id, was["diskAddress"], container))
    return disks
