"""`diagnose`: a healthy cluster has no complaint; every fault is named with what to do."""

from __future__ import annotations

import ssl
import uuid
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
    """Every call that could change something is about an object that cannot exist, in its path or its body."""
    for method in ("POST", "DELETE"):
        healthy.on(method, "", healthy.refusal(404))
    list(diagnose(client))
    changing = [each for each in healthy.requests if each.method in ("POST", "PUT", "DELETE")]
    assert len(changing) == sum(right.method != "GET" for right in RIGHTS)
    assert all(NOBODY in f"{each.url.path} {each.content.decode()}" for each in changing)


def test_what_a_probe_makes_against_all_reason_is_deleted(client, healthy):
    """A cluster that creates out of nothing: the probe's object, known by its name, goes; nobody else's does."""
    made = [{"extId": each, "rel": "volumes:config:volume-group"} for each in ("vg1", "vg2")]
    healthy.on("POST", "volume-groups$", healthy.task({"entitiesAffected": made}))
    healthy.on("GET", "tasks/", healthy.reply(
        {"extId": "t", "status": "SUCCEEDED", "entitiesAffected": made}))  # fmt: skip
    healthy.on("GET", "volume-groups/vg1$", healthy.reply(
        {"extId": "vg1", "name": "ahvault-doctor-probe"}, headers={"ETag": "e"}))  # fmt: skip
    healthy.on("GET", "volume-groups/vg2$", healthy.reply({"extId": "vg2", "name": "theirs"}))
    list(diagnose(client))
    paths = [each.url.path for each in healthy.sent("DELETE", "volume-groups/vg")]
    assert [path.rpartition("/")[2] for path in paths] == ["vg1"]


@pytest.mark.parametrize("right", [each for each in RIGHTS if each.operation != "View Task"])
def test_a_role_without_one_operation_is_told_that_one(roles, connect, right):
    """A service account whose role lacks one operation: that one is named and no other, and the cluster is as before."""
    sim, key_without = roles
    before = sim.story.describe()
    key = key_without(right.operation.replace(" ", "_"))
    with connect(sim, username=None, password=None, api_key=key) as client:
        (finding,) = (each for each in complaints(client) if each.check == "rights")
    assert f"lacks '{right.operation}', needed for {right.needed_for}" in finding.text
    assert finding.level is (Level.PROBLEM if right.is_vital else Level.WARNING)
    assert sim.story.describe() == before


@pytest.fixture(scope="module")
def roles():
    """A simulator, and a function that makes a key of an account that may do all that backups need but one thing."""
    with Simulator(size=0.05) as sim, httpx.Client(
        base_url=f"{sim.pc_url}/api/iam/v4.0",
        auth=(sim.username, sim.password),
        verify=ssl.create_default_context(cafile=str(sim.ca_file)),
    ) as iam:  # fmt: skip

        def make(path, **spec):
            answer = iam.post(path, json=spec, headers={"NTNX-Request-Id": str(uuid.uuid4())})
            assert answer.status_code == 201, answer.text
            return answer.json()["data"]

        operations = iam.get("/authz/operations", params={"$limit": "100"}).json()["data"]

        def key_without(missing):
            held = [each["extId"] for each in operations if each["displayName"] != missing]
            assert len(held) == len(operations) - 1
            user = make("/authn/users", username=f"no-{missing}", userType="SERVICE_ACCOUNT")[
                "extId"
            ]
            role = make("/authz/roles", displayName=f"no-{missing}", operations=held)["extId"]
            who = [{"identityFilter": {"user": {"uuid": {"anyof": [user]}}}}]
            make("/authz/authorization-policies", displayName="p", role=role, identities=who,
                 entities=[{"entityFilter": {"*": {"*": {"eq": "*"}}}}])  # fmt: skip
            key = make(f"/authn/users/{user}/keys", name="k", keyType="API_KEY")
            return key["keyDetails"]["apiKey"]

        yield sim, key_without


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
