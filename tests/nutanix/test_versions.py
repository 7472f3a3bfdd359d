"""Agreeing on the version of each namespace, also with servers that do not announce one (§1.1)."""

from __future__ import annotations

import httpx
import pytest

from nutanix import LoginRefused, NotPrism

LIST = "ahv/config/vms$"


def versions_asked(prism, method="GET"):
    return [each.url.path.split("/")[3] for each in prism.sent(method, "/vms")]


@pytest.mark.parametrize(
    ("announced", "spoken"),
    [
        ("v4.3", "v4.3"),
        ("v4.7", "v4.3"),
        ("v4.2", "v4.2"),
        ("v4.0", "v4.0"),
        ("v4.3.b1", "v4.3.b1"),
        ("v4.4.a2", "v4.3"),
    ],
)
def test_the_announced_version_is_spoken_up_to_our_newest(client, prism, announced, spoken):
    """A newer server gets our newest minor; an older one gets its own."""
    prism.on("OPTIONS", "info", prism.reply(announced))
    prism.on("GET", LIST, prism.reply([]))
    client.vms()
    assert versions_asked(prism) == [spoken]


def test_each_namespace_is_asked_once(client, prism):
    """Many calls, one probe per namespace."""
    prism.on("GET", LIST, prism.reply([]))
    for _ in range(3):
        client.vms()
    assert len(prism.sent("OPTIONS")) == 1


@pytest.mark.parametrize("status", [404, 401, 500, 200])
def test_a_server_without_the_probe_is_found_by_trying(client, prism, status):
    """404, 401, 500 or a body without data: a list call finds v4.1, as PC 7.3 serves it (§1)."""
    prism.on("OPTIONS", "info", lambda request: httpx.Response(status, json={}))
    prism.on("GET", LIST, prism.reply([]))
    client.vms()
    assert versions_asked(prism)[0] == "v4.1"
    assert client.versions.of("vmm") == "v4.1"


def test_only_4_0_is_there(client, prism):
    """The next older minor is tried when one answers 404."""
    gone = httpx.Response(404)

    def only_4_0(request):
        return httpx.Response(200, json={"data": []}) if "/v4.0/" in request.url.path else gone

    prism.on("OPTIONS", "info", prism.refusal(404))
    prism.on("GET", LIST, only_4_0)
    client.vms()
    assert client.versions.of("vmm") == "v4.0"
    assert not client.versions.at_least("vmm", "v4.1")


def test_no_v4_at_all_is_not_a_prism(client, prism):
    """An address without any version of the API says so, and where to point instead."""
    prism.on("OPTIONS", "info", prism.refusal(404))
    with pytest.raises(NotPrism, match="Prism Central"):
        client.vms()


def test_a_wrong_password_is_told_even_where_the_probe_answers_401(client, prism):
    """The probe's 401 may mean an old server; the list call's 401 means the login."""
    prism.on("OPTIONS", "info", prism.refusal(401))
    prism.on("GET", LIST, prism.refusal(401))
    with pytest.raises(LoginRefused, match="Check user name and password"):
        client.vms()
