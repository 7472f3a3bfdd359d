"""iam: users, API keys of service accounts, roles and the policies that give them (nutanix-v4 §20)."""

from __future__ import annotations

import hashlib
import secrets

from simulator.api.routes import Answer, Call, Catalogue
from simulator.clock import parse_stamp, stamp
from simulator.cluster import entity_tag
from simulator.documents import Document
from simulator.errors import SchemaError
from simulator.roles import operations, roles

catalogue = Catalogue("iam", "iam.v4.authn")
route = catalogue.route

USERS, USER = "/authn/users", "/authn/users/{user}"
KEYS, KEY = f"{USER}/keys", f"{USER}/keys/{{key}}"
_USER_TYPES = ("SERVICE_ACCOUNT", "LOCAL", "SAML", "LDAP", "EXTERNAL")


@route("GET", USERS)
def list_users(call: Call) -> Answer:
    users = [r.document for r in call.cluster.documents.all("user")]
    return call.page(
        users, filters=("username", "userType", "extId", "status"), orders=("username",)
    )


@route("POST", USERS)
def create_user(call: Call) -> Answer:
    call.need("username", "userType")
    if call.body["userType"] not in _USER_TYPES:
        raise SchemaError(f"{call.body['userType']!r} is not a type of user.", "userType")
    ext_id = call.cluster.new_id()
    shown = {
        k: v for k, v in call.body.items() if k not in ("password", "$reserved", "$unknownFields")
    }
    document = {
        **shown,
        "$objectType": "iam.v4.authn.User",
        "extId": ext_id,
        "status": "ACTIVE",
        "createdTime": stamp(call.cluster.clock.now()),
    }
    record = call.cluster.documents.put("user", ext_id, document)
    return Answer(record.document, 201, tag=entity_tag(record.document))


@route("GET", USER)
def get_user_by_id(call: Call) -> Answer:
    record = call.cluster.require("user", call.params["user"], "iam")
    return Answer(record.document, tag=entity_tag(record.document))


def _keys(call: Call) -> list[Document]:
    call.cluster.require("user", call.params["user"], "iam")
    keys = call.cluster.documents.all("api_key")
    return [k.document for k in keys if k.private["user"] == call.params["user"]]


@route("GET", KEYS)
def list_user_keys(call: Call) -> Answer:
    return call.page(_keys(call))


@route("POST", KEYS)
def create_user_key(call: Call) -> Answer:
    """The value of the key is in this answer and nowhere else."""
    call.need("name", "keyType")
    _keys(call)
    if call.body["keyType"] != "API_KEY":
        raise SchemaError("Only keys of the type API_KEY are simulated.", "keyType")
    ext_id, value = call.cluster.new_id(), secrets.token_urlsafe(32)
    fields = ("name", "keyType", "description", "assignedTo", "expiryTime")
    given = {k: call.body[k] for k in fields if call.body.get(k) is not None}
    if "expiryTime" in given:
        given["expiryTime"] = stamp(parse_stamp(given["expiryTime"]))
    document = {"$objectType": "iam.v4.authn.Key", **given, "extId": ext_id, "status": "VALID"}
    private = {"user": call.params["user"], "digest": hashlib.sha256(value.encode()).hexdigest()}
    call.cluster.documents.put("api_key", ext_id, document, private)
    details = {"$objectType": "iam.v4.authn.ApiKeyDetails", "apiKey": value}
    return Answer({**document, "keyDetails": details}, 201)


@route("GET", KEY)
def get_user_key_by_id(call: Call) -> Answer:
    _keys(call)
    return Answer(call.cluster.require("api_key", call.params["key"], "iam").document)


@route("POST", f"{KEY}/$actions/revoke")
def revoke_user_key(call: Call) -> Answer:
    _keys(call)
    record = call.cluster.require("api_key", call.params["key"], "iam")
    changed = call.cluster.documents.put(
        "api_key", record.ext_id, {**record.document, "status": "REVOKED"}
    )
    return Answer(changed.document)


@route("DELETE", KEY)
def delete_user_key_by_id(call: Call) -> Answer:
    _keys(call)
    call.cluster.documents.delete("api_key", call.params["key"])
    return Answer(status=204)


# -- roles -----------------------------------------------------------------------------------------

ROLES, POLICIES = "/authz/roles", "/authz/authorization-policies"


@route("GET", "/authz/operations")
def list_operations(call: Call) -> Answer:
    return call.page(operations(call.cluster), filters=("displayName",), orders=("displayName",))


@route("GET", ROLES)
def list_roles(call: Call) -> Answer:
    return call.page(roles(call.cluster), filters=("displayName",), orders=("displayName",))


@route("POST", ROLES)
def create_role(call: Call) -> Answer:
    call.need("displayName", "operations")
    known = {each["extId"] for each in operations(call.cluster)}
    if unknown := set(call.body["operations"]) - known:
        raise SchemaError(f"There is no operation {min(unknown)}.", "operations")
    return _make(call, "role", "iam.v4.authz.Role", ("displayName", "description", "operations"))


@route("DELETE", f"{ROLES}/{{role}}")
def delete_role_by_id(call: Call) -> Answer:
    call.cluster.require("role", call.params["role"], "iam")
    call.cluster.documents.delete("role", call.params["role"])
    return Answer(status=204)


@route("GET", POLICIES)
def list_authorization_policies(call: Call) -> Answer:
    rows = [r.document for r in call.cluster.documents.all("authorization_policy")]
    return call.page(rows, filters=("displayName",), orders=("displayName",))


@route("POST", POLICIES)
def create_authorization_policy(call: Call) -> Answer:
    """Give a role to the users that the identity filters name; on which entities is not looked at."""
    call.need("displayName", "role", "identities", "entities")
    if call.body["role"] not in {role["extId"] for role in roles(call.cluster)}:
        raise SchemaError(f"There is no role {call.body['role']}.", "role")
    fields = ("displayName", "description", "role", "identities", "entities")
    return _make(call, "authorization_policy", "iam.v4.authz.AuthorizationPolicy", fields)


@route("DELETE", f"{POLICIES}/{{policy}}")
def delete_authorization_policy_by_id(call: Call) -> Answer:
    call.cluster.require("authorization_policy", call.params["policy"], "iam")
    call.cluster.documents.delete("authorization_policy", call.params["policy"])
    return Answer(status=204)


def _make(call: Call, kind: str, object_type: str, fields: tuple[str, ...]) -> Answer:
    ext_id = call.cluster.new_id()
    given = {name: call.body[name] for name in fields if call.body.get(name) is not None}
    document = {"$objectType": object_type, **given, "extId": ext_id, "isSystemDefined": False}
    call.cluster.documents.put(kind, ext_id, document)
    return Answer(document, 201, tag=entity_tag(document))
