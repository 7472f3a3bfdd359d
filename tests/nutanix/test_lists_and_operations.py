"""Lists over pages, and waiting for the cluster's asynchronous work (§5, §9)."""

from __future__ import annotations

import httpx
import pytest

from nutanix import (
    AnswerUnusable,
    ConcurrentChange,
    NotFound,
    OperationFailed,
    OperationTimedOut,
    VmAmbiguous,
    VmNotFound,
)

LIST = "ahv/config/vms$"


def pages_of(count, *, tells_total=True):
    def page(request):
        start = int(request.url.params["$page"]) * int(request.url.params["$limit"])
        stop = min(count, start + int(request.url.params["$limit"]))
        body = {"data": [{"extId": f"v{i}", "name": f"vm{i}"} for i in range(start, stop)]}
        if tells_total:
            body["metadata"] = {"totalAvailableResults": count}
        if start >= count:
            del body["data"]
        return httpx.Response(200, json=body)

    return page


@pytest.mark.parametrize("tells_total", [True, False])
@pytest.mark.parametrize(("count", "pages"), [(0, 1), (1, 1), (99, 1), (250, 3)])
def test_a_list_is_read_to_its_end(client, prism, count, pages, tells_total):
    """Every entry once, in order, with no page too many; an empty list may have no data at all."""
    prism.on("GET", LIST, pages_of(count, tells_total=tells_total))
    assert [vm.id for vm in client.vms()] == [f"v{i}" for i in range(count)]
    assert len(prism.sent("GET", "/vms")) == pages


def test_a_list_that_shifts_while_it_is_read_is_read_again(client, prism):
    """A VM deleted between two pages moves another over the border: no VM is skipped in silence."""
    prism.on("GET", LIST, pages_of(150), pages_of(149))
    assert [vm.id for vm in client.vms()] == [f"v{i}" for i in range(149)]
    assert len(prism.sent("GET", "/vms")) == 4


def test_a_list_that_never_holds_still_is_told(client, prism):
    """Then nothing is returned, and trying later may help."""
    prism.on("GET", LIST, *(pages_of(count) for count in range(200, 300)))
    with pytest.raises(ConcurrentChange):
        client.vms()


def test_full_last_page(client, prism):
    """A total that is a multiple of the page size ends without another call."""
    prism.on("GET", LIST, pages_of(200))
    assert len(client.vms()) == 200
    assert len(prism.sent("GET", "/vms")) == 2


def test_find_vm_by_name_and_by_id(client, prism):
    """A name wins; an id works too; an unknown one gets close names; a shared name gets the ids."""
    vms = [("a1", "web01"), ("a2", "web02"), ("a3", "twin"), ("a4", "twin")]
    prism.on("GET", LIST, prism.reply([{"extId": i, "name": n} for i, n in vms]))
    assert client.find_vm("web02").id == "a2"
    assert client.find_vm("a1").name == "web01"
    with pytest.raises(VmNotFound, match="Did you mean web01") as unknown:
        client.find_vm("Web1")
    assert "web02" in unknown.value.close_names
    with pytest.raises(VmAmbiguous, match="a3, a4"):
        client.find_vm("twin")


def test_a_prefix_is_asked_for_and_checked(client, prism):
    """The filter spares pages; what does not start so is dropped even if the server sent it; a server
    that cannot filter is asked for everything; a quote in the prefix stays inside the literal (§4)."""
    groups = [{"extId": "1", "name": "it's mine"}, {"extId": "2", "name": "theirs"}]
    prism.on("GET", "volume-groups$", prism.refusal(400), prism.reply(groups))
    assert [group.id for group in client.volume_groups(name_prefix="it's")] == ["1"]
    first, second = prism.sent("GET", "volume-groups")
    assert first.url.params["$filter"] == "startswith(name,'it''s')"
    assert "$filter" not in second.url.params


def test_waiting_polls_with_growing_pauses_until_success(client, prism, clock):
    """Polling is quick at first and slows down; unknown states count as running."""
    states = ["QUEUED", "RUNNING", "$UNKNOWN", "SUSPENDED", "SUCCEEDED"]
    prism.task(*({"status": state} for state in states))
    assert client.wait_for_operation("ZXJnb24=:t1").status == "SUCCEEDED"
    assert clock.sleeps_s == sorted(clock.sleeps_s)
    assert "ZXJnb24%3D%3At1" in str(prism.requests[-1].url)


def test_a_stuck_operation_ends_at_its_deadline(client, prism, clock):
    """SUSPENDED is not an end: only the deadline is, and the error says that it may yet finish."""
    prism.task({"status": "SUSPENDED"})
    with pytest.raises(OperationTimedOut, match="still SUSPENDED") as caught:
        client.wait_for_operation("ZXJnb24=:t1", timeout_s=100)
    assert caught.value.is_transient
    assert 100 <= clock.elapsed_s < 103


def test_the_cause_is_found_in_a_sub_task(client, prism):
    """The parent's text is generic; the failed sub-task's message comes first (§9)."""
    prism.task({"status": "SUCCEEDED"}, task_id="fine")
    prism.task({"status": "FAILED", "legacyErrorMessage": "container full",
                "entitiesAffected": [{"extId": "half-made", "rel": "x"}]}, task_id="sub")  # fmt: skip
    prism.task({"status": "FAILED", "errorMessages": [{"message": "internal", "code": "VMM-10000"}],
                "subTasks": [{"extId": "fine"}, {"extId": "gone"}, {"extId": "sub"}]})  # fmt: skip
    with pytest.raises(OperationFailed, match=r"container full; internal \[VMM-10000\]") as caught:
        client.wait_for_operation("ZXJnb24=:t1", purpose="make a thing")
    assert caught.value.entity_ids == ("half-made",)
    assert not caught.value.is_transient


def test_a_failed_task_without_any_text_still_reads_well(client, prism):
    """Nothing to quote is said as such."""
    prism.task({"status": "FAILED"})
    with pytest.raises(OperationFailed, match="it gave no reason"):
        client.wait_for_operation("ZXJnb24=:t1")


def test_a_cancelled_task_is_a_failure(client, prism):
    """CANCELED ends the wait, and says so."""
    prism.task({"status": "CANCELED"})
    with pytest.raises(OperationFailed, match="cancelled"):
        client.wait_for_operation("ZXJnb24=:t1")


def test_a_stale_etag_may_come_as_a_failed_task(client, prism):
    """VMM-30303 in a task means the same as HTTP 412 (§10)."""
    prism.task({"status": "FAILED", "errorMessages": [{"message": "stale", "code": "VMM-30303"}]})
    with pytest.raises(ConcurrentChange):
        client.wait_for_operation("ZXJnb24=:t1")


def test_the_new_id_is_taken_by_name_then_by_rel(client, prism):
    """completionDetails wins; entities are picked by rel and de-duplicated, never by place (§9)."""
    rel = "dataprotection:config:recovery-point"
    mixed = [
        {"extId": "vm-point", "rel": "dataprotection:config:vm-recovery-point"},
        {"extId": "p2", "rel": rel},
        {"extId": "p2", "rel": rel},
    ]
    detail = [{"name": "recoveryPointExtId", "value": "p1"}]
    for state, expected in (
        ({"completionDetails": detail, "entitiesAffected": mixed}, "p1"),
        ({"entitiesAffected": mixed}, "p2"),
    ):
        prism.on("POST", "recovery-points$", prism.task(state))
        prism.on("GET", f"recovery-points/{expected}$",
                 prism.reply({"extId": expected, "creationTime": "2030-01-01T00:00:00Z"}))  # fmt: skip
        assert create_point(client) == expected


def test_a_task_that_names_nothing_new_is_an_error(client, prism):
    """Success without an id is not success."""
    prism.on("POST", "recovery-points$", prism.task({}))
    with pytest.raises(AnswerUnusable, match="names no recovery point"):
        create_point(client)


def test_a_fresh_object_may_be_missing_for_a_moment(client, prism, clock):
    """A 404 right after success is waited out; one that stays is told (§9)."""
    point = {"extId": "p1", "creationTime": "2030-01-01T00:00:00Z"}
    prism.on("POST", "recovery-points$",
             prism.task({"completionDetails": [{"name": "recoveryPointExtId", "value": "p1"}]}))  # fmt: skip
    prism.on(
        "GET", "recovery-points/p1$", prism.refusal(404), prism.refusal(404), prism.reply(point)
    )
    assert create_point(client) == "p1"
    prism.on("GET", "recovery-points/p1$", prism.refusal(404))
    with pytest.raises(NotFound):
        create_point(client)
    assert clock.elapsed_s > 10


def create_point(client):
    return client.create_recovery_point(
        name="n", vm_ids=["v1"], expires_at=client._clock.now(), request_id="r"
    )
