"""Faults strike where and when the plan says, and what they do is what it says they do."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest

from simulator import FaultPlan, SimulatorError, load_plan
from simulator.faults import FaultPlayer
from simulator.sparse import KiB, MiB

VMS = "/vmm/v4.3/ahv/config/vms"
GROUPS = "/volumes/v4.3/config/volume-groups"
POINTS = "/dataprotection/v4.4/config/recovery-points"


def _plan(api: Any, *faults: dict[str, Any]) -> None:
    api.simulator.story.set_faults({"faults": list(faults)})


def test_occasions_are_counted_and_chances_repeat() -> None:
    """`nth`, `every`, `times` and `probability` choose the same occasions for the same seed."""
    plan = FaultPlan.model_validate(
        {
            "seed": 7,
            "faults": [
                {"kind": "slow", "delay_s": 1, "nth": [2, 5]},
                {"kind": "slow", "delay_s": 2, "every": 3, "times": 2},
                {"kind": "slow", "delay_s": 3, "probability": 0.5},
            ],
        }
    )

    def occasions() -> list[list[float]]:
        player = FaultPlayer(plan)
        struck = [player.for_request("central", "GET", "/x") for _ in range(12)]
        return [[f.delay_s for f in row if f.kind == "slow"] for row in struck]

    first = occasions()
    assert [n for n, row in enumerate(first, 1) if 1 in row] == [2, 5]
    assert [n for n, row in enumerate(first, 1) if 2 in row] == [3, 6]
    assert 0 < sum(3 in row for row in first) < 12
    assert occasions() == first


@pytest.mark.parametrize(
    "text",
    [
        '{"faults": [{"kind": "nonsense"}]}',
        '{"faults": [{"kind": "slow"}]}',
        '{"faults": [{"kind": "half", "often": 1}]}',
        "{",
    ],
)
def test_a_plan_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    """A misspelt plan stops the start with the place of the mistake, instead of faults that never strike."""
    path = tmp_path / "faults.json"
    path.write_text(text)
    with pytest.raises(SimulatorError, match=r"faults\.json"):
        load_plan(path)


@pytest.mark.parametrize("body", ["error", "empty", "html", "bare"])
def test_an_error_status_comes_in_every_body(api: Any, body: str) -> None:
    """503 with a JSON error, nothing, a gateway's page or a bare object; then the call works again."""
    match = {"path": "/ahv/config/vms", "method": "GET"}
    _plan(api, {"kind": "status", "status": 503, "body": body, "match": match, "times": 1})
    answer = api.send("GET", VMS)
    assert answer.status_code == 503
    kinds = {"error": "application/json", "html": "text/html", "bare": "application/json"}
    assert answer.headers.get("content-type") == kinds.get(body)
    assert (answer.content == b"") == (body == "empty")
    assert api.send("GET", VMS).status_code == 200
    assert api.simulator.story.struck_faults() == [1]


def test_too_many_requests_may_say_how_long_to_wait(api: Any) -> None:
    """429 with Retry-After and a rate-limit group, and other paths are left alone."""
    fault = {"kind": "status", "status": 429, "retry_after_s": 3, "group": "RATE_LIMIT_EXCEEDED"}
    _plan(api, {**fault, "match": {"path": "/config/volume-groups*"}})
    answer = api.send("GET", GROUPS)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
    assert answer.json()["data"]["error"][0]["errorGroup"] == "RATE_LIMIT_EXCEEDED"
    assert api.send("GET", VMS).status_code == 200


def test_a_lost_answer_has_done_its_work(api: Any) -> None:
    """The connection breaks, the group is there, and the same request id finds the first task."""
    _plan(api, {"kind": "dropped", "is_done": True, "match": {"method": "POST"}, "times": 1})
    headers = {"NTNX-Request-Id": str(uuid.uuid4())}
    body = {"name": "lost", "clusterReference": api.cluster_id()}
    with pytest.raises(httpx.TransportError):
        api.send("POST", GROUPS, json=body, headers=headers)
    api.task(api.send("POST", GROUPS, json=body, headers=headers))
    assert [g["name"] for g in api.get(GROUPS)].count("lost") == 1


def test_a_dropped_request_has_not(api: Any) -> None:
    """The connection breaks and nothing was done."""
    _plan(api, {"kind": "dropped", "match": {"method": "POST"}, "times": 1})
    with pytest.raises(httpx.TransportError):
        api.send("POST", GROUPS, json={"name": "never", "clusterReference": api.cluster_id()})
    assert "never" not in [g["name"] for g in api.get(GROUPS)]


def test_half_an_answer_is_no_answer(api: Any) -> None:
    """The body stops in the middle, and a client can tell."""
    _plan(api, {"kind": "half", "match": {"path": "/ahv/config/vms"}, "times": 1})
    with pytest.raises(httpx.RemoteProtocolError):
        api.send("GET", VMS)


def test_a_slow_answer_still_comes(api: Any) -> None:
    """The answer is late and whole."""
    _plan(api, {"kind": "slow", "delay_s": 0.3, "match": {"path": "/ahv/config/vms"}})
    began = time.monotonic()
    assert api.send("GET", VMS).status_code == 200
    assert time.monotonic() - began >= 0.3


def test_a_redirect_hands_out_a_cookie(api: Any) -> None:
    """302 to the same place; the token alone opens the door there."""
    _plan(api, {"kind": "redirect", "times": 1})
    answer = api.send("GET", VMS)
    assert answer.status_code == 302
    cookie = {"Cookie": answer.headers["x-redirect-token"]}
    with httpx.Client(base_url=api.simulator.pc_url, verify=api.tls) as bare:
        assert bare.get(answer.headers["location"], headers=cookie).status_code == 200


def test_a_tag_goes_stale_once(api: Any) -> None:
    """A fresh ETag is answered with 412, and the next try succeeds."""
    vm = f"{VMS}/{api.vm('ahvault-worker-1')['extId']}"
    _plan(api, {"kind": "stale_tag", "times": 1, "match": {"method": "POST"}})
    tag = {"If-Match": api.send("GET", vm).headers["etag"]}
    assert api.send("POST", f"{vm}/$actions/power-on", headers=tag).status_code == 412
    api.do("POST", f"{vm}/$actions/power-on", headers=tag)


def test_a_token_of_the_wrong_scope_is_refused_by_the_element(api: Any) -> None:
    """discover-cluster names another version; that version works, the one PC was asked in does not."""
    point = api.snapshot("web01")
    _plan(api, {"kind": "wrong_scope", "minor": 1, "match": {"path": "*discover-cluster"}})
    token = api.discover(point, None)
    assert api.compute(point, None, token=token).status_code == 401
    assert api.compute(point, None, token=token, version="v4.1").status_code == 200


def test_a_token_can_expire_in_the_midst_of_paging(open_api: Any) -> None:
    """The second page of three is 401; with a new token it comes."""
    api = open_api(region_count_max=2)
    first = api.snapshot("web01")
    for place in range(16 * MiB, 17 * MiB, 256 * KiB):
        api.simulator.story.write_raw("web01", place, b"x")
    second = api.snapshot("web01")
    fault = {"kind": "status", "status": 401, "nth": [2]}
    _plan(api, {**fault, "match": {"side": "element", "path": "*compute-changed-regions"}})
    token = api.discover(second, first)
    assert len(api.compute(second, first, token=token).json()["data"]) == 2
    assert api.compute(second, first, token=token, offset=16 * MiB + 512 * KiB).status_code == 401
    assert len(api.regions(second, first)) == 4


@pytest.mark.parametrize(
    "how", ["truncated", "misordered", "overlapping", "beyond_end", "looping", "no_size"]
)
def test_bad_pages_of_regions_are_bad_in_the_way_they_say(api: Any, how: str) -> None:
    """Each kind of bad page differs from the honest one in a way that a validator can see."""
    first = api.snapshot("web01")
    for place in range(16 * MiB, 18 * MiB, 128 * KiB):
        api.simulator.story.write_raw("web01", place, b"x")
    second = api.snapshot("web01")
    _plan(api, {"kind": "bad_regions", "how": how, "match": {"side": "element"}})
    answer = api.compute(second, first).json()
    starts = [row["offset"] for row in answer["data"]]
    extra = {row["name"]: row["value"] for row in answer["metadata"].get("extraInfo", [])}
    flags = {row["name"]: row["value"] for row in answer["metadata"]["flags"]}
    seen = {
        "truncated": flags["isTruncated"] and len(starts) == 8,
        "misordered": starts != sorted(starts) and len(starts) == 16,
        "overlapping": len(starts) != len(set(starts)),
        "beyond_end": max(starts) > 32 * MiB,
        "looping": extra.get("nextOffset") == "1",
        "no_size": "fileSize" not in extra,
    }
    assert [name for name, is_so in seen.items() if is_so] == [how]


def test_a_page_is_spoilt_only_where_it_can_be(api: Any) -> None:
    """Other calls, refused ones, lost answers and pages with nothing to spoil are no occasions."""
    first, second = api.snapshot("web01"), api.snapshot("web01")
    api.simulator.story.write_raw("web01", 16 * MiB, b"x")
    third = api.snapshot("web01")
    spoilt = {"kind": "bad_regions", "how": "overlapping", "times": 1}
    _plan(api, {"kind": "dropped", "is_done": True, "nth": [4]}, spoilt)
    api.get(VMS)
    assert api.compute(third, second, token="none").status_code == 401
    token = api.discover(third, second)
    with pytest.raises(httpx.TransportError):
        api.compute(third, second, token=token)
    assert "data" not in api.compute(second, first).json()
    assert api.simulator.story.struck_faults() == [1, 0]
    assert [len(api.regions(third, second)) for _ in range(2)] == [2, 1]
    assert api.simulator.story.struck_faults() == [1, 1]


def test_a_scope_is_wrong_only_where_there_is_a_token_of_another(api: Any) -> None:
    """Calls that hand out no token, and a token that says the same already, are no occasions."""
    point = api.snapshot("web01")
    same = {"kind": "wrong_scope", "minor": 4, "times": 1}
    _plan(api, same, {**same, "minor": 1})
    api.get(VMS)
    token = api.discover(point, None)
    assert api.compute(point, None, token=token).status_code == 401
    assert api.compute(point, None, token=token, version="v4.1").status_code == 200
    assert api.compute(point, None).status_code == 200
    assert api.simulator.story.struck_faults() == [0, 1]


@pytest.mark.parametrize("tells", ["task", "subtask", "legacy", "nothing"])
def test_a_failed_task_tells_its_cause_where_the_plan_says(api: Any, tells: str) -> None:
    """In its messages, in a sub-task, in the legacy text alone, or nowhere; nothing was done."""
    cause = {"message": "disk full", "code": "VOL-30050", "group": "INSUFFICIENT_SPACE"}
    match = {"operation": "VolumeGroupCreate"}
    _plan(api, {"kind": "task", "outcome": "fails", "tells": tells, "match": match, **cause})
    body = {"name": "unlucky", "clusterReference": api.cluster_id()}
    task = api.task(api.send("POST", GROUPS, json=body))
    assert task["status"] == "FAILED"
    assert ("disk full" in json.dumps(task.get("errorMessages", []))) == (tells == "task")
    assert ("disk full" in task.get("legacyErrorMessage", "")) == (tells in ("task", "legacy"))
    if tells == "subtask":
        below = api.get(f"/prism/v4.4/config/tasks/{task['subTasks'][0]['extId']}")
        assert below["errorMessages"][0]["message"] == "disk full"
        listed = api.get(
            "/prism/v4.4/config/tasks", **{"$filter": f"parentTask/extId eq '{task['extId']}'"}
        )
        assert [t["extId"] for t in listed] == [below["extId"]]
    assert "unlucky" not in [g["name"] for g in api.get(GROUPS)]


def test_a_failed_restore_may_leave_a_vm_behind(api: Any) -> None:
    """The task fails after its work: the VM exists, and the failed task names it."""
    point = api.snapshot("web01")
    _plan(api, {"kind": "task", "outcome": "fails_after_work", "match": {"operation": "Restore*"}})
    task = api.task(api.send("POST", f"{POINTS}/{point.ext_id}/$actions/restore", json={}))
    assert task["status"] == "FAILED"
    left = api.created(task, "vmm:ahv:config:vm")
    assert api.get(f"{VMS}/{left}")["name"] == "web01-restored"


def test_a_stuck_task_stays_stuck_and_a_slow_one_ends(api: Any) -> None:
    """Stuck means RUNNING for good, cancelled by nobody; slow means later."""
    body = {"name": "g", "clusterReference": api.cluster_id()}
    _plan(
        api,
        {"kind": "task", "outcome": "stuck", "nth": [1]},
        {"kind": "task", "outcome": "slow", "delay_s": 0.4, "nth": [2]},
    )
    stuck = api.send("POST", GROUPS, json=body).json()["data"]["extId"]
    began = time.monotonic()
    api.do("POST", GROUPS, json=body)
    assert time.monotonic() - began >= 0.4
    assert api.get(f"/prism/v4.4/config/tasks/{stuck}")["status"] == "RUNNING"


def test_a_disk_may_never_show_up_on_the_worker(api: Any) -> None:
    """The attachment succeeds and the device folder stays as it was."""
    _plan(api, {"kind": "no_device", "match": {"vm": "ahvault-worker-1"}})
    api.set_power("ahvault-worker-1", "power-on")
    group = api.make_group(*api.clones_of(api.snapshot("web01")))
    worker = api.vm("ahvault-worker-1")["extId"]
    api.do("POST", f"{GROUPS}/{group}/$actions/attach-vm", json={"extId": worker})
    time.sleep(0.1)
    root = api.simulator.workers[0].device_root
    assert [p for p in root.rglob("*") if not p.is_dir()] == []


def test_a_worker_may_never_boot(api: Any) -> None:
    """Power-on hangs and the VM stays off."""
    _plan(api, {"kind": "task", "outcome": "stuck", "match": {"operation": "SetVmPower"}})
    vm = f"{VMS}/{api.vm('ahvault-worker-1')['extId']}"
    tag = {"If-Match": api.send("GET", vm).headers["etag"]}
    task = api.send("POST", f"{vm}/$actions/power-on", headers=tag).json()["data"]["extId"]
    time.sleep(0.1)
    assert api.get(f"/prism/v4.4/config/tasks/{task}")["status"] == "RUNNING"
    assert api.get(vm)["powerState"] == "OFF"


def test_a_host_that_goes_down_loses_its_vms_to_the_other(api: Any) -> None:
    """What ran there runs on the other host, and what starts later starts there too."""
    hosts = {h["hostName"]: h["extId"] for h in api.get("/clustermgmt/v4.3/config/hosts")}
    api.simulator.story.set_host_state("host-1", is_up=False)
    assert api.vm("web01")["host"]["extId"] == hosts["host-2"]
    api.set_power("ahvault-worker-1", "power-on")
    assert api.vm("ahvault-worker-1")["host"]["extId"] == hosts["host-2"]
    down = api.get("/clustermgmt/v4.3/config/hosts", **{"$filter": "hostName eq 'host-1'"})[0]
    assert down["nodeStatus"] == "UNREACHABLE"
