"""The hand-off from Prism Central to a Prism Element, its token, and its paging (§15)."""

from __future__ import annotations

import base64
import json
import logging

import httpx
import pytest

from nutanix import AnswerUnusable, DiskRecoveryPointRef, LoginRefused, NotFound, RegionsUnusable
from nutanix.changed_regions import content_version

NEW = DiskRecoveryPointRef(
    recovery_point_id="rp", vm_recovery_point_id="vmrp", disk_recovery_point_id="drp"
)
OLD = DiskRecoveryPointRef(
    recovery_point_id="rp0", vm_recovery_point_id="vmrp0", disk_recovery_point_id="drp0"
)
MiB = 1024 * 1024


def token(scope: str = "/api/dataprotection/v4.0/content", serial: int = 0) -> str:
    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'x'})}.{part({'scope': scope, 'n': serial})}.c2ln"


def discovery(prism, jwt, *, ip=None, **envelope):
    address = ip or {"ipv4": {"value": "192.0.2.38", "prefixLength": 32}}
    return prism.reply({"jwtToken": jwt, "clusterIp": address}, **envelope)


def page(prism, next_offset, *regions):
    extra = [
        {"name": "fileSize", "value": str(8 * MiB)},
        {"name": "nextOffset", "value": str(next_offset)},
    ]
    items = [{"offset": o, "length": n, "regionType": "REGULAR"} for o, n in regions]
    return prism.reply(items, metadata={"extraInfo": extra})


def asked(prism):
    return prism.sent("POST", "compute-changed-regions")


def test_the_prism_element_is_asked_as_its_token_says(client, prism):
    """Address from clusterIp, default port, version from the token's scope, token as cookie alone."""
    prism.on("POST", "discover-cluster$", discovery(prism, token()))
    prism.on("POST", "compute-changed-regions$", page(prism, 0, (0, MiB)))
    answer = client.changed_regions(NEW, OLD, block_size_bytes=262144)
    (call,) = asked(prism)
    assert str(call.url) == (
        "https://192.0.2.38:9440/api/dataprotection/v4.0/content/recovery-points/rp"
        "/vm-recovery-points/vmrp/disk-recovery-points/drp/$actions/compute-changed-regions"
    )
    assert call.headers["Cookie"] == f"NTNX_IGW_SESSION={token()}"
    assert "Authorization" not in call.headers
    assert answer.size_bytes == 8 * MiB
    assert [region.length_bytes for region in answer.regions] == [MiB]
    (body,) = prism.bodies("POST", "compute-changed-regions")
    assert body["blockSizeByte"] == 262144
    assert body["referenceDiskRecoveryPointExtId"] == "drp0"
    assert "length" not in body


def test_without_a_reference_no_reference_is_sent(client, prism):
    """All three reference ids or none; none asks for what is allocated (§15.2)."""
    prism.on("POST", "discover-cluster$", discovery(prism, token()))
    prism.on("POST", "compute-changed-regions$", page(prism, 0))
    client.changed_regions(NEW, None)
    (body,) = prism.bodies("POST", "compute-changed-regions")
    assert not any(name.startswith("reference") for name in body)
    (discover,) = prism.bodies("POST", "discover-cluster")
    assert "referenceDiskRecoveryPoint" not in discover["spec"]


def test_paging_goes_on_where_the_answer_says(client, prism):
    """nextOffset may skip ahead; the pages are joined."""
    prism.on("POST", "discover-cluster$", discovery(prism, token()))
    prism.on("POST", "compute-changed-regions$",
             page(prism, 4 * MiB, (0, MiB)), page(prism, 0, (5 * MiB, MiB)))  # fmt: skip
    answer = client.changed_regions(NEW, OLD)
    assert [body["offset"] for body in prism.bodies("POST", "compute-changed")] == [0, 4 * MiB]
    assert [region.offset_bytes for region in answer.regions] == [0, 5 * MiB]


def test_the_token_is_renewed_before_it_expires(client, prism, clock):
    """After twelve minutes the next page is asked with a new token (§15.1)."""
    slow = page(prism, 4 * MiB, (0, MiB))

    def after_13_minutes(request):
        clock.elapsed_s += 13 * 60
        return slow(request)

    prism.on("POST", "discover-cluster$",
             discovery(prism, token(serial=1)), discovery(prism, token(serial=2)))  # fmt: skip
    prism.on("POST", "compute-changed-regions$", after_13_minutes, page(prism, 0))
    client.changed_regions(NEW, OLD)
    first, second = (each.headers["Cookie"] for each in asked(prism))
    assert first != second


def test_a_refused_token_is_renewed_once_per_page(client, prism):
    """401 in mid-paging: a new token and the same page again; a second 401 is the end."""
    prism.on("POST", "discover-cluster$", discovery(prism, token()))
    prism.on("POST", "compute-changed-regions$",
             page(prism, 4 * MiB, (0, MiB)), prism.refusal(401), page(prism, 0, (5 * MiB, MiB)))  # fmt: skip
    assert len(client.changed_regions(NEW, OLD).regions) == 2
    prism.on("POST", "compute-changed-regions$", prism.refusal(401))
    with pytest.raises(LoginRefused) as caught:
        client.changed_regions(NEW, OLD)
    assert "eyJ" not in str(caught.value)


def test_a_bad_later_page_spoils_the_whole_answer(client, prism):
    """Never a partial list: the good first page is not returned (B5)."""
    prism.on("POST", "discover-cluster$", discovery(prism, token()))
    prism.on("POST", "compute-changed-regions$",
             page(prism, 4 * MiB, (0, MiB)), page(prism, 2 * MiB, (5 * MiB, MiB)))  # fmt: skip
    with pytest.raises(RegionsUnusable):
        client.changed_regions(NEW, OLD)


def test_a_recovery_point_that_is_gone(client, prism):
    """A missing recovery point is NotFound, so that the caller can say so."""
    prism.on("POST", "discover-cluster$", prism.refusal(404, code="DP-10400"))
    with pytest.raises(NotFound, match="recovery point rp"):
        client.changed_regions(NEW, OLD)


@pytest.mark.parametrize("data", [None, {}, {"jwtToken": "x"}, {"clusterIp": {"ipv4": {}}}])
def test_a_discovery_without_address_or_token(client, prism, data):
    """An answer that leads nowhere is refused before anything is sent anywhere."""
    prism.on("POST", "discover-cluster$", prism.reply(data))
    with pytest.raises(AnswerUnusable, match="address and token"):
        client.changed_regions(NEW, OLD)
    assert asked(prism) == []


def test_an_ipv6_address_goes_into_brackets(client, prism):
    """Only IPv6 given: the URL is still a URL."""
    ip = {"ipv6": {"value": "2001:db8::5"}}
    prism.on("POST", "discover-cluster$", discovery(prism, token(), ip=ip))
    prism.on("POST", "compute-changed-regions$", page(prism, 0))
    client.changed_regions(NEW, OLD)
    assert asked(prism)[0].url.host == "2001:db8::5"


def test_where_the_content_version_comes_from():
    """A link to the content path, then the token's claims, then nothing (§15.1)."""
    link = {"href": "https://192.0.2.38:9440/api/dataprotection/v4.2/content/recovery-points/x"}
    assert content_version({"metadata": {"links": [link]}}, token()) == "v4.2"
    assert content_version({"data": {"links": [link]}}, "no.jwt") == "v4.2"
    assert content_version({}, token("/api/dataprotection/v4.1.b2/content")) == "v4.1.b2"
    assert content_version({}, token("everything")) is None
    assert content_version({"links": ["odd"]}, "not a token") is None
    assert content_version({}, "a.%%%.c") is None


def test_no_opinion_in_the_token_means_the_negotiated_version(client, prism):
    """Then the Prism Element is asked in Prism Central's version."""
    prism.on("POST", "discover-cluster$", discovery(prism, "opaque"))
    prism.on("POST", "compute-changed-regions$", page(prism, 0))
    client.changed_regions(NEW, OLD)
    assert "/dataprotection/v4.4/content/" in asked(prism)[0].url.path


def test_the_token_never_reaches_the_log(client, prism, caplog):
    """A retried call logs its purpose, not its headers (§24.5)."""
    caplog.set_level(logging.DEBUG)
    prism.on("POST", "discover-cluster$", discovery(prism, token()))
    prism.on("POST", "compute-changed-regions$", prism.refusal(503), page(prism, 0))
    client.changed_regions(NEW, OLD)
    assert "503" in caplog.text
    assert token() not in caplog.text


def test_odd_block_sizes_are_refused(client, prism):
    """Only the four sizes of the API are sent."""
    with pytest.raises(ValueError, match="block_size_bytes"):
        client.changed_regions(NEW, OLD, block_size_bytes=4096)
    assert prism.requests == []


def test_an_unreachable_prism_element_is_named(client, prism):
    """The error names the Prism Element, not Prism Central."""
    prism.on("POST", "discover-cluster$", discovery(prism, token()))
    prism.on("POST", "compute-changed-regions$", prism.lost(httpx.ConnectError))
    with pytest.raises(Exception, match=r"192\.0\.2\.38:9440"):
        client.changed_regions(NEW, OLD)
