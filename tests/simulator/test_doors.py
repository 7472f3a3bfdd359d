"""The rules at the doors: credentials, versions, ETags, request ids, tokens, paging, filters, limits."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest

VMS = "/vmm/v4.3/ahv/config/vms"


# -- credentials and versions ----------------------------------------------------------------------


def test_wrong_credentials_are_refused_and_say_nothing_of_the_right_ones(shared_api: Any) -> None:
    """No, wrong and malformed credentials all give 401."""
    url = f"{shared_api.simulator.pc_url}/api{VMS}"
    for auth in (None, ("admin", "wrong"), ("root", shared_api.simulator.password)):
        answer = httpx.get(url, auth=auth, verify=shared_api.tls)
        assert answer.status_code == 401
        assert shared_api.simulator.password not in answer.text


def test_an_untrusted_certificate_stops_a_client(shared_api: Any) -> None:
    """The certificate is of the simulator's own authority, so a client that does not know it refuses."""
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{shared_api.simulator.pc_url}/api{VMS}")


def test_a_session_cookie_replaces_the_password_until_it_expires(api: Any) -> None:
    """PC hands out a cookie; alone it opens the door, and after its life it does not."""
    first = api.pc.get(f"/api{VMS}")
    name, _mark, value = first.headers["set-cookie"].split(";")[0].partition("=")
    with httpx.Client(base_url=api.simulator.pc_url, verify=api.tls) as bare:
        assert bare.get(f"/api{VMS}", headers={"Cookie": f"{name}={value}"}).status_code == 200
        api.simulator.story.advance_clock(901)
        assert bare.get(f"/api{VMS}", headers={"Cookie": f"{name}={value}"}).status_code == 401


def test_the_version_probe_names_the_newest_minor(shared_api: Any) -> None:
    """OPTIONS unversioned/info answers per namespace, on both listeners."""
    for namespace, newest in (("vmm", "v4.3"), ("dataprotection", "v4.4"), ("prism", "v4.4")):
        answer = shared_api.send("OPTIONS", f"/{namespace}/unversioned/info")
        assert answer.json() == {"data": newest}
    assert shared_api.pe.options("/api/dataprotection/unversioned/info").json() == {"data": "v4.4"}


@pytest.mark.parametrize(
    ("minor", "status"), [("v4.0", 200), ("v4.1", 200), ("v4.2", 404), ("v4.3", 404)]
)
def test_an_older_central_serves_older_minors_only(
    open_api: Callable[..., Any], minor: str, status: int
) -> None:
    """A PC 7.3 answers 4.0 and 4.1, 404 to everything newer, and 404 to the probe."""
    api = open_api(newest_minor=1, answers_version_probe=False)
    assert api.send("GET", f"/vmm/{minor}/ahv/config/vms").status_code == status
    assert api.send("OPTIONS", "/vmm/unversioned/info").status_code == 404


def test_fields_and_calls_appear_with_the_minor_that_added_them(shared_api: Any) -> None:
    """`serialId` needs 4.3, the vmm view of recovery points 4.1; `$fv` names the minor asked for."""
    old = shared_api.send("GET", "/vmm/v4.2/ahv/config/vms").json()["data"][0]
    new = shared_api.send("GET", "/vmm/v4.3/ahv/config/vms").json()["data"][0]
    assert "serialId" not in old["disks"][0]["backingInfo"]
    assert "serialId" in new["disks"][0]["backingInfo"]
    assert (old["$reserved"]["$fv"], new["$reserved"]["$fv"]) == ("v4.r2", "v4.r3")
    assert shared_api.send("GET", "/vmm/v4.0/ahv/config/vm-recovery-points").status_code == 404


def test_every_typed_object_says_its_type_and_revision(shared_api: Any) -> None:
    """In a VM every nested object of a union carries `$objectType` and `$reserved`."""
    vm = shared_api.vm("files01")
    parts = [
        vm,
        *vm["disks"],
        vm["disks"][0]["backingInfo"],
        vm["bootConfig"],
        vm["nics"][0]["nicBackingInfo"],
    ]
    assert all("$objectType" in part and "$reserved" in part for part in parts)
    assert vm["bootConfig"]["$objectType"] == "vmm.v4.ahv.config.UefiBoot"


# -- ETags and request ids -------------------------------------------------------------------------


def test_power_needs_a_fresh_etag(api: Any) -> None:
    """Without If-Match 412 with PLAT-10004, stale or malformed 412, fresh 202; the tag changes with the power."""
    path = f"{VMS}/{api.vm('ahvault-worker-1')['extId']}"
    tag = api.send("GET", path).headers["etag"]
    missing = api.send("POST", f"{path}/$actions/power-on")
    assert (missing.status_code, missing.json()["data"]["error"][0]["code"]) == (412, "PLAT-10004")
    malformed = api.send("POST", f"{path}/$actions/power-on", headers={"If-Match": "*"})
    assert malformed.json()["data"]["error"][0]["code"] == "PLAT-10005"
    api.do("POST", f"{path}/$actions/power-on", headers={"If-Match": tag})
    stale = api.send("POST", f"{path}/$actions/power-off", headers={"If-Match": tag})
    assert (stale.status_code, stale.json()["data"]["error"][0]["code"]) == (412, "VMM-30303")


def test_a_stale_etag_may_show_as_a_failed_task(open_api: Callable[..., Any]) -> None:
    """Some releases take the call and fail the task with VMM-30303."""
    api = open_api(stale_tag_as="task")
    path = f"{VMS}/{api.vm('ahvault-worker-1')['extId']}"
    tag = api.send("GET", path).headers["etag"]
    api.do("POST", f"{path}/$actions/power-on", headers={"If-Match": tag})
    task = api.task(api.send("POST", f"{path}/$actions/power-off", headers={"If-Match": tag}))
    assert (task["status"], task["errorMessages"][0]["code"]) == ("FAILED", "VMM-30303")
    assert api.vm("ahvault-worker-1")["powerState"] == "ON"


def test_a_request_id_does_the_work_once(api: Any) -> None:
    """Same id and body: the first task again, also encoded differently; other body: refused."""
    headers = {"NTNX-Request-Id": str(uuid.uuid4())}
    body = {"name": "once", "clusterReference": api.cluster_id()}
    path = "/volumes/v4.3/config/volume-groups"
    first = api.send("POST", path, json=body, headers=headers)
    again = api.send("POST", "/volumes/v4.2/config/volume-groups", json=body, headers=headers)
    assert first.json()["data"]["extId"] == again.json()["data"]["extId"]
    other = api.send("POST", path, json={**body, "name": "twice"}, headers=headers)
    assert other.status_code == 409
    api.task(first)
    assert [g["name"] for g in api.get(path)].count("once") == 1


def test_a_request_id_is_required_where_the_api_says_so(shared_api: Any) -> None:
    """VM create without an id is 30400, with a malformed one 30401."""
    body = {"name": "x", "cluster": {"extId": shared_api.cluster_id()}}
    missing = shared_api.pc.post(f"/api{VMS}", json=body)
    assert missing.json()["data"]["error"][0]["errorGroup"] == "VM_MISSING_REQUEST_ID_HEADER"
    malformed = shared_api.pc.post(f"/api{VMS}", json=body, headers={"NTNX-Request-Id": "7"})
    assert malformed.json()["data"]["error"][0]["errorGroup"] == "VM_INVALID_REQUEST_ID_HEADER"


def test_paths_may_be_encoded(shared_api: Any) -> None:
    """`%24actions` is `$actions`, and a task id is found with its `=` and `:` encoded or not."""
    body = {"name": "encoded", "clusterReference": shared_api.cluster_id()}
    task = shared_api.do("POST", "/volumes/v4.3/config/volume-groups", json=body)
    encoded = task["extId"].replace("=", "%3D").replace(":", "%3A")
    assert shared_api.get(f"/prism/v4.4/config/tasks/{encoded}")["extId"] == task["extId"]
    group = shared_api.created(task, "volumes:config:volume-group")
    worker = shared_api.vm("ahvault-worker-2")["extId"]
    base = f"/volumes/v4.3/config/volume-groups/{group}"
    shared_api.do("POST", f"{base}/%24actions/attach-vm", json={"extId": worker})
    shared_api.do("POST", f"{base}/$actions/detach-vm", json={"extId": worker})
    shared_api.do("DELETE", base)


# -- Prism Element ---------------------------------------------------------------------------------


def test_content_is_not_on_central_and_config_not_on_element(api: Any) -> None:
    """The content path on PC is 501 with an empty body; ordinary namespaces on the PE are 404."""
    point = api.snapshot("web01")
    path = f"/api/dataprotection/v4.4/content/recovery-points/{point.ext_id}/vm-recovery-points/x"
    answer = api.pc.post(path, json={})
    assert (answer.status_code, answer.content) == (501, b"")
    assert api.pe.get(f"/api{VMS}").status_code == 404


def test_only_the_token_opens_content(api: Any) -> None:
    """Password, bearer token and no token at all are refused on the PE; the cookie is taken."""
    point = api.snapshot("web01")
    token = api.discover(point, None)
    assert api.compute(point, None, token=token).status_code == 200
    assert api.compute(point, None, token="nonsense").status_code == 401
    path = (
        f"/api/dataprotection/v4.4/content/recovery-points/{point.ext_id}/vm-recovery-points/"
        f"{point.vm_point}/disk-recovery-points/{point.disk_points[0]}/$actions/compute-changed-regions"
    )
    login = (api.simulator.username, api.simulator.password)
    assert api.pe.post(path, json={}, auth=login).status_code == 401
    assert (
        api.pe.post(path, json={}, headers={"Authorization": f"Bearer {token}"}).status_code == 403
    )


def test_a_token_expires_and_fits_one_version_and_one_disk(api: Any) -> None:
    """Another path version is 401 naming both, another disk 403, and after 15 minutes 401."""
    first, second = api.snapshot("db01"), api.snapshot("web01")
    token = api.discover(first, None)
    wrong_version = api.compute(first, None, token=token, version="v4.0")
    assert wrong_version.status_code == 401
    assert "/api/dataprotection/v4.4/content" in wrong_version.json()["data"]["error"][0]["message"]
    assert api.compute(second, None, token=token).status_code == 403
    api.simulator.story.advance_clock(899)
    assert api.compute(first, None, token=token).status_code == 200
    api.simulator.story.advance_clock(2)
    assert api.compute(first, None, token=token).status_code == 401


def test_the_token_may_ask_for_another_version(open_api: Callable[..., Any]) -> None:
    """As on PC 7.3.1: the scope claim says v4.0 although PC was asked in a newer version."""
    api = open_api(content_minor=0)
    point = api.snapshot("web01")
    token = api.discover(point, None)
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert claims["scope"] == "/api/dataprotection/v4.0/content"
    assert api.compute(point, None, token=token).status_code == 401
    assert api.compute(point, None, token=token, version="v4.0").status_code == 200


# -- lists -----------------------------------------------------------------------------------------


def test_pages_cut_a_list_and_count_all_of_it(shared_api: Any) -> None:
    """`$page` and `$limit` cut; the total is always told; past the end there is no data."""
    names = []
    for page in range(3):
        body = shared_api.send("GET", VMS, params={"$page": str(page), "$limit": "2"}).json()
        assert body["metadata"]["totalAvailableResults"] == 5
        names += [vm["name"] for vm in body["data"]]
    assert len(set(names)) == 5
    past = shared_api.send("GET", VMS, params={"$page": "9", "$limit": "2"}).json()
    assert "data" not in past
    assert past["metadata"]["totalAvailableResults"] == 5


@pytest.mark.parametrize(
    "query", [{"$limit": "0"}, {"$limit": "101"}, {"$page": "-1"}, {"$limit": "x"}]
)
def test_a_page_out_of_bounds_is_a_schema_error(shared_api: Any, query: dict[str, str]) -> None:
    """400, and `data.error` is an object then, not a list."""
    answer = shared_api.send("GET", VMS, params=query)
    assert answer.status_code == 400
    assert answer.json()["data"]["error"]["$objectType"] == "vmm.v4.error.SchemaValidationError"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("name eq 'web01'", ["web01"]),
        ("name in ('web01', 'db01')", ["db01", "web01"]),
        ("powerState eq Vmm.Ahv.Config.PowerState'ON' and not startswith(name, 'db')", ["files01", "web01"]),
        ("(name eq 'web01' or name eq 'db01') and memorySizeBytes ge 4294967296", ["db01", "web01"]),
        ("contains(name, 'worker')", ["ahvault-worker-1", "ahvault-worker-2"]),
        ("nics/any(n:n/nicBackingInfo/model eq 'VIRTIO') and name ne 'db01' and endswith(name, '01')",
         ["files01", "web01"]),
        ("name lt 'b'", ["ahvault-worker-1", "ahvault-worker-2"]),
    ],
)  # fmt: skip
def test_filters_find_what_they_say(shared_api: Any, text: str, names: list[str]) -> None:
    """Operators, lists, functions, lambdas and enum literals filter the VM list."""
    found = shared_api.get(VMS, **{"$filter": text, "$orderby": "name"})
    assert [vm["name"] for vm in found] == names


@pytest.mark.parametrize(
    "text",
    ["categories/any(c:c/extId eq 'x')", "name eq", "name like 'x'", "name eq 'x' or", "disks eq 1",
     "lower(name) eq 'x'", "name eq 'web01')", "name gt 5"],
)  # fmt: skip
def test_a_filter_that_is_not_understood_is_refused(shared_api: Any, text: str) -> None:
    """Unknown fields, operators and broken syntax give 400 instead of a wrong list."""
    assert shared_api.send("GET", VMS, params={"$filter": text}).status_code == 400


def test_order_runs_both_ways(shared_api: Any) -> None:
    """`$orderby name desc` is the reverse of `name`; a field that is not sortable is refused."""
    up = [vm["name"] for vm in shared_api.get(VMS, **{"$orderby": "name"})]
    down = [vm["name"] for vm in shared_api.get(VMS, **{"$orderby": "name desc"})]
    assert up == sorted(up)
    assert down == up[::-1]
    assert shared_api.send("GET", VMS, params={"$orderby": "powerState"}).status_code == 400


def test_select_leaves_the_named_fields(shared_api: Any) -> None:
    """`$select` keeps what it names, with type and id."""
    vm = shared_api.get(VMS, **{"$select": "name"})[0]
    assert set(vm) == {"$objectType", "$reserved", "extId", "name"}


# -- limits, errors, surroundings ------------------------------------------------------------------


def test_limits_are_announced_and_kept(open_api: Callable[..., Any]) -> None:
    """Every answer carries both families of headers; beyond the limit comes 429 with Retry-After."""
    api = open_api(api_limit_per_s=2)
    answers = [api.send("GET", VMS) for _ in range(8)]
    assert {a.status_code for a in answers} == {200, 429}
    refused = next(a for a in answers if a.status_code == 429)
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["data"]["error"][0]["errorGroup"] == "RATE_LIMIT_EXCEEDED"
    assert answers[0].headers["x-api-ratelimit-limit"] == "2"
    assert answers[0].headers["x-ratelimit-limit"] == "40"


def test_unknown_entities_say_so_in_the_words_of_their_namespace(shared_api: Any) -> None:
    """404 with the code and group that each namespace uses."""
    nobody = "00000000-1111-2222-3333-444444444444"
    cases = {
        f"/dataprotection/v4.4/config/recovery-points/{nobody}": "DP-10400",
        f"{VMS}/{nobody}": "VMM-20005",
        f"/volumes/v4.3/config/volume-groups/{nobody}": "VOL-30002",
    }
    for path, code in cases.items():
        answer = shared_api.send("GET", path)
        assert (answer.status_code, answer.json()["data"]["error"][0]["code"]) == (404, code)


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'{"vmRecoveryPoints": 7}', b'{"vmRecoveryPoints": ["x"]}', b"{}"]
)
def test_a_body_of_the_wrong_shape_is_a_clean_400(shared_api: Any, body: bytes) -> None:
    """Whatever arrives, the answer is a schema error and never a crash."""
    answer = shared_api.send("POST", "/dataprotection/v4.4/config/recovery-points", content=body)
    assert answer.status_code == 400
    assert answer.json()["data"]["error"]["statusCode"] == 400


def test_the_neighbourhood_is_as_untidy_as_a_real_one(shared_api: Any) -> None:
    """PC's own cluster entry, unknown enum values and fields, ids outside RFC 4122, other people's things."""
    clusters = shared_api.get("/clustermgmt/v4.3/config/clusters")
    central = next(c for c in clusters if c["config"]["clusterFunction"] == ["PRISM_CENTRAL"])
    assert central["config"]["hypervisorTypes"] == ["$UNKNOWN"]
    assert any(uuid.UUID(vm["extId"]).version is None for vm in shared_api.get(VMS))
    assert "observedMood" in shared_api.vm("web01")
    names = [p["name"] for p in shared_api.get("/dataprotection/v4.4/config/recovery-points")]
    assert "VmTemplateRP_golden" in names
    groups = [g["name"] for g in shared_api.get("/volumes/v4.3/config/volume-groups")]
    assert "somebody-elses-group" in groups


def test_request_ids_and_ended_tasks_are_forgotten_in_time(open_api: Callable[..., Any]) -> None:
    """After their time the memory of requests does not grow with every call ever made."""
    api = open_api(memory_s=100.0)
    task = api.do(
        "POST",
        "/volumes/v4.3/config/volume-groups",
        json={"name": "g", "clusterReference": api.cluster_id()},
    )
    api.simulator.story.advance_clock(101)
    documents = api.simulator.cluster.documents
    for _ in range(500):
        if not documents.all("request") and documents.find("task", task["extId"]) is None:
            return
        time.sleep(0.01)
    raise AssertionError("still remembered")


def test_a_cause_in_a_sub_task_is_remembered_as_long_as_its_task(
    open_api: Callable[..., Any],
) -> None:
    """Whoever reads the failed task can read on, whenever old tasks are cleared away."""
    api = open_api(memory_s=100.0)
    fault = {"kind": "task", "outcome": "fails", "tells": "subtask"}
    api.simulator.story.set_faults({"faults": [fault]})
    body = {"name": "g", "clusterReference": api.cluster_id()}
    task = api.task(api.send("POST", "/volumes/v4.3/config/volume-groups", json=body))
    below = task["subTasks"][0]["extId"]
    api.simulator.cluster._forget_old_requests()
    documents = api.simulator.cluster.documents
    assert documents.find("task", below) is not None
    api.simulator.story.advance_clock(101)
    api.simulator.cluster._forget_old_requests()
    assert [documents.find("task", each) for each in (task["extId"], below)] == [None, None]
