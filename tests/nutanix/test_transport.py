"""One call on the wire: credentials, request ids, retries, and which error each refusal becomes."""

from __future__ import annotations

import logging
import uuid

import httpx
import pytest

from nutanix import (
    AhvClient,
    AnswerUnusable,
    ClusterBusy,
    ClusterConnection,
    ClusterUnreachable,
    ConcurrentChange,
    FeatureMissing,
    LoginRefused,
    NotFound,
    NotPrism,
    NutanixError,
    PermissionDenied,
    RedirectedTooOften,
    RequestInvalid,
)

VM = {"extId": "v1", "name": "web01"}
LIST = "ahv/config/vms$"


def test_a_failing_service_is_asked_again_with_the_same_request_id(client, prism, clock):
    """500, 503, 504 and 408 are retried, and all attempts carry one NTNX-Request-Id (§8, §10)."""
    fail = prism.refusal
    prism.on("GET", LIST, fail(500), fail(503), fail(504), fail(408), prism.reply([VM]))
    assert [vm.id for vm in client.vms()] == ["v1"]
    attempts = prism.sent("GET", "/vms")
    assert len(attempts) == 5
    assert len({each.headers["NTNX-Request-Id"] for each in attempts}) == 1
    assert all(0 < pause_s <= 16 for pause_s in clock.sleeps_s)


def test_two_calls_have_two_request_ids(client, prism):
    """The id names one logical operation, not the client."""
    prism.on("GET", LIST, prism.reply([VM]))
    client.vms()
    client.vms()
    ids = [each.headers["NTNX-Request-Id"] for each in prism.sent("GET", "/vms")]
    assert len(set(ids)) == 2
    assert all(str(uuid.UUID(each)) == each for each in ids)


def test_waits_grow_and_stay_bounded(client, prism, clock):
    """A service that stays down ends as ClusterBusy after growing, bounded waits."""
    prism.on("GET", LIST, prism.refusal(503))
    with pytest.raises(ClusterBusy) as caught:
        client.vms()
    assert caught.value.is_transient
    assert caught.value.status == 503
    assert caught.value.attempts == len(prism.sent("GET", "/vms")) == 7
    assert clock.sleeps_s == sorted(clock.sleeps_s)
    assert 10 < sum(clock.sleeps_s) < 60


def test_retry_after_is_obeyed(client, prism, clock):
    """429 with Retry-After waits at least that long, and no longer than a moment more."""
    prism.on("GET", LIST, prism.refusal(429, headers={"Retry-After": "7"}), prism.reply([VM]))
    client.vms()
    assert 7 <= clock.elapsed_s < 8


def test_rate_limit_group_counts_on_any_status(client, prism):
    """A rate-limit error group is retried even on HTTP 400 (§7)."""
    prism.on("GET", LIST, prism.refusal(400, group="RATE_LIMIT_EXCEEDED"), prism.reply([VM]))
    assert len(client.vms()) == 1


@pytest.mark.parametrize(
    "error", [httpx.ReadTimeout, httpx.RemoteProtocolError, httpx.ConnectError, httpx.ReadError]
)
def test_a_lost_answer_is_resent_with_the_same_id(client, prism, error):
    """A mutation whose answer is lost is sent again under its id, so that it happens once (§24.4)."""
    accepted = prism.task(
        {"entitiesAffected": [{"extId": "g1", "rel": "volumes:config:volume-group"}]}
    )
    prism.on("GET", "config/volume-groups/g1$", prism.reply({"extId": "g1"}))
    prism.on("POST", "config/volume-groups$", prism.lost(error), accepted)
    made = client.create_volume_group(name="g", cluster_id="c", disks=[], request_id="my-id")
    assert made == "g1"
    assert [each.headers["NTNX-Request-Id"] for each in prism.sent("POST")] == ["my-id", "my-id"]


def test_a_cut_off_answer_is_asked_for_again(client, prism):
    """JSON that ends in the middle is a lost answer, not an empty list."""
    cut = httpx.Response(
        200, content=b'{"data": [{"ext', headers={"Content-Type": "application/json"}
    )
    prism.on("GET", LIST, lambda request: cut, prism.reply([VM]))
    assert len(client.vms()) == 1


def test_an_unreachable_address_fails_at_once(client, prism, clock):
    """Nobody waits half a minute to hear that the address is wrong."""
    prism.on("OPTIONS", "info", prism.lost(httpx.ConnectError))
    with pytest.raises(ClusterUnreachable, match=r"pc\.example.*9440"):
        client.vms()
    assert clock.elapsed_s == 0


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (400, RequestInvalid, "composed text"),
        (401, LoginRefused, "user backup"),
        (403, PermissionDenied, "may not read VM v1"),
        (404, NotFound, "no VM v1"),
        (412, ConcurrentChange, "read VM v1"),
        (422, RequestInvalid, "composed text"),
        (501, FeatureMissing, "read VM v1"),
    ],
)
def test_each_refusal_has_its_type(client, prism, status, error, words):
    """A status becomes the class that says what a handler would do, and the message names the object."""
    prism.on("GET", "vms/v1$", prism.refusal(status))
    with pytest.raises(error, match=words):
        client.vm("v1")


@pytest.mark.parametrize(
    ("group", "error"),
    [
        ("ACCESS_DENIED", PermissionDenied),
        ("RESOURCE_NOT_FOUND", NotFound),
        ("AUTHENTICATION_REQUIRED", LoginRefused),
        ("VM_ETAG_MISMATCH", ConcurrentChange),
    ],
)
def test_the_error_group_wins_over_the_status(client, prism, group, error):
    """prism-go-client reads the group even on HTTP 400; so do we (§7)."""
    prism.on("GET", "vms/v1$", prism.refusal(400, group=group))
    with pytest.raises(error):
        client.vm("v1")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Bad gateway</html>",
        b'{"code": 7, "message": "from the gateway"}',
        (
            b'{"data": {"error": {"error": "bad", "validationErrorMessages": '
            b'[{"message": "too long", "attributePath": "$.name"}]}}}'
        ),
        b'["odd"]',
    ],
)
def test_every_shape_of_error_body_is_read(client, prism, body):
    """Empty, HTML, bare and schema-validation bodies all become the typed error, never a crash (§7)."""
    prism.on("GET", "vms/v1$", lambda request: httpx.Response(400, content=body))
    with pytest.raises(RequestInvalid) as caught:
        client.vm("v1")
    if b"too long" in body:
        assert "$.name: too long" in str(caught.value)


def test_a_web_page_is_not_a_prism(client, prism):
    """An address that answers HTML is told apart from a failing cluster."""
    page = httpx.Response(200, html="<html>Welcome</html>")
    prism.on("OPTIONS", "info", lambda request: page)
    prism.on("GET", ".*", lambda request: page)
    with pytest.raises(NotPrism, match="text/html"):
        client.vms()


def moved(location: str):
    headers = {"Location": location, "X-Redirect-Token": "NTNX_IGW_SESSION=tok"}
    return lambda request: httpx.Response(302, headers=headers)


def test_no_redirect_leads_to_another_server(client, prism):
    """Credentials go to the address the operator gave, and nowhere else."""
    for location in ("https://elsewhere.example/", "http://pc.example:9440/api/x"):
        prism.on("GET", LIST, moved(location))
        with pytest.raises(NotPrism, match="redirects"):
            client.vms()
    assert {str(each.url)[:23] for each in prism.requests} == {"https://pc.example:9440"}


def test_a_redirect_on_the_same_server_is_followed_with_its_body(client, prism):
    """302 with a token: the same method, body and request id again (§8)."""
    target = "https://pc.example:9440/api/volumes/v4.3/config/other"
    made = [{"extId": "g1", "rel": "volumes:config:volume-group"}]
    prism.on("GET", "config/volume-groups/g1$", prism.reply({"extId": "g1"}))
    prism.on("POST", "config/volume-groups$", moved(target))
    prism.on("POST", "config/other$", prism.task({"entitiesAffected": made}))
    arguments = {"name": "g", "cluster_id": "c", "disks": [], "request_id": "my-id"}
    assert client.create_volume_group(**arguments) == "g1"
    first, second = prism.sent("POST")[:2]
    assert first.content == second.content
    assert second.headers["NTNX-Request-Id"] == "my-id"
    assert second.headers["Cookie"] == "NTNX_IGW_SESSION=tok"


def test_redirects_without_end_say_where_they_began_and_ended(client, prism):
    """A circle within the server ends soon, is not tried again, and says where to look.

    What a redirect wrote behind the path may be a session, so it is not told.
    """
    prism.on("GET", LIST, moved("/console/one"))
    prism.on("GET", "/console/one$", moved("/console/two?session=hush"))
    prism.on("GET", "/console/two$", moved("/console/one"))
    with pytest.raises(RedirectedTooOften) as caught:
        client.vms()
    began_at, ended_at = caught.value.began_at, caught.value.ended_at
    assert began_at.startswith("https://pc.example:9440/api/vmm/")
    assert began_at.endswith("/ahv/config/vms")
    assert ended_at == "https://pc.example:9440/console/two"
    assert caught.value.redirects == len(prism.sent("GET")) == 6
    told = str(caught.value)
    assert began_at in told
    assert ended_at in told
    assert "Check the address" in told
    assert "load balancer" in told
    assert "hush" not in told
    assert not caught.value.is_transient


def test_credentials_go_with_every_call_and_cookies_with_none(client, prism):
    """A session cookie of the server never replaces or joins the credentials (§2)."""
    cookie = {"Set-Cookie": "NTNX_IGW_SESSION=abc; Path=/; Secure"}
    prism.on("GET", LIST, prism.reply([VM], headers=cookie))
    client.vms()
    client.vms()
    assert all("Authorization" in each.headers for each in prism.requests)
    assert not any("Cookie" in each.headers for each in prism.requests)


def test_an_api_key_replaces_the_password(prism, clock):
    """With an API key the header is X-ntnx-api-key and no Authorization goes along (§2)."""
    connection = ClusterConnection(url="pc.example", api_key="k-123")
    with AhvClient(connection, transport=httpx.MockTransport(prism.handle), clock=clock) as client:
        prism.on("GET", LIST, prism.reply([VM]))
        client.vms()
    assert {each.headers["X-ntnx-api-key"] for each in prism.requests} == {"k-123"}
    assert not any("Authorization" in each.headers for each in prism.requests)


def test_no_secret_in_reprs_errors_or_logs(client, prism, connection, caplog):
    """The password appears neither in a repr, nor in an error, nor in the log."""
    caplog.set_level(logging.DEBUG)
    prism.on("GET", LIST, prism.refusal(503), prism.refusal(401))
    with pytest.raises(NutanixError) as caught:
        client.vms()
    basic = prism.requests[0].headers["Authorization"].removeprefix("Basic ")
    told = " ".join(
        [repr(client), repr(connection), str(connection), repr(caught.value), caplog.text]
    )
    assert "503" in caplog.text
    assert "correct horse" not in told
    assert basic not in told


def test_a_document_that_does_not_fit_names_the_field(client, prism):
    """A model error is an AnswerUnusable with the first field, not a pydantic traceback."""
    prism.on("GET", "vms/v1$", prism.reply({"name": "no id"}))
    with pytest.raises(AnswerUnusable, match="extId"):
        client.vm("v1")
