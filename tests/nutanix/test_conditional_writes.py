"""Writes under an ETag: read again when stale, the same id for the same attempt, "already so" is fine."""

from __future__ import annotations

import httpx
import pytest

from nutanix import ConcurrentChange, NotFound

OFF = {"extId": "v1", "powerState": "OFF"}
ON = {"extId": "v1", "powerState": "ON"}


def tagged(prism, data, etag):
    return prism.reply(data, headers={"ETag": etag})


def ids(prism):
    return [each.headers["NTNX-Request-Id"] for each in prism.sent("POST")]


def test_power_on_sends_the_etag_just_read(client, prism):
    """The VM is read right before the action, and its ETag goes along as If-Match (§10)."""
    prism.on("GET", "vms/v1$", tagged(prism, OFF, "e1"))
    prism.on("POST", r"vms/v1/\$actions/power-on$", prism.task({}))
    client.power_on("v1")
    assert [each.headers["If-Match"] for each in prism.sent("POST")] == ["e1"]


@pytest.mark.parametrize("as_task", [False, True])
def test_a_stale_etag_is_read_again(client, prism, clock, as_task):
    """412, or a task failed with a mismatch: read again, try again, under a new request id (§10)."""
    stale = prism.refusal(412)
    if as_task:
        error = {"message": "stale", "errorGroup": "VM_ETAG_MISMATCH"}
        stale = prism.task({"status": "FAILED", "errorMessages": [error]}, task_id="bad")
    prism.on("GET", "vms/v1$", tagged(prism, OFF, "e1"), tagged(prism, OFF, "e2"))
    prism.on("POST", "power-on$", stale, prism.task({}))
    client.power_on("v1", request_id="mine")
    assert [each.headers["If-Match"] for each in prism.sent("POST")] == ["e1", "e2"]
    assert len(set(ids(prism))) == 2
    assert clock.elapsed_s > 1


def test_the_same_attempt_has_the_same_id_after_a_restart(client, prism):
    """Caller's id and ETag decide the id sent, so a repeated attempt is recognised by the cluster."""
    prism.on("GET", "vms/v1$", tagged(prism, OFF, "e1"))
    prism.on("POST", "power-on$", prism.task({}))
    client.power_on("v1", request_id="mine")
    client.power_on("v1", request_id="mine")
    client.power_on("v1", request_id="other")
    first, second, third = ids(prism)
    assert first == second != third


def test_an_object_that_keeps_changing_is_given_up(client, prism):
    """Eight stale reads end as ConcurrentChange, which is transient."""
    prism.on("GET", "vms/v1$", tagged(prism, OFF, "e1"))
    prism.on("POST", "power-on$", prism.refusal(412))
    with pytest.raises(ConcurrentChange) as caught:
        client.power_on("v1")
    assert caught.value.is_transient
    assert len(prism.sent("POST")) == 8


def test_power_that_is_already_so_sends_nothing(client, prism):
    """Power on of a running VM and off of a stopped one are successes without a call."""
    prism.on("GET", "vms/v1$", tagged(prism, ON, "e1"), tagged(prism, OFF, "e2"))
    client.power_on("v1")
    client.power_off("v1")
    assert prism.sent("POST") == []


def test_the_race_to_power_on_is_won_by_whoever(client, prism):
    """If somebody else powered it on between read and write, the second read ends it well."""
    prism.on("GET", "vms/v1$", tagged(prism, OFF, "e1"), tagged(prism, ON, "e2"))
    prism.on("POST", "power-on$", prism.refusal(412))
    client.power_on("v1")
    assert len(prism.sent("POST")) == 1


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("delete_recovery_point", "recovery-points/gone$"),
        ("delete_volume_group", "volume-groups/gone$"),
        ("delete_vm", "vms/gone$"),
    ],
)
def test_deleting_what_is_gone_succeeds(client, prism, verb, path):
    """Release is idempotent: gone before, or gone in between, is as good as deleted."""
    getattr(client, verb)("gone")
    prism.on("GET", path, tagged(prism, {"extId": "gone"}, "e1"))
    prism.on("DELETE", path, prism.refusal(404))
    getattr(client, verb)("gone")
    assert len(prism.sent("DELETE")) == 1


def test_delete_does_not_take_a_lost_task_for_a_deletion(client, prism):
    """A 404 about the task, not about the object, is an error."""
    prism.on("GET", "vms/v1$", tagged(prism, OFF, "e1"))
    prism.on("DELETE", "vms/v1$", prism.reply({"extId": "unknown-task"}, status=202))
    with pytest.raises(NotFound, match="unknown-task"):
        client.delete_vm("v1")


def attachment(vm_id, index):
    kind = "volumes.v4.config.VmAttachment"
    return {"attachment": {"$objectType": kind, "extId": vm_id, "index": index}}


def test_an_attached_volume_group_is_detached_before_its_deletion(client, prism):
    """Detach, wait, then delete (§24.2)."""
    attached = {"extId": "g1", "attachments": [attachment("w1", 3)]}
    free = {"extId": "g1", "attachments": []}
    group = {"state": attached}

    def read(request):
        return httpx.Response(200, json={"data": group["state"]}, headers={"ETag": "e"})

    accepted = prism.task({})

    def detach(request):
        group["state"] = free
        return accepted(request)

    prism.on("GET", "volume-groups/g1$", read)
    prism.on("POST", "detach-vm$", detach)
    prism.on("DELETE", "volume-groups/g1$", prism.task({}))
    client.delete_volume_group("g1", request_id="r")
    order = [each.method for each in prism.requests if each.method in ("POST", "DELETE")]
    assert order == ["POST", "DELETE"]
    assert prism.bodies("POST")[0]["extId"] == "w1"


def test_attach_answers_with_the_index_and_is_idempotent(client, prism):
    """The index is read back, and a second call sends nothing."""
    free = tagged(prism, {"extId": "g1"}, "e1")
    attached = tagged(prism, {"extId": "g1", "attachments": [attachment("w1", 5)]}, "e2")
    prism.on("GET", "volume-groups/g1$", free, attached)
    prism.on("POST", "attach-vm$", prism.task({}))
    assert client.attach_volume_group("g1", "w1").index == 5
    assert client.attach_volume_group("g1", "w1").index == 5
    assert len(prism.sent("POST")) == 1


def test_attachments_before_4_1_come_from_the_sub_list(client, prism):
    """Old servers have no attachments in the group; the deprecated list has them (§16)."""
    prism.on("OPTIONS", "volumes|info", prism.reply("v4.0"))
    prism.on("GET", "volume-groups/g1$", prism.reply({"extId": "g1"}))
    prism.on("GET", "g1/vm-attachments$", prism.reply([{"extId": "w1", "index": 2}]))
    (found,) = client.vm_attachments("g1")
    assert (found.vm_id, found.index) == ("w1", 2)
