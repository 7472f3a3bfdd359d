"""dataprotection: recovery points on Prism Central, changed regions on Prism Element (§14, §15)."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from simulator import tokens
from simulator.api.routes import Answer, Call, Catalogue
from simulator.clock import parse_stamp
from simulator.cluster import entity_tag, refuse
from simulator.documents import Document, Record
from simulator.errors import SchemaError, UnauthorisedError
from simulator.hardware import require_vm
from simulator.recovery_points import (
    POINT_REL,
    require_disk_point,
    require_point,
    require_vm_point,
    show_point,
    show_vm_point,
)
from simulator.regions import BLOCK_SIZES_BYTES, Frozen, compute_page
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
    ids = {"extId": new_id(), "vmPoints": {i: new_id() for i in record.private["vm_points"]}}
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


# -- changed regions -------------------------------------------------------------------------------


@route("POST", f"{POINT}/$actions/discover-cluster", reads=True, prefix="dataprotection.v4.content")
def discover_cluster_for_recovery_point_id(call: Call) -> Answer:
    """Where the content calls go, and the token that opens that door for one pair of disks."""
    require_point(call.cluster, call.params["point"])
    operation, spec = call.body.get("operation"), call.body.get("spec") or {}
    if operation == "GET_VSS_METADATA":
        raise refuse(
            "The recovery point is not application-consistent with stored metadata.",
            code="DP-10100",
            group="DATAPROTECTION_INVALID_INPUT",
        )
    if operation != "COMPUTE_CHANGED_REGIONS":
        raise SchemaError(f"{operation!r} is not an operation.", "operation")
    target = _chain(call, spec.get("diskRecoveryPoint") or {})
    wanted = spec.get("referenceDiskRecoveryPoint")
    reference = _chain(call, wanted) if wanted else None
    minor = call.cluster.settings.content_minor
    version = f"v4.{call.minor if minor is None else minor}"
    now_s = call.cluster.clock.now_s()
    claims = {
        "iss": "prism-central",
        "iat": int(now_s),
        "exp": now_s + call.cluster.settings.token_life_s,
        "scope": f"/api/dataprotection/{version}/content",
        "diskRecoveryPointExtId": target,
        "referenceDiskRecoveryPointExtId": reference,
    }
    host = call.urls["element"].split("//")[1].rsplit(":", 1)[0]
    address = {"ipv4": {"value": host, "prefixLength": 32}}
    data = {
        "$objectType": "dataprotection.v4.common.ClusterInfo",
        "jwtToken": tokens.sign(claims, call.cluster.secret),
        "clusterIp": address,
    }
    return Answer(data)


def _chain(call: Call, spec: Document) -> str:
    """Check the three ids of a reference against each other and return the lowest."""
    names = ("recoveryPointExtId", "diskRecoveryPointExtId")
    for name in names:
        if not spec.get(name):
            raise SchemaError(f"The field {name} is required.", name)
    require_point(call.cluster, spec["recoveryPointExtId"])
    owner = spec.get("vmRecoveryPointExtId")
    if owner:
        require_vm_point(call.cluster, spec["recoveryPointExtId"], owner)
    else:
        owner = spec.get("volumeGroupRecoveryPointExtId", "")
        call.cluster.require("vg_recovery_point", owner, "dataprotection")
    return require_disk_point(call.cluster, owner, spec["diskRecoveryPointExtId"]).ext_id


CONTENT = "/content/recovery-points/{point}"
_COMPUTE = "disk-recovery-points/{disk_point}/$actions/compute-changed-regions"


@route(
    "POST",
    f"{CONTENT}/vm-recovery-points/{{owner}}/{_COMPUTE}",
    reads=True,
    on_element=True,
    prefix="dataprotection.v4.content",
)
def vm_recovery_point_compute_changed_regions(call: Call) -> Answer:
    require_vm_point(call.cluster, call.params["point"], call.params["owner"])
    return _compute(call, "referenceVmRecoveryPointExtId")


@route(
    "POST",
    f"{CONTENT}/volume-group-recovery-points/{{owner}}/{_COMPUTE}",
    reads=True,
    on_element=True,
    prefix="dataprotection.v4.content",
)
def volume_group_recovery_point_compute_changed_regions(call: Call) -> Answer:
    call.cluster.require("vg_recovery_point", call.params["owner"], "dataprotection")
    return _compute(call, "referenceVolumeGroupRecoveryPointExtId")


def _compute(call: Call, owner_field: str) -> Answer:
    point = require_disk_point(call.cluster, call.params["owner"], call.params["disk_point"])
    fields = ("referenceRecoveryPointExtId", owner_field, "referenceDiskRecoveryPointExtId")
    given = [call.body.get(name) for name in fields]
    if any(given) and not all(given):
        raise SchemaError("Give all three reference ids or none.", fields[2])
    reference = _reference(call, *given) if all(given) else None
    _check_token(call, point.ext_id, reference.ext_id if reference else None)
    newer = _frozen(point)
    older = _frozen(reference) if reference else None
    if older and older.vdisk != newer.vdisk:
        raise refuse(
            "The reference is a recovery point of another disk.",
            code="DP-10100",
            group="DATAPROTECTION_INVALID_INPUT",
        )
    return _page(call, newer, older)


def _reference(call: Call, point: Any, owner: Any, disk_point: Any) -> Record:
    require_point(call.cluster, point)
    return require_disk_point(call.cluster, owner, disk_point)


def _frozen(record: Record) -> Frozen:
    return Frozen(record.private["vdisk"], record.private["generation"])


def _check_token(call: Call, disk_point: str, reference: str | None) -> None:
    """The token opens one version of the path for one pair of disks (§15.1, §23 rule 10)."""
    scope = f"/api/dataprotection/v4.{call.minor}/content"
    if call.claims["scope"] != scope:
        raise UnauthorisedError(
            f"The token's scope {call.claims['scope']} does not match the base path {scope}."
        )
    pair = (call.claims["diskRecoveryPointExtId"], call.claims["referenceDiskRecoveryPointExtId"])
    if pair[0] != disk_point or reference not in (None, pair[1]):
        raise UnauthorisedError("The token was made for other disk recovery points.", status=403)


def _page(call: Call, newer: Frozen, older: Frozen | None) -> Answer:
    settings = call.cluster.settings
    block = call.body.get("blockSizeByte") or BLOCK_SIZES_BYTES[0]
    if block not in BLOCK_SIZES_BYTES:
        raise SchemaError(
            f"blockSizeByte is one of {BLOCK_SIZES_BYTES}, not {block}.", "blockSizeByte"
        )
    offset, length = call.body.get("offset") or 0, call.body.get("length")
    if offset < 0 or (length is not None and length <= 0):
        raise SchemaError("offset and length are not negative.", "offset")
    page = compute_page(
        call.cluster.disks,
        newer,
        older,
        offset=offset,
        length=length,
        block_bytes=block,
        count_max=settings.region_count_max,
        holes_as=settings.holes_as,
    )
    pairs = [("fileSize", str(page.file_size_bytes))]
    if page.next_offset or settings.ends_regions_with == "zero":
        pairs.append(("nextOffset", str(page.next_offset)))
    random.shuffle(pairs)
    extra = [{"$objectType": "common.v1.config.KVPair", "name": n, "value": v} for n, v in pairs]
    regions = [
        {
            "$objectType": "dataprotection.v4.content.ChangedRegion",
            "offset": region.start,
            "length": region.end - region.start,
            "regionType": "ZEROED" if region.is_zero else "REGULAR",
        }
        for region in page.regions
    ]
    return Answer(regions, metadata={"extraInfo": extra, "totalAvailableResults": len(regions)})


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
