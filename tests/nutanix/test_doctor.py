"""`diagnose`: a healthy cluster has no complaint; every fault is named with what to do."""

from __future__ import annotations

from datetime import timedelta
from email.utils import format_datetime

import httpx
import pytest

from nutanix import Level, diagnose
from nutanix.rights import NOBODY, RIGHTS
from simulator import Simulator

CLUSTER = {
    "extId": "c1",
    "name": "main",
    "config": {"clusterFunction": ["AOS"]},
    "network": {"externalAddress": {"ipv4": {"value": "192.0.2.38"}}},
}


@pytest.fixture
def healthy(prism, clock):
    """A scripted Prism Central with one cluster, its clock right."""

    def root(request):
        now = format_datetime(clock.now(), usegmt=True)
        return httpx.Response(404, headers={"Date": now})

    prism.on("GET", "^/api/$", root)
    prism.on("GET", "", prism.reply([]))
    prism.on("GET", "config/clusters$", prism.reply([CLUSTER]))
    return prism


def complaints(client):
    return [finding for finding in diagnose(client) if finding.level is not Level.OK]


def test_a_healthy_cluster_has_no_complaint(connect):
    """Against the simulator over real TLS: everything is checked, nothing is wrong or changed."""
    with Simulator(size=0.05) as sim, connect(sim) as client:
        before = sim.story.describe()
        findings = list(diagnose(client))
        assert sim.story.describe() == before
    assert {finding.level for finding in findings} == {Level.OK}
    assert {finding.check for finding in findings} >= {
        "connection", "certificate", "clocks", "login", "API versions", "rights", "changed regions",
    }  # fmt: skip


def test_an_untrusted_certificate_ends_it(connect):
    """Without trust nothing more is asked, and the one finding names ca_file."""
    with Simulator(size=0.05) as sim, connect(sim, ca_file=None) as client:
        (finding,) = diagnose(client)
    assert finding.level is Level.PROBLEM
    assert "ca_file" in finding.text


def test_a_wrong_password_ends_it(client, healthy):
    """A refused login is one problem, not one per check."""
    healthy.on("GET", "vms$", healthy.refusal(401))
    (finding,) = complaints(client)
    assert (finding.check, finding.level) == ("login", Level.PROBLEM)


def test_every_missing_right_is_named(client, healthy):
    """403 on one call names the operation and what it is for; the other rights are asked all the same."""
    healthy.on("POST", "attach-vm$", healthy.refusal(403, group="ACCESS_DENIED"))
    healthy.on("GET", "hosts$", healthy.refusal(403))
    told = [finding.text for finding in complaints(client)]
    assert len(told) == 2
    assert "'View Host', needed for choosing the worker" in told[0]
    assert "'Attach Volume Group To VM', needed for backups" in told[1]


def test_rights_are_asked_for_nothing_that_exists(client, healthy):
    """Every call that could change something is about an object that cannot exist."""
    list(diagnose(client))
    changing = [each for each in healthy.requests if each.method in ("POST", "PUT", "DELETE")]
    assert len(changing) == sum(right.method != "GET" for right in RIGHTS)
    assert all(NOBODY in each.url.path for each in changing)


def test_a_skewed_clock_is_told(client, healthy, clock):
    """Ten minutes off is a warning with the direction."""
    ahead = format_datetime(clock.now() + timedelta(minutes=10), usegmt=True)
    healthy.on("GET", "^/api/$", lambda request: httpx.Response(404, headers={"Date": ahead}))
    (finding,) = complaints(client)
    assert (finding.check, finding.level) == ("clocks", Level.WARNING)
    assert "600 s ahead of" in finding.text


def test_an_old_api_is_told(client, healthy):
    """API 4.0 cannot do restores, and the finding says which release can."""
    healthy.on("OPTIONS", "info", healthy.reply("v4.0"))
    (finding,) = complaints(client)
    assert (finding.check, finding.level) == ("API versions", Level.PROBLEM)
    assert "7.3" in finding.advice


def test_an_unreachable_prism_element_is_told(client, healthy):
    """Prism Central works and the cluster itself does not: found before the first backup does."""

    def root(request):
        if request.url.host == "192.0.2.38":
            raise httpx.ConnectTimeout("no route", request=request)
        return httpx.Response(404)

    healthy.on("GET", "^/api/$", root)
    (finding,) = complaints(client)
    assert finding.check == "changed regions"
    assert "https://192.0.2.38:9440" in finding.text
    assert "port 9440" in finding.advice


@pytest.mark.parametrize(
    ("clusters", "words"),
    [([], "no cluster is visible"), ([{"extId": "c1", "name": "main"}], "no address of its own")],
)
def test_clusters_that_cannot_be_used(client, healthy, clusters, words):
    """No cluster, or one without an address, is told with what to set."""
    healthy.on("GET", "config/clusters$", healthy.reply(clusters))
    (finding,) = complaints(client)
    assert words in finding.text
    assert finding.advice


def test_a_failing_check_does_not_hide_the_others(client, healthy):
    """A service that is down is a finding, and the checks after it still run."""
    healthy.on("GET", "subnets$", healthy.refusal(503))
    checks = [finding.check for finding in diagnose(client)]
    assert "rights" in checks
    assert "changed regions" in checks
