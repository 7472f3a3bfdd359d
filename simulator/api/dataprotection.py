"""dataprotection: recovery points on Prism Central, changed regions on Prism Element (§14, §15)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simulator.api.routes import Answer, Call, Catalogue
from simulator.clock import parse_stamp
from simulator.cluster import entity_tag, refuse
from simulator.documents import Document, Record
from simulator.errors import SchemaError
from simulator.hardware import require_vm
from simulator.recovery_points import (
    POINT_REL,
    require_point,
    require_vm_point,
    show_point,
    show_vm_point,
)
from simulator.volume_groups import require_group

catalogue = Catalogue("dataprotection", "dataprotection.v4.config")
route = catalogue.route

POINTS = "/config/recovery-points"
POINT = f"{POINTS}/{{point}}"
_FILTERS = [
    "name",
    "extId",
    "creationTime",
    "locationAgnosticId",
    "ownerExtId",
    "recoveryPointType",
    "vmRecoveryPoints",
    "volumeGroupRecoveryPoints",
]
_ENTITY_COUNT_MAX = 32


@route("GET", POINTS)
def list_recovery_points(call: Call) -> Answer:
    shown = [show_point(call.cluster, r) for r in call.cluster.documents.all("recovery_point")]
    return call.page(
        shown, filters=_FILTERS, orders=("creationTime", "expirationTime", "name", "ownerExtId")
    )


@route("POST", POINTS, needs_request_id=True)
def create_recovery_point(call: Call) -> Answer:
    vms = [row.get("vmExtId", "") for row in call.body.get("vmRecoveryPoints") or []]
    groups = [
        row.get("volumeGroupExtId", "") for row in call.body.get("volumeGroupRecoveryPoints") or []
    ]
    if not 1 <= len(vms) + len(groups) <= _ENTITY_COUNT_MAX:
        raise SchemaError(
            "A recovery point covers 1 to 32 VMs and volume groups.", "vmRecoveryPoints"
        )
    _check_expiry(call)
    for vm in vms:
        require_vm(call.cluster, vm)
    for group in groups:
        require_group(call.cluster, group)
    new_id = call.cluster.new_id
    ids: dict[str, Any] = {"extId": new_id(), "vmPoints": {vm: new_id() for vm in vms}}
    ids["vgPoints"] = {group: new_id() for group in groups}
    return call.task(
        "CreateRecoveryPoint", {"spec": call.body, "ids": ids}, (POINT_REL, ids["extId"])
    )


def _check_expiry(call: Call) -> None:
    text = call.body.get("expirationTime")
    if text is None:
        return
    try:
        moment = parse_stamp(text)
    except ValueError as error:
        raise SchemaError(f"{text!r} is not a time.", "expirationTime") from error
    if moment <= call.cluster.clock.now():
        raise refuse(
            f"The expiration time {text} is not in the future.",
            code="DP-10100",
            group="DATAPROTECTION_INVALID_INPUT",
        )


@route("GET", POINT)
def get_recovery_point_by_id(call: Call) -> Answer:
    record = require_point(call.cluster, call.params["point"])
    return Answer(show_point(call.cluster, record), tag=_tag(record))


def _tag(record: Record) -> str:
    return entity_tag(record.document, record.revision)


@route("DELETE", POINT, needs_request_id=True)
def delete_recovery_point_by_id(call: Call) -> Answer:
    record = require_point(call.cluster, call.params["point"])
    call.check_tag(_tag(record), is_required=False)
    return call.task("DeleteRecoveryPoint", {"extId": record.ext_id}, (POINT_REL, record.ext_id))


@route("GET", f"{POINT}/vm-recovery-points/{{vm_point}}")
def get_vm_recovery_point_by_id(call: Call) -> Answer:
    require_point(call.cluster, call.params["point"])
    record = require_vm_point(call.cluster, call.params["point"], call.params["vm_point"])
    return Answer(show_vm_point(record), tag=_tag(record))


@route("POST", f"{POINT}/$actions/set-expiration-time", needs_request_id=True)
def set_recovery_point_expiration_time(call: Call) -> Answer:
    record = require_point(call.cluster, call.params["point"])
    call.need("expirationTime")
    _check_expiry(call)
    call.check_tag(_tag(record), is_required=False)
    arguments = {"extId": record.ext_id, "expirationTime": call.body["expirationTime"]}
    return call.task("UpdateRecoveryPoint", arguments, (POINT_REL, record.ext_id))


@route("POST", f"{POINT}/$actions/replicate", needs_request_id=True)
def replicate_recovery_point(call: Call) -> Answer:
    record = require_point(call.cluster, call.params["point"])
    call.need("pcExtId", "clusterExtId")
    new_id = call.cluster.new_id
    ids: dict[str, Any] = {"extId": new_id()}
    ids["vmPoints"] = {i: new_id() for i in record.private["vm_points"]}
    ids["vgPoints"] = {i: new_id() for i in record.private["vg_points"]}
    arguments = {"extId": record.ext_id, "ids": ids}
    return call.task("ReplicateRecoveryPoint", arguments, (POINT_REL, record.ext_id))


@route("POST", f"{POINT}/$actions/restore", needs_request_id=True)
def restore_recovery_point(call: Call) -> Answer:
    record = require_point(call.cluster, call.params["point"])
    new_id = call.cluster.new_id
    vm_overrides = _overrides(call, "vmRecoveryPoint", "vmOverrideSpec")
    group_overrides = _overrides(call, "volumeGroupRecoveryPoint", "volumeGroupOverrideSpec")
    # Overrides, where given, also choose what is restored.
    vm_points = [p for p in record.private["vm_points"] if not vm_overrides or p in vm_overrides]
    groups = [p for p in record.private["vg_points"] if not group_overrides or p in group_overrides]

    def row(point: str, overrides: Mapping[str, Document]) -> Document:
        return {"pointExtId": point, "extId": new_id(), "override": overrides.get(point, {})}

    arguments = {
        "vms": [row(point, vm_overrides) for point in vm_points],
        "groups": [row(point, group_overrides) for point in groups],
    }
    return call.task("RestoreRecoveryPoint", arguments, (POINT_REL, record.ext_id))


def _overrides(call: Call, entity: str, field: str) -> dict[str, Document]:
    rows = call.body.get(f"{entity}RestoreOverrides") or []
    return {row[f"{entity}ExtId"]: row.get(field) or {} for row in rows}


# -- capabilities ----------------------------------------------------------------------------------


@route("GET", "/config/cluster-capabilities", since_minor=2)
def list_cluster_capabilities(call: Call) -> Answer:
    row = {
        "$objectType": "dataprotection.v4.config.ClusterCapability",
        "clusterExtId": call.cluster.aos.ext_id,
        "capabilities": [],
    }
    return call.page([row])


@route("GET", "/config/recovery-point-stores", since_minor=4)
def list_recovery_point_stores(call: Call) -> Answer:
    return call.page([])
