"""dataprotection: the way to Prism Element, changed regions and VSS metadata there (§14.5, §15)."""

from __future__ import annotations

import random
from typing import Any

from simulator import tokens
from simulator.api.routes import Answer, Call, Catalogue
from simulator.cluster import refuse
from simulator.documents import Document, Record
from simulator.errors import NotFoundError, SchemaError, UnauthorisedError
from simulator.places import is_first, place_of_point
from simulator.recovery_points import (
    require_disk_point,
    require_group_point,
    require_point,
    require_vm_point,
)
from simulator.regions import BLOCK_SIZES_BYTES, Frozen, compute_page

catalogue = Catalogue("dataprotection", "dataprotection.v4.content")
route = catalogue.route


@route("POST", "/config/recovery-points/{point}/$actions/discover-cluster", reads=True)
def discover_cluster_for_recovery_point_id(call: Call) -> Answer:
    """Where the content calls go, and the token that opens that door for one thing."""
    point = require_point(call.cluster, call.params["point"])
    operation, spec = call.body.get("operation"), call.body.get("spec") or {}
    if operation == "COMPUTE_CHANGED_REGIONS":
        wanted = spec.get("referenceDiskRecoveryPoint")
        opens = {
            "diskRecoveryPointExtId": _chain(call, spec.get("diskRecoveryPoint") or {}),
            "referenceDiskRecoveryPointExtId": _chain(call, wanted) if wanted else None,
        }
    elif operation == "GET_VSS_METADATA":
        vm_point = str(spec.get("vmRecoveryPointExtId"))
        _require_metadata(require_vm_point(call.cluster, call.params["point"], vm_point))
        opens = {"vmRecoveryPointExtId": vm_point}
    else:
        raise SchemaError(f"{operation!r} is not an operation.", "operation")
    data = {
        "$objectType": "dataprotection.v4.common.ClusterInfo",
        "jwtToken": _token(call, opens),
        "clusterIp": {"ipv4": {"value": _address_of(call, point), "prefixLength": 32}},
    }
    return Answer(data)


def _address_of(call: Call, point: Record) -> str:
    """Where the Prism Element of the cluster that holds a recovery point is reached."""
    side = "element" if is_first(call.cluster, place_of_point(point)) else "further_element"
    return call.urls[side].split("//")[1].rsplit(":", 1)[0]


def _require_here(call: Call) -> None:
    """404 unless the recovery point lies in the cluster whose Prism Element was asked."""
    point = require_point(call.cluster, call.params["point"])
    asked = call.headers.get("host", "").rsplit(":", 1)[0]
    if asked != _address_of(call, point):
        raise NotFoundError("recovery_point", point.ext_id, "dataprotection")


def _token(call: Call, opens: Document) -> str:
    """A token for the content path of one version, for a quarter of an hour (§15.1)."""
    settings, now_s = call.cluster.settings, call.cluster.clock.now_s()
    minor = call.minor if settings.content_minor is None else settings.content_minor
    claims = {
        "iss": "prism-central",
        "iat": int(now_s),
        "exp": now_s + settings.token_life_s,
        "scope": f"/api/dataprotection/v4.{minor}/content",
        **opens,
    }
    return tokens.sign(claims, call.cluster.secret)


def _require_metadata(vm_point: Record) -> None:
    properties = vm_point.document.get("applicationConsistentProperties") or {}
    if not properties.get("shouldStoreVssMetadata"):
        raise refuse(
            "The recovery point is not application-consistent with stored metadata.",
            code="DP-10100",
            group="DATAPROTECTION_INVALID_INPUT",
        )


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
        require_group_point(call.cluster, spec["recoveryPointExtId"], owner)
    return require_disk_point(call.cluster, owner, spec["diskRecoveryPointExtId"]).ext_id


CONTENT = "/content/recovery-points/{point}"
_COMPUTE = "disk-recovery-points/{disk_point}/$actions/compute-changed-regions"


@route(
    "POST",
    f"{CONTENT}/vm-recovery-points/{{owner}}/{_COMPUTE}",
    reads=True,
)
def vm_recovery_point_compute_changed_regions(call: Call) -> Answer:
    require_vm_point(call.cluster, call.params["point"], call.params["owner"])
    return _compute(call, "referenceVmRecoveryPointExtId")


@route(
    "POST",
    f"{CONTENT}/volume-group-recovery-points/{{owner}}/{_COMPUTE}",
    reads=True,
)
def volume_group_recovery_point_compute_changed_regions(call: Call) -> Answer:
    require_group_point(call.cluster, call.params["point"], call.params["owner"])
    return _compute(call, "referenceVolumeGroupRecoveryPointExtId")


def _compute(call: Call, owner_field: str) -> Answer:
    _require_here(call)
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
    _check_scope(call)
    claims = call.claims
    pair = (claims.get("diskRecoveryPointExtId"), claims.get("referenceDiskRecoveryPointExtId"))
    if pair[0] != disk_point or reference not in (None, pair[1]):
        raise UnauthorisedError("The token was made for other disk recovery points.", status=403)


def _check_scope(call: Call) -> None:
    scope = f"/api/dataprotection/v4.{call.minor}/content"
    if call.claims["scope"] != scope:
        raise UnauthorisedError(
            f"The token's scope {call.claims['scope']} does not match the base path {scope}."
        )


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


# -- VSS metadata ----------------------------------------------------------------------------------


@route("GET", f"{CONTENT}/vm-recovery-points/{{vm_point}}/vss-metadata")
def get_vss_metadata_by_vm_recovery_point_id(call: Call) -> Answer:
    """A cabinet file, of which only the name and the first bytes are as they would be (§14.5)."""
    _require_here(call)
    record = require_vm_point(call.cluster, call.params["point"], call.params["vm_point"])
    _check_scope(call)
    if call.claims.get("vmRecoveryPointExtId") != record.ext_id:
        raise UnauthorisedError("The token was made for another recovery point.", status=403)
    _require_metadata(record)
    name = f'attachment; filename="{record.ext_id}.cab"'
    return Answer(
        raw=b"MSCF" + bytes(32),
        media_type="application/octet-stream",
        headers={"content-disposition": name},
    )
