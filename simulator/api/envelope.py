"""Bodies as the API writes them: envelope, object types, schema revisions, errors (nutanix-v4 §5-§7)."""

from __future__ import annotations

from typing import Any

from simulator.documents import Document
from simulator.errors import RefusedError, SchemaError
from simulator.tasks import app_message

# Fields that newer minors added: (object type, field) -> first minor that shows it (nutanix-v4 §21).
_SINCE = {
    ("vmm.v4.ahv.config.VmDisk", "serialId"): 3,
    ("vmm.v4.ahv.config.Vm", "projectExtId"): 3,
    ("vmm.v4.ahv.config.Vm", "customAttributes"): 2,
    ("vmm.v4.ahv.config.Nic", "nicBackingInfo"): 1,
    ("vmm.v4.ahv.config.Nic", "nicNetworkInfo"): 1,
    ("volumes.v4.config.VolumeGroup", "attachments"): 1,
    ("volumes.v4.config.VolumeGroup", "attachmentType"): 1,
    ("dataprotection.v4.config.RecoveryPoint", "isSecure"): 1,
}


def stamped(value: Any, minor: int) -> Any:
    """A document as it is sent: every typed object names its schema revision, unset fields are left out."""
    if isinstance(value, list):
        return [stamped(item, minor) for item in value]
    if not isinstance(value, dict):
        return value
    kind = str(value.get("$objectType") or "")
    sent = {
        k: stamped(v, minor)
        for k, v in value.items()
        if v is not None and _SINCE.get((kind, k), 0) <= minor
    }
    return {**sent, "$reserved": {"$fv": f"v4.r{minor}"}} if kind else sent


def envelope(
    data: Any, object_type: str, minor: int, *, self_url: str, metadata: Document | None = None
) -> Document:
    """A whole answer around `data`; `metadata` adds to or replaces what every answer has."""
    is_list = isinstance(data, list)
    base: Document = {
        "flags": flags(is_paginated=is_list),
        "links": [{"$objectType": "common.v1.response.ApiLink", "rel": "self", "href": self_url}],
        "messages": [],
    }
    if is_list:
        base["totalAvailableResults"] = len(data)
    body: Document = {"$reserved": {"$fv": f"v4.r{minor}"}, "$objectType": object_type}
    body["metadata"] = {
        "$objectType": "common.v1.response.ApiResponseMetadata",
        "$reserved": {"$fv": "v1.r0"},
        **base,
        **(metadata or {}),
    }
    # An empty list arrives as no data at all (§5).
    return body if data is None or data == [] else {"data": stamped(data, minor), **body}


def flags(*, has_error: bool = False, is_paginated: bool = False) -> list[Document]:
    """The four flags of every answer."""
    values = {"hasError": has_error, "isPaginated": is_paginated}
    names = ("hasError", "isPaginated", "isTruncated", "isExpandRestricted")
    return [
        {"$objectType": "common.v1.config.Flag", "name": name, "value": values.get(name, False)}
        for name in names
    ]


def error_body(
    refusal: RefusedError, namespace: str, minor: int, *, path: str, moment: str
) -> Document:
    """The body of an error; a violation of the schema has a shape of its own (§7)."""
    error: Any
    if isinstance(refusal, SchemaError):
        error = {
            "$objectType": f"{namespace}.v4.error.SchemaValidationError",
            "timestamp": moment,
            "statusCode": refusal.status,
            "error": "Bad Request",
            "path": path,
            "validationErrorMessages": [
                {
                    "$objectType": f"{namespace}.v4.error.SchemaValidationErrorMessage",
                    "location": "request",
                    "message": refusal.message,
                    "attributePath": refusal.attribute,
                }
            ],
        }
    else:
        error = [app_message(namespace, refusal)]
    data = {"$objectType": f"{namespace}.v4.error.ErrorResponse", "error": error}
    metadata = {"flags": flags(has_error=True), "links": [], "messages": []}
    return {
        "data": stamped(data, minor),
        "$reserved": {"$fv": f"v4.r{minor}"},
        "metadata": metadata,
    }
