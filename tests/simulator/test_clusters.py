"""Several clusters under one Prism Central: what lies where, and what does not cross (nutanix-v4 §15.1, §16)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from simulator import Settings, Simulator
from tests.simulator.conftest import Api

VMS, GROUPS = "/vmm/v4.3/ahv/config/vms", "/volumes/v4.3/config/volume-groups"
POINTS = "/dataprotection/v4.4/config/recovery-points"


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    """A client of a simulator with two clusters; files01 has moved to the second."""
    settings = Settings(task_s=0.005, power_on_s=0.01)
    with Simulator(size=0.02, settings=settings, further_clusters=["remote"]) as simulator:
        simulator.story.relocate("files01", "remote")
        client = Api(simulator)
        yield client
        client.close()


@pytest.fixture(scope="module")
def places(api: Api) -> dict[str, Any]:
    """The clusters by name."""
    return {each["name"]: each for each in api.get("/clustermgmt/v4.3/config/clusters")}


def clone_of(point: Any, disk: int, cluster: str) -> dict[str, Any]:
    """A volume group in a cluster with a clone of a disk of a recovery point."""
    source = {"extId": point.disk_points[disk], "entityType": "DISK_RECOVERY_POINT"}
    disks = [{"index": 0, "diskDataSourceReference": source}]
    return {"name": "t-clone", "clusterReference": cluster, "disks": disks}


def test_a_further_cluster_has_what_a_cluster_needs(api: Api, places: dict[str, Any]) -> None:
    """A host, a container and a worker of its own; its Prism Element has another address; the VM that moved is there."""
    remote = places["remote"]["extId"]
    hosts = api.get("/clustermgmt/v4.3/config/hosts")
    assert [host["hostName"] for host in hosts if host["cluster"]["uuid"] == remote] == [
        "remote-host"
    ]
    addresses = {
        name: place["network"]["externalAddress"]["ipv4"]["value"] for name, place in places.items()
    }
    assert addresses["remote"] != addresses["sim-cluster"]
    there = {vm["name"] for vm in api.get(VMS) if vm["cluster"]["extId"] == remote}
    assert there == {"files01", "remote-worker"}


def test_a_worker_starts_on_a_host_of_its_own_cluster(api: Api) -> None:
    """Power on finds the cluster's own host, and a migration to a host elsewhere is refused."""
    api.set_power("remote-worker", "power-on")
    hosts = {host["extId"]: host["hostName"] for host in api.get("/clustermgmt/v4.3/config/hosts")}
    worker = api.vm("remote-worker")
    assert hosts[worker["host"]["extId"]] == "remote-host"
    (elsewhere,) = (ext_id for ext_id, name in hosts.items() if name == "host-1")
    path = f"{VMS}/{worker['extId']}"
    tag = api.send("GET", path).headers["etag"]
    answer = api.send("POST", f"{path}/$actions/migrate-to-host",
                      json={"host": {"extId": elsewhere}}, headers={"If-Match": tag})  # fmt: skip
    assert api.task(answer)["status"] == "FAILED"


def test_recovery_points_and_their_clones_stay_in_their_cluster(
    api: Api, places: dict[str, Any]
) -> None:
    """A recovery point names its cluster; no group elsewhere is made of it, and none spans two clusters."""
    point = api.snapshot("files01")
    shown = api.get(f"{POINTS}/{point.ext_id}")
    assert shown["locationReferences"][0]["locationExtId"] == places["remote"]["extId"]
    body = clone_of(point, 0, places["sim-cluster"]["extId"])
    failed = api.task(api.send("POST", GROUPS, json=body))
    assert failed["status"] == "FAILED"
    assert "lies in cluster" in failed["errorMessages"][0]["message"]
    both = [{"vmExtId": api.vm(name)["extId"]} for name in ("files01", "web01")]
    failed = api.task(api.send("POST", POINTS, json={"name": "t", "vmRecoveryPoints": both}))
    assert failed["status"] == "FAILED"


def test_a_group_is_attached_to_vms_of_its_cluster_only(api: Api, places: dict[str, Any]) -> None:
    """The worker of the other cluster is refused, the own one sees the disk."""
    point = api.snapshot("files01")
    body = clone_of(point, 0, places["remote"]["extId"])
    made = api.task(api.send("POST", GROUPS, json=body))
    (group,) = {e["extId"] for e in made["entitiesAffected"] if e["rel"].endswith("volume-group")}
    outcome = {}
    for worker in ("ahvault-worker-1", "remote-worker"):
        body = {"extId": api.vm(worker)["extId"]}
        task = api.task(api.send("POST", f"{GROUPS}/{group}/$actions/attach-vm", json=body))
        outcome[worker] = task["status"]
    assert outcome == {"ahvault-worker-1": "FAILED", "remote-worker": "SUCCEEDED"}


def test_each_prism_element_answers_for_its_own_cluster(api: Api) -> None:
    """discover-cluster names the Prism Element of the recovery point's cluster; the other one does not know it."""
    point = api.snapshot("files01")
    spec = {
        "$objectType": "dataprotection.v4.content.ComputeChangedRegionsClusterDiscoverSpec",
        "diskRecoveryPoint": point.reference(0),
    }
    body = {"operation": "COMPUTE_CHANGED_REGIONS", "spec": spec}
    found = api.send("POST", f"{POINTS}/{point.ext_id}/$actions/discover-cluster", json=body)
    data = found.json()["data"]
    port = api.simulator.pe_url.rpartition(":")[2]
    path = (
        f"/api/dataprotection/v4.4/content/recovery-points/{point.ext_id}/vm-recovery-points/"
        f"{point.vm_point}/disk-recovery-points/{point.disk_points[0]}/$actions/compute-changed-regions"
    )
    cookie = {"Cookie": f"NTNX_IGW_SESSION={data['jwtToken']}"}
    own = f"https://{data['clusterIp']['ipv4']['value']}:{port}"
    answers = [api.pe.post(f"{base}{path}", json={}, headers=cookie).status_code
               for base in (own, api.simulator.pe_url)]  # fmt: skip
    assert answers == [200, 404]
