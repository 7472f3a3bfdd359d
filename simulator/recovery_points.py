"""Recovery points: frozen content of VMs and volume groups, on three levels (nutanix-v4 §14).

Recovery point -> VM (or volume group) recovery point -> disk recovery point. The frozen bytes are a
generation of a vdisk; a disk recovery point names it and holds it.
"""

from __future__ import annotations

from collections.abc import Iterator

from simulator.clock import parse_stamp, stamp
from simulator.cluster import Cluster, operation, refuse
from simulator.documents import Document, Record
from simulator.errors import NotFoundError
from simulator.hardware import VM_REL, require_vm
from simulator.places import common_place
from simulator.tasks import RunningTask
from simulator.vms import build_vm, clone_recovered_disks, put_new_vm
from simulator.volume_groups import GROUP_REL, put_new_group, require_group
from simulator.volume_groups import clone_recovered_disks as clone_group_disks

POINT_REL = "dataprotection:config:recovery-point"
VM_POINT_REL = "dataprotection:config:vm-recovery-point"
GROUP_POINT_REL = "dataprotection:config:volume-group-recovery-point"
_TYPE = "dataprotection.v4.config."


def require_point(cluster: Cluster, ext_id: str) -> Record:
    """The top-level recovery point, or NotFoundError as dataprotection says it."""
    return cluster.require("recovery_point", ext_id, "dataprotection")


def require_vm_point(cluster: Cluster, point_id: str, ext_id: str) -> Record:
    """A VM recovery point of this recovery point."""
    record = cluster.require("vm_recovery_point", ext_id, "dataprotection")
    if record.private["recovery_point"] != point_id:
        raise NotFoundError("vm_recovery_point", ext_id, "dataprotection")
    return record


def require_group_point(cluster: Cluster, point_id: str, ext_id: str) -> Record:
    """A volume group recovery point of this recovery point."""
    record = cluster.require("vg_recovery_point", ext_id, "dataprotection")
    if record.private["recovery_point"] != point_id:
        raise NotFoundError("vg_recovery_point", ext_id, "dataprotection")
    return record


def require_disk_point(cluster: Cluster, owner_id: str, ext_id: str) -> Record:
    """A disk recovery point of this VM or volume group recovery point."""
    record = cluster.require("disk_recovery_point", ext_id, "dataprotection")
    if record.private["owner"] != owner_id:
        raise NotFoundError("disk_recovery_point", ext_id, "dataprotection")
    return record


# -- views -----------------------------------------------------------------------------------------


def show_point(cluster: Cluster, record: Record) -> Document:
    """The top-level view; what is nested in it shows no names and times (nutanix-v4 §14.2)."""
    vms = [cluster.documents.find("vm_recovery_point", i) for i in record.private["vm_points"]]
    groups = [cluster.documents.find("vg_recovery_point", i) for i in record.private["vg_points"]]
    return {
        **record.document,
        "vmRecoveryPoints": [_nested(show_vm_point(r)) for r in vms if r],
        "volumeGroupRecoveryPoints": [_nested(show_group_point(r)) for r in groups if r],
    }


def _nested(document: Document) -> Document:
    left_out = ("name", "status", "creationTime", "expirationTime", "recoveryPointType")
    return {k: v for k, v in document.items() if k not in left_out}


def show_vm_point(record: Record) -> Document:
    """A VM recovery point as dataprotection shows it."""
    kept = (
        "extId",
        "name",
        "status",
        "creationTime",
        "expirationTime",
        "recoveryPointType",
        "vmExtId",
        "locationAgnosticId",
        "consistencyGroupExtId",
        "applicationConsistentProperties",
    )
    return {
        "$objectType": _TYPE + "VmRecoveryPoint",
        **{k: record.document[k] for k in kept if k in record.document},
        "diskRecoveryPoints": _disk_rows(record) or None,
        "vmCategories": record.private["categories"],
        "hypervisorType": "AHV",
    }


def show_group_point(record: Record) -> Document:
    """A volume group recovery point as dataprotection shows it."""
    return {
        "$objectType": _TYPE + "VolumeGroupRecoveryPoint",
        **record.document,
        "diskRecoveryPoints": _disk_rows(record),
    }


def show_captured(record: Record, *, is_whole: bool) -> Document:
    """A VM recovery point as vmm shows it: with the captured VM, or a bare list entry (§14.3)."""
    document = {"$objectType": "vmm.v4.ahv.config.VmRecoveryPoint", **record.document}
    if not is_whole:
        return {k: v for k, v in document.items() if k != "vm"}
    return {**document, "diskRecoveryPoints": _disk_rows(record)}


def _disk_rows(record: Record) -> list[Document]:
    rows = []
    for row in record.private["disks"]:
        shown = {
            "$objectType": "dataprotection.v4.common.DiskRecoveryPoint",
            "diskRecoveryPointExtId": row["extId"],
        }
        rows.append({**shown, "diskExtId": row["vdisk"]} if row["is_named"] else shown)
    return rows


# -- create ----------------------------------------------------------------------------------------


@operation("CreateRecoveryPoint")
def create_point(cluster: Cluster, task: RunningTask) -> None:
    """Freeze all disks of all entities of the request at one moment."""
    spec, ids = task.arguments["spec"], task.arguments["ids"]
    vms = [require_vm(cluster, row["vmExtId"]) for row in spec.get("vmRecoveryPoints") or []]
    rows = spec.get("volumeGroupRecoveryPoints") or []
    groups = [require_group(cluster, row["volumeGroupExtId"]) for row in rows]
    _check_consistency(spec, vms)
    held = [v for r in [*vms, *groups] for v in r.private["vdisks"]]
    with cluster.disks.hold(held), task.finishing() as outcome:
        put_point(cluster, ids["extId"], spec, vms, groups, ids)
        outcome.affects(POINT_REL, ids["extId"], spec.get("name"))
        for vm_point in ids["vmPoints"].values():
            outcome.affects(VM_POINT_REL, vm_point)
        for group_point in ids["vgPoints"].values():
            outcome.affects(GROUP_POINT_REL, group_point)
        outcome.detail("recoveryPointExtId", ids["extId"])


def _check_consistency(spec: Document, vms: list[Record]) -> None:
    if spec.get("recoveryPointType") != "APPLICATION_CONSISTENT":
        return
    for vm in vms:
        if not (vm.document.get("guestTools") or {}).get("isVssSnapshotCapable"):
            raise refuse(
                f"The VM {vm.document['name']} has no guest tools that can quiesce it.",
                code="DP-10100",
                group="DATAPROTECTION_INVALID_INPUT",
            )


def put_point(
    cluster: Cluster,
    ext_id: str,
    spec: Document,
    vms: list[Record],
    groups: list[Record],
    ids: Document,
) -> None:
    """Freeze and record. The disks must be held; within a change."""
    common = {
        "name": spec.get("name") or f"recovery-point-{ext_id[:8]}",
        "status": "COMPLETE",
        "creationTime": stamp(cluster.clock.now()),
        "recoveryPointType": spec.get("recoveryPointType") or "CRASH_CONSISTENT",
    }
    if spec.get("expirationTime"):
        common["expirationTime"] = stamp(parse_stamp(spec["expirationTime"]))
    place = common_place(vms, groups)
    location = {"$objectType": _TYPE + "LocationReference", "locationExtId": place}
    document = {
        "$objectType": _TYPE + "RecoveryPoint",
        "extId": ext_id,
        **common,
        "locationAgnosticId": cluster.new_id(),
        "locationReferences": [location],
        "ownerExtId": "00000000-0000-0000-0000-000000000000",
        "isSecure": False,
        "isWormProtected": False,
    }
    rows = spec.get("vmRecoveryPoints") or []
    asked = {row["vmExtId"]: row.get("applicationConsistentProperties") for row in rows}
    private = {
        "vm_points": [
            _put_vm_point(
                cluster, ext_id, vm, common, ids["vmPoints"][vm.ext_id], asked.get(vm.ext_id)
            )
            for vm in vms
        ],
        "vg_points": [
            _put_group_point(cluster, ext_id, g, common, ids["vgPoints"][g.ext_id]) for g in groups
        ],
    }
    cluster.documents.put("recovery_point", ext_id, document, private)


def _put_vm_point(
    cluster: Cluster,
    point: str,
    vm: Record,
    common: Document,
    ext_id: str,
    properties: Document | None,
) -> str:
    disks = [_freeze(cluster, ext_id, vdisk_id, vm) for vdisk_id in vm.private["vdisks"]]
    pairs = [
        cluster.documents.find("category", c["extId"]) for c in vm.document.get("categories", ())
    ]
    categories = [f"{r.document['key']}/{r.document['value']}" for r in pairs if r]
    document = {
        **common,
        "extId": ext_id,
        "vmExtId": vm.ext_id,
        "locationAgnosticId": cluster.new_id(),
        "vm": vm.document,
    }
    if properties:
        document["applicationConsistentProperties"] = properties
    private = {"recovery_point": point, "disks": disks, "categories": categories}
    cluster.documents.put("vm_recovery_point", ext_id, document, private)
    return ext_id


def _put_group_point(
    cluster: Cluster, point: str, group: Record, common: Document, ext_id: str
) -> str:
    disks = [_freeze(cluster, ext_id, vdisk_id, None) for vdisk_id in group.private["vdisks"]]
    document = {**common, "extId": ext_id, "volumeGroupExtId": group.ext_id}
    captured = {"captured": group.private["disks"], "group": group.document}
    private = {"recovery_point": point, "disks": disks, **captured}
    cluster.documents.put("vg_recovery_point", ext_id, document, private)
    return ext_id


def _freeze(cluster: Cluster, owner: str, vdisk_id: str, vm: Record | None) -> Document:
    """Freeze one vdisk; those that are not data disks appear without their `diskExtId` (§14.2)."""
    ext_id = cluster.new_id()
    generation = cluster.disks.freeze(vdisk_id)
    is_named = vm is None or any(d["extId"] == vdisk_id for d in vm.document.get("disks", ()))
    row = {"extId": ext_id, "vdisk": vdisk_id, "generation": generation, "is_named": is_named}
    private = {"vdisk": vdisk_id, "generation": generation, "owner": owner}
    cluster.documents.put("disk_recovery_point", ext_id, {"extId": ext_id}, private)
    return row


# -- change, delete --------------------------------------------------------------------------------


@operation("UpdateRecoveryPoint")
def set_expiration(cluster: Cluster, task: RunningTask) -> None:
    """Move the end of a recovery point's life."""
    record = require_point(cluster, task.arguments["extId"])
    expires = stamp(parse_stamp(task.arguments["expirationTime"]))
    with task.finishing() as outcome:
        _put_expiration(cluster, record, "recovery_point", expires)
        for kind, ids in _below(record):
            for ext_id in ids:
                _put_expiration(cluster, cluster.require(kind, ext_id), kind, expires)
        outcome.affects(POINT_REL, record.ext_id)


def _put_expiration(cluster: Cluster, record: Record, kind: str, expires: str) -> None:
    cluster.documents.put(kind, record.ext_id, {**record.document, "expirationTime": expires})


@operation("DeleteRecoveryPoint")
def delete_point(cluster: Cluster, task: RunningTask) -> None:
    """Delete a recovery point with all below it, and let go of what it froze."""
    record = require_point(cluster, task.arguments["extId"])
    nested = [
        (kind, cluster.require(kind, ext_id)) for kind, ids in _below(record) for ext_id in ids
    ]
    rows = [row for _kind, below in nested for row in below.private["disks"]]
    with cluster.disks.hold(row["vdisk"] for row in rows), task.finishing() as outcome:
        _delete_rows(cluster, rows)
        for kind, below in nested:
            cluster.documents.delete(kind, below.ext_id)
        cluster.documents.delete("recovery_point", record.ext_id)
        outcome.affects(POINT_REL, record.ext_id)


def _below(record: Record) -> Iterator[tuple[str, list[str]]]:
    yield "vm_recovery_point", record.private["vm_points"]
    yield "vg_recovery_point", record.private["vg_points"]


def _delete_rows(cluster: Cluster, rows: list[Document]) -> None:
    for row in rows:
        cluster.documents.delete("disk_recovery_point", row["extId"])
        cluster.disks.release(row["vdisk"], row["generation"])


@operation("DeleteVmRecoveryPoint")
def delete_vm_point(cluster: Cluster, task: RunningTask) -> None:
    """Delete one VM's part of a recovery point, and the whole when nothing is left of it."""
    below = cluster.require("vm_recovery_point", task.arguments["extId"], "vmm")
    point = require_point(cluster, below.private["recovery_point"])
    rows = below.private["disks"]
    with cluster.disks.hold(row["vdisk"] for row in rows), task.finishing() as outcome:
        _delete_rows(cluster, rows)
        cluster.documents.delete("vm_recovery_point", below.ext_id)
        left = [i for i in point.private["vm_points"] if i != below.ext_id]
        if left or point.private["vg_points"]:
            private = {**point.private, "vm_points": left}
            cluster.documents.put("recovery_point", point.ext_id, point.document, private)
        else:
            cluster.documents.delete("recovery_point", point.ext_id)
        outcome.affects(VM_POINT_REL, below.ext_id)


@operation("ReplicateRecoveryPoint")
def replicate_point(cluster: Cluster, task: RunningTask) -> None:
    """Make a second recovery point over the same frozen content, as on the remote site."""
    source, ids = require_point(cluster, task.arguments["extId"]), task.arguments["ids"]
    new_ids = {"vm_recovery_point": ids["vmPoints"], "vg_recovery_point": ids["vgPoints"]}
    points = [(kind, cluster.require(kind, i)) for kind, below in _below(source) for i in below]
    rows = [row for _kind, p in points for row in p.private["disks"]]
    with cluster.disks.hold(row["vdisk"] for row in rows), task.finishing() as outcome:
        for kind, point in points:
            ext_id = new_ids[kind][point.ext_id]
            copies = [_hold_again(cluster, ext_id, row) for row in point.private["disks"]]
            private = {**point.private, "recovery_point": ids["extId"], "disks": copies}
            cluster.documents.put(kind, ext_id, {**point.document, "extId": ext_id}, private)
        document = {**source.document, "extId": ids["extId"]}
        below = {"vm_points": ids["vmPoints"], "vg_points": ids["vgPoints"]}
        private = {name: list(each.values()) for name, each in below.items()}
        cluster.documents.put("recovery_point", ids["extId"], document, private)
        outcome.affects(POINT_REL, ids["extId"])
        outcome.detail("recoveryPointExtId", ids["extId"])


def _hold_again(cluster: Cluster, owner: str, row: Document) -> Document:
    ext_id = cluster.new_id()
    cluster.disks.hold_frozen(row["vdisk"], row["generation"])
    private = {"vdisk": row["vdisk"], "generation": row["generation"], "owner": owner}
    cluster.documents.put("disk_recovery_point", ext_id, {"extId": ext_id}, private)
    return {**row, "extId": ext_id}


# -- restore ---------------------------------------------------------------------------------------


@operation("RestoreRecoveryPoint")
def restore_point(cluster: Cluster, task: RunningTask) -> None:
    """Make new VMs and volume groups out of a recovery point (nutanix-v4 §18 A)."""
    vms = [_restored_vm(cluster, task, row) for row in task.arguments["vms"]]
    groups = [_restored_group(cluster, task, row) for row in task.arguments["groups"]]
    with task.finishing() as outcome:
        for vm in vms:
            put_new_vm(cluster, vm)
            outcome.affects(VM_REL, vm["extId"], vm["name"])
        for ext_id, spec, disks in groups:
            put_new_group(cluster, ext_id, spec, disks)
            outcome.affects(GROUP_REL, ext_id, spec["name"])
        if vms:
            outcome.detail("vmExtIds", ",".join(vm["extId"] for vm in vms))
        if groups:
            outcome.detail(
                "volumeGroupExtIds", ",".join(ext_id for ext_id, _spec, _disks in groups)
            )


def _restored_group(
    cluster: Cluster, task: RunningTask, row: Document
) -> tuple[str, Document, list[Document]]:
    point = cluster.require("vg_recovery_point", row["pointExtId"], "dataprotection")
    spec = {**point.private["group"], **row["override"]}
    return row["extId"], spec, clone_group_disks(cluster, task, point)


def _restored_vm(cluster: Cluster, task: RunningTask, row: Document) -> Document:
    point = cluster.require("vm_recovery_point", row["pointExtId"], "dataprotection")
    captured, override = point.document["vm"], row["override"]
    fields = ("name", "description", "categories", "projectExtId")
    given = {k: override[k] for k in fields if override.get(k) is not None}
    spec = {**captured, **given, "disks": [], "cdRoms": [], "nics": _nics(captured, override)}
    if "name" not in given:
        spec["name"] = f"{captured['name']}-restored"
    document, _groups = build_vm(cluster, task, row["extId"], spec)
    return {**document, "disks": clone_recovered_disks(cluster, task, point)}


def _nics(captured: Document, override: Document) -> list[Document]:
    """The captured NICs without those that the request removes, changed as it says."""
    spec = override.get("nicSpec") or {}
    removed = {
        row if isinstance(row, str) else row.get("extId") for row in spec.get("nicRemoveList") or ()
    }
    changed = {row["nicExtId"]: row for row in spec.get("nicOverrideList") or ()}
    kept = [nic for nic in captured.get("nics", ()) if nic["extId"] not in removed]
    return [{**nic, **changed.get(nic["extId"], {})} for nic in kept]
