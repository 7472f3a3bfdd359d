"""prism: tasks and categories (nutanix-v4 §9, §19)."""

from __future__ import annotations

from simulator.api.routes import Answer, Call, Catalogue
from simulator.cluster import entity_tag
from simulator.documents import Document, Record
from simulator.errors import RefusedError, SchemaError
from simulator.infrastructure import category

catalogue = Catalogue("prism", "prism.v4.config")
route = catalogue.route

_TASK_FILTERS = (
    "extId",
    "status",
    "operation",
    "parentTask/extId",
    "createdTime",
    "completedTime",
    "isBackgroundTask",
    "entitiesAffected",
)


@route("GET", "/config/tasks")
def list_tasks(call: Call) -> Answer:
    newest_first = [r.document for r in reversed(call.cluster.documents.all("task"))]
    return call.page(
        newest_first, filters=_TASK_FILTERS, orders=("createdTime", "completedTime", "status")
    )


@route("GET", "/config/tasks/{task}")
def get_task_by_id(call: Call) -> Answer:
    return Answer(call.cluster.require("task", call.params["task"], "prism").document)


@route("POST", "/config/tasks/{task}/$actions/cancel")
def cancel_task(call: Call) -> Answer:
    call.cluster.tasks.cancel(call.params["task"])
    message = {
        "$objectType": "prism.v4.error.AppMessage",
        "message": "The task will be cancelled.",
        "severity": "INFO",
        "code": "TSKS-20901",
        "locale": "en_US",
    }
    return Answer(message)


@route("GET", "/config/tasks/{task}/affected-entities", since_minor=2)
def list_task_entities(call: Call) -> Answer:
    task = call.cluster.require("task", call.params["task"], "prism").document
    return call.page(task["entitiesAffected"])


# -- categories, synchronous on Prism Central ------------------------------------------------------


def _show(call: Call, record: Record) -> Document:
    if call.query.get("$expand") != "detailedAssociations":
        return record.document
    holders = [
        r.ext_id
        for r in call.cluster.documents.all("vm")
        if any(c["extId"] == record.ext_id for c in r.document.get("categories", ()))
    ]
    kind = "prism.v4.config.AssociationDetail"
    rows = [
        {
            "$objectType": kind,
            "categoryId": record.ext_id,
            "resourceId": vm,
            "resourceType": "VM",
            "resourceGroup": "ENTITY",
        }
        for vm in holders
    ]
    return {**record.document, "detailedAssociations": rows}


@route("GET", "/config/categories")
def list_categories(call: Call) -> Answer:
    categories = [r.document for r in call.cluster.documents.all("category")]
    return call.page(
        categories, filters=("key", "value", "type", "extId", "ownerUuid"), orders=("key", "value")
    )


@route("POST", "/config/categories")
def create_category(call: Call) -> Answer:
    call.need("key", "value")
    if any(len(call.body[name]) > 64 for name in ("key", "value")):
        raise SchemaError("Key and value have at most 64 characters.", "key")
    pair = (call.body["key"], call.body["value"])
    if any(
        (r.document["key"], r.document["value"]) == pair
        for r in call.cluster.documents.all("category")
    ):
        raise RefusedError(
            f"The category {pair[0]}/{pair[1]} exists already.",
            status=409,
            code="CTGRS-50009",
            group="CATEGORY_ALREADY_EXISTS",
        )
    ext_id = call.cluster.new_id()
    record = call.cluster.documents.put(
        "category", ext_id, category(ext_id, *pair, call.body.get("description"))
    )
    return Answer(record.document, 201, tag=_tag(record))


def _tag(record: Record) -> str:
    return entity_tag(record.document, record.revision)


@route("GET", "/config/categories/{category}")
def get_category_by_id(call: Call) -> Answer:
    record = call.cluster.require("category", call.params["category"], "prism")
    return Answer(_show(call, record), tag=_tag(record))


@route("PUT", "/config/categories/{category}")
def update_category_by_id(call: Call) -> Answer:
    record = call.cluster.require("category", call.params["category"], "prism")
    call.check_tag(_tag(record))
    given = {k: call.body[k] for k in ("value", "description") if call.body.get(k) is not None}
    changed = call.cluster.documents.put("category", record.ext_id, {**record.document, **given})
    return Answer(changed.document, tag=_tag(changed))


@route("DELETE", "/config/categories/{category}")
def delete_category_by_id(call: Call) -> Answer:
    record = call.cluster.require("category", call.params["category"], "prism")
    call.check_tag(_tag(record), is_required=False)
    call.cluster.documents.delete("category", record.ext_id)
    return Answer(status=204)
