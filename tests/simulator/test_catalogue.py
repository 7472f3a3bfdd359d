"""The calls of a backup and restore product beyond the main sequence, each with what it changes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from simulator.roles import is_classified
from simulator.simulation import CATALOGUES
from simulator.sparse import MiB
from tests.folder_server import folder_served

VMS = "/vmm/v4.3/ahv/config/vms"
POINTS = "/dataprotection/v4.4/config/recovery-points"


def _tag(api: Any, path: str) -> dict[str, str]:
    return {"If-Match": api.send("GET", path).headers["etag"]}


def _content(api: Any, vm: str, disk: int = 0) -> bytes:
    point = api.snapshot(vm)
    return Path(api.simulator.story.frozen(point.disk_points[disk])["path"]).read_bytes()


def _by_id(api: Any, vm_id: str) -> str:
    return str(api.get(f"{VMS}/{vm_id}")["name"])


def test_a_vm_lives_through_create_update_clone_and_delete(api: Any) -> None:
    """Every step is visible in the next GET, and the disks go with the VM."""
    backing = {"$objectType": "vmm.v4.ahv.config.VmDisk", "diskSizeBytes": 8 * MiB}
    subnet = api.get("/networking/v4.4/config/subnets")[0]["extId"]
    nic = {
        "nicBackingInfo": {"macAddress": "50:6b:8d:00:00:07"},
        "nicNetworkInfo": {"subnet": {"extId": subnet}},
    }
    body = {
        "name": "new",
        "cluster": {"extId": api.cluster_id()},
        "disks": [{"backingInfo": backing}, {"backingInfo": backing}],
        "nics": [nic],
        "bootConfig": {"$objectType": "vmm.v4.ahv.config.UefiBoot", "isSecureBootEnabled": False},
    }
    vm_id = api.created(api.do("POST", VMS, json=body), "vmm:ahv:config:vm")
    vm = api.get(f"{VMS}/{vm_id}")
    assert [d["diskAddress"]["index"] for d in vm["disks"]] == [0, 1]
    assert vm["nics"][0]["nicBackingInfo"]["macAddress"] == "50:6b:8d:00:00:07"
    assert "host" not in vm
    changed = {**vm, "memorySizeBytes": 2 << 30}
    api.do("PUT", f"{VMS}/{vm_id}", json=changed, headers=_tag(api, f"{VMS}/{vm_id}"))
    assert api.get(f"{VMS}/{vm_id}")["memorySizeBytes"] == 2 << 30
    api.simulator.story.write_raw(vm_id, 4096, b"cloned")
    task = api.do(
        "POST",
        f"{VMS}/{vm_id}/$actions/clone",
        json={"name": "twin"},
        headers=_tag(api, f"{VMS}/{vm_id}"),
    )
    twin = api.created(task, "vmm:ahv:config:vm")
    assert _content(api, "twin")[4096:4102] == b"cloned"
    assert api.get(f"{VMS}/{twin}")["disks"][0]["extId"] != vm["disks"][0]["extId"]
    for one in (vm_id, twin):
        api.do("DELETE", f"{VMS}/{one}", headers=_tag(api, f"{VMS}/{one}"))
        assert api.send("GET", f"{VMS}/{one}").status_code == 404


def test_devices_come_and_go(api: Any) -> None:
    """Disks, drives and NICs are added, changed under their own ETags, and removed."""
    vm = f"{VMS}/{api.vm('web01')['extId']}"
    backing = {"$objectType": "vmm.v4.ahv.config.VmDisk", "diskSizeBytes": 4 * MiB}
    task = api.do("POST", f"{vm}/disks", json={"backingInfo": backing}, headers=_tag(api, vm))
    disk = f"{vm}/disks/{api.created(task, 'vmm:ahv:config:vm:disk')}"
    assert len(api.get(f"{vm}/disks")) == 2
    grown = {"backingInfo": {**backing, "diskSizeBytes": 6 * MiB}}
    api.do("PUT", disk, json=grown, headers=_tag(api, disk))
    assert api.get(disk)["backingInfo"]["diskSizeBytes"] == 6 * MiB
    shrunk = api.task(api.send("PUT", disk, json={"backingInfo": backing}, headers=_tag(api, disk)))
    assert shrunk["status"] == "FAILED"
    api.do("DELETE", disk, headers=_tag(api, disk))
    assert api.send("GET", disk).status_code == 404
    nic = f"{vm}/nics/{api.created(api.do('POST', f'{vm}/nics', json={}, headers=_tag(api, vm)), 'vmm:ahv:config:vm:nic')}"
    off = {"nicBackingInfo": {"isConnected": False}}
    api.do("PUT", nic, json=off, headers=_tag(api, nic))
    assert api.get(nic)["nicBackingInfo"]["isConnected"] is False
    api.do("DELETE", nic, headers=_tag(api, nic))
    drive = f"{vm}/cd-roms/{api.created(api.do('POST', f'{vm}/cd-roms', json={}, headers=_tag(api, vm)), 'vmm:ahv:config:vm:cdrom')}"
    api.do(
        "POST", f"{drive}/$actions/insert", json={"backingInfo": backing}, headers=_tag(api, drive)
    )
    assert "backingInfo" in api.get(drive)
    api.do("POST", f"{drive}/$actions/eject", headers=_tag(api, drive))
    assert "backingInfo" not in api.get(drive)
    assert api.send("GET", f"{vm}/gpus").json()["metadata"]["totalAvailableResults"] == 0


def test_a_vm_with_a_medium_has_more_disk_points_than_disks(api: Any) -> None:
    """A CD-ROM medium is frozen too, and its disk recovery point has no `diskExtId`."""
    vm = f"{VMS}/{api.vm('web01')['extId']}"
    drive = f"{vm}/cd-roms/{api.get(f'{vm}/cd-roms')[0]['extId']}"
    backing = {"$objectType": "vmm.v4.ahv.config.VmDisk", "diskSizeBytes": MiB}
    api.do(
        "POST", f"{drive}/$actions/insert", json={"backingInfo": backing}, headers=_tag(api, drive)
    )
    point = api.snapshot("web01")
    rows = api.get(f"{POINTS}/{point.ext_id}/vm-recovery-points/{point.vm_point}")[
        "diskRecoveryPoints"
    ]
    assert [("diskExtId" in row) for row in rows] == [True, False]


def test_revert_brings_the_bytes_back(api: Any) -> None:
    """After a revert the disk has a new id and the content of the recovery point."""
    before = _content(api, "web01")
    point = api.snapshot("web01")
    api.simulator.story.write_raw("web01", 20 * MiB, b"unwanted")
    vm = f"{VMS}/{api.vm('web01')['extId']}"
    old = api.get(vm)["disks"][0]["extId"]
    body = {"vmRecoveryPointExtId": point.vm_point}
    api.do("POST", f"{vm}/$actions/revert", json=body, headers=_tag(api, vm))
    assert api.get(vm)["disks"][0]["extId"] != old
    assert _content(api, "web01") == before


def test_restoring_a_recovery_point_makes_vms_that_the_task_names(api: Any) -> None:
    """Both restore calls make a new VM with the frozen bytes, the overriding name and no host."""
    point = api.snapshot("db01")
    frozen = Path(api.simulator.story.frozen(point.disk_points[1])["path"]).read_bytes()
    override = {"vmRecoveryPointExtId": point.vm_point, "vmOverrideSpec": {"name": "back"}}
    body = {"vmRecoveryPointRestoreOverrides": [override]}
    task = api.do("POST", f"{POINTS}/{point.ext_id}/$actions/restore", json=body)
    details = {d["name"]: d["value"] for d in task["completionDetails"]}
    assert _by_id(api, details["vmExtIds"]) == "back"
    assert _content(api, "back", 1) == frozen
    path = f"/vmm/v4.3/ahv/config/vm-recovery-points/{point.vm_point}/$actions/restore"
    again = api.do("POST", path, json={"vmConfigOverrideSpec": {"name": "back-2"}})
    assert _by_id(api, api.created(again, "vmm:ahv:config:vm")) == "back-2"


def test_recovery_points_expire_and_can_be_kept_longer(api: Any) -> None:
    """A new expiration time counts; when it passes, all levels are gone."""
    point = api.snapshot("web01")
    path = f"{POINTS}/{point.ext_id}"
    api.do(
        "POST",
        f"{path}/$actions/set-expiration-time",
        json={"expirationTime": "2089-01-01T00:00:00"},
    )
    assert api.get(path)["expirationTime"].startswith("2089-01-01T00:00:00")
    past = api.send(
        "POST",
        f"{path}/$actions/set-expiration-time",
        json={"expirationTime": "2001-01-01T00:00:00Z"},
    )
    assert past.status_code == 422
    api.simulator.story.advance_clock(70 * 366 * 86400)
    assert api.send("GET", path).status_code == 404
    assert (
        api.send("GET", f"/vmm/v4.3/ahv/config/vm-recovery-points/{point.vm_point}").status_code
        == 404
    )


def test_replicas_share_content_and_live_on_their_own(api: Any) -> None:
    """A replica has its own ids, and the bytes stay when the original goes."""
    point = api.snapshot("web01")
    body = {"pcExtId": api.cluster_id(), "clusterExtId": api.cluster_id()}
    task = api.do("POST", f"{POINTS}/{point.ext_id}/$actions/replicate", json=body)
    twin = {d["name"]: d["value"] for d in task["completionDetails"]}["recoveryPointExtId"]
    api.do("DELETE", f"{POINTS}/{point.ext_id}")
    row = api.get(f"{POINTS}/{twin}")["vmRecoveryPoints"][0]["diskRecoveryPoints"][0]
    assert Path(api.simulator.story.frozen(row["diskRecoveryPointExtId"])["path"]).exists()


def test_several_vms_and_a_group_in_one_recovery_point(api: Any) -> None:
    """One call freezes them together; each has its part with its own ids; 33 entities are too many."""
    group = api.make_group(*api.clones_of(api.snapshot("web01")))
    vms = [api.vm(name)["extId"] for name in ("web01", "db01")]
    body = {
        "name": "several",
        "vmRecoveryPoints": [{"vmExtId": vm} for vm in vms],
        "volumeGroupRecoveryPoints": [{"volumeGroupExtId": group}],
    }
    task = api.do("POST", POINTS, json=body)
    point = api.get(f"{POINTS}/{api.created(task, 'dataprotection:config:recovery-point')}")
    assert [row["vmExtId"] for row in point["vmRecoveryPoints"]] == vms
    assert point["volumeGroupRecoveryPoints"][0]["volumeGroupExtId"] == group
    assert "name" not in point["vmRecoveryPoints"][0]
    many = {"name": "x", "vmRecoveryPoints": [{"vmExtId": vms[0]}] * 33}
    assert api.send("POST", POINTS, json=many).status_code == 400


def test_application_consistency_needs_guest_tools(api: Any) -> None:
    """The VM with VSS succeeds, one without fails in its task."""
    for name, status in (("db01", "SUCCEEDED"), ("web01", "FAILED")):
        body = {
            "name": "app",
            "recoveryPointType": "APPLICATION_CONSISTENT",
            "vmRecoveryPoints": [{"vmExtId": api.vm(name)["extId"]}],
        }
        assert api.task(api.send("POST", POINTS, json=body))["status"] == status


@pytest.fixture
def file_server(tmp_path: Path) -> Iterator[str]:
    """A web server over a folder with one disk image in it."""
    (tmp_path / "disk.raw").write_bytes(bytes(3 * MiB) + b"payload" + bytes(MiB - 7))

    with folder_served(tmp_path) as url:
        yield url


def test_an_image_is_fetched_and_a_vm_made_from_it(api: Any, file_server: str) -> None:
    """Restore path E: the cluster pulls the URL, the image downloads again, and a disk clones it."""
    source = {"$objectType": "vmm.v4.content.UrlSource", "url": f"{file_server}/disk.raw"}
    body = {"name": "img", "type": "DISK_IMAGE", "source": source}
    image = api.created(api.do("POST", "/vmm/v4.3/content/images", json=body), "vmm:content:image")
    assert api.get(f"/vmm/v4.3/content/images/{image}")["sizeBytes"] == 4 * MiB
    assert (
        api.send("GET", f"/vmm/v4.3/content/images/{image}/file").content[3 * MiB :][:7]
        == b"payload"
    )
    reference = {"$objectType": "vmm.v4.ahv.config.ImageReference", "imageExtId": image}
    backing = {"$objectType": "vmm.v4.ahv.config.VmDisk", "dataSource": {"reference": reference}}
    vm = {
        "name": "from-image",
        "cluster": {"extId": api.cluster_id()},
        "disks": [{"backingInfo": backing}],
    }
    api.do("POST", VMS, json=vm)
    assert _content(api, "from-image")[3 * MiB :][:7] == b"payload"
    api.do("DELETE", f"/vmm/v4.3/content/images/{image}")
    lost = {**body, "source": {**source, "url": f"{file_server}/none"}}
    assert api.task(api.send("POST", "/vmm/v4.3/content/images", json=lost))["status"] == "FAILED"


def test_iscsi_clients_are_made_by_their_first_attachment(api: Any) -> None:
    """The client object appears with the task, is reused, and is what detaching names."""
    groups = [api.make_group(*api.clones_of(api.snapshot("web01")), name=f"g{n}") for n in range(2)]
    clients = set()
    for group in groups:
        path = f"/volumes/v4.3/config/volume-groups/{group}/$actions/attach-iscsi-client"
        task = api.do("POST", path, json={"iscsiInitiatorName": "iqn.1993-08.org.debian:01:abc"})
        clients.add(api.created(task, "volumes:config:iscsi-client"))
    assert len(clients) == 1
    assert (
        api.get(f"/volumes/v4.3/config/volume-groups/{groups[0]}")["attachmentType"] == "EXTERNAL"
    )
    both = {"iscsiInitiatorName": "a", "iscsiInitiatorNetworkId": {"ipv4": {"value": "192.0.2.9"}}}
    assert api.send("POST", path, json=both).status_code == 400
    for group in groups:
        path = f"/volumes/v4.3/config/volume-groups/{group}/$actions/detach-iscsi-client"
        api.do("POST", path, json={"extId": next(iter(clients))})
        api.do("DELETE", f"/volumes/v4.3/config/volume-groups/{group}")


def test_categories_are_synchronous_and_find_their_vms(api: Any) -> None:
    """201, 200 and 204 at once; expanding a category names the VMs that carry it."""
    made = api.send(
        "POST", "/prism/v4.4/config/categories", json={"key": "Backup", "value": "gold"}
    )
    assert made.status_code == 201
    ext_id = made.json()["data"]["extId"]
    path = f"/prism/v4.4/config/categories/{ext_id}"
    assert (
        api.send(
            "POST", "/prism/v4.4/config/categories", json={"key": "Backup", "value": "gold"}
        ).status_code
        == 409
    )
    vm = f"{VMS}/{api.vm('web01')['extId']}"
    body = {"categories": [{"extId": ext_id}]}
    api.do("POST", f"{vm}/$actions/associate-categories", json=body, headers=_tag(api, vm))
    expanded = api.get(path, **{"$expand": "detailedAssociations"})
    assert [row["resourceId"] for row in expanded["detailedAssociations"]] == [
        api.vm("web01")["extId"]
    ]
    point = api.snapshot("web01")
    shown = api.get(f"{POINTS}/{point.ext_id}/vm-recovery-points/{point.vm_point}")
    assert "Backup/gold" in shown["vmCategories"]
    assert (
        api.send("PUT", path, json={"description": "x"}, headers=_tag(api, path)).status_code == 200
    )
    assert api.send("DELETE", path).status_code == 204


def test_tasks_can_be_cancelled_only_before_they_begin(open_api: Any) -> None:
    """A queued task is cancelled and its work is not done; an ended one cannot be."""
    api = open_api(task_s=2.0)
    body = {"name": "never", "clusterReference": api.cluster_id()}
    answer = api.send("POST", "/volumes/v4.3/config/volume-groups", json=body)
    task = f"/prism/v4.4/config/tasks/{answer.json()['data']['extId']}"
    assert api.send("POST", f"{task}/$actions/cancel").json()["data"]["code"] == "TSKS-20901"
    assert api.get(task)["status"] == "CANCELED"
    assert api.send("POST", f"{task}/$actions/cancel").status_code == 409
    newest = api.get(
        "/prism/v4.4/config/tasks", **{"$filter": "status eq Prism.Config.TaskStatus'CANCELED'"}
    )
    assert [t["extId"] for t in newest] == [answer.json()["data"]["extId"]]


def test_an_api_key_opens_the_door_until_it_is_revoked(api: Any) -> None:
    """The key's value is told once, works without a password, and stops working."""
    user = {"username": "backup", "userType": "SERVICE_ACCOUNT"}
    path = f"/iam/v4.0/authn/users/{api.send('POST', '/iam/v4.0/authn/users', json=user).json()['data']['extId']}/keys"
    made = api.send("POST", path, json={"name": "k", "keyType": "API_KEY"}).json()["data"]
    key = made["keyDetails"]["apiKey"]
    assert key not in api.send("GET", path).text
    api.grant(path.split("/")[-2], "Prism Admin")
    with httpx.Client(
        base_url=api.simulator.pc_url, verify=api.tls, headers={"X-ntnx-api-key": key}
    ) as bare:
        assert bare.get(f"/api{VMS}").status_code == 200
        api.send("POST", f"{path}/{made['extId']}/$actions/revoke")
        bare.cookies.clear()
        assert bare.get(f"/api{VMS}").status_code == 401


def test_every_call_says_who_may_make_it() -> None:
    """No call of the catalogue is closed to service accounts by having been forgotten."""
    handlers = {
        route.handler.__name__
        for catalogue in CATALOGUES
        for route in catalogue.routes
        if catalogue.namespace != "iam"
    }
    assert {name for name in handlers if not is_classified(name)} == set()


def test_a_role_gives_what_it_holds_and_nothing_more(api: Any) -> None:
    """Without a policy a service account may do nothing; Backup Admin may take recovery points but not list clusters; a role of one's own adds that (§20)."""
    user, key = api.service_account()
    with api.as_key(key) as account:

        def status(method: str, path: str, **body: Any) -> int:
            headers = {"NTNX-Request-Id": str(uuid.uuid4())}
            code: int = account.request(method, f"/api{path}", headers=headers, **body).status_code
            return code

        clusters, vms = "/clustermgmt/v4.3/config/clusters", VMS
        assert (status("GET", vms), status("GET", clusters)) == (403, 403)
        api.grant(user, "Backup Admin")
        assert (status("GET", vms), status("GET", clusters)) == (200, 403)
        nothing = {"vmRecoveryPoints": [{"vmExtId": "00000000-0000-4000-8000-000000000000"}]}
        points = "/dataprotection/v4.4/config/recovery-points"
        assert status("POST", points, json=nothing) == 404
        assert status("POST", f"{vms}/{api.vm('web01')['extId']}/$actions/clone", json={}) == 403
        (view,) = (o for o in api.get("/iam/v4.0/authz/operations", **{"$limit": "100"})
                   if o["displayName"] == "View_Cluster")  # fmt: skip
        spec = {"displayName": "Viewer", "operations": [view["extId"]]}
        assert api.send("POST", "/iam/v4.0/authz/roles", json=spec).status_code == 201
        api.grant(user, "Viewer")
        assert status("GET", clusters) == 200
        # A session that the key's own answers opened has the key's rights, not the administrator's.
        del account.headers["X-ntnx-api-key"]
        assert (status("GET", clusters), status("GET", "/clustermgmt/v4.3/config/hosts")) == (
            200,
            403,
        )


def test_migration_moves_a_running_vm_and_places_a_stopped_one(api: Any) -> None:
    """A running VM changes its host; a stopped one has none, and starts where it was placed."""
    hosts = {h["hostName"]: h["extId"] for h in api.get("/clustermgmt/v4.3/config/hosts")}
    for name in ("web01", "ahvault-worker-1"):
        vm = f"{VMS}/{api.vm(name)['extId']}"
        body = {"host": {"extId": hosts["host-2"]}}
        api.do("POST", f"{vm}/$actions/migrate-to-host", json=body, headers=_tag(api, vm))
    assert api.vm("web01")["host"]["extId"] == hosts["host-2"]
    assert "host" not in api.vm("ahvault-worker-1")
    api.set_power("ahvault-worker-1", "power-on")
    on_second = api.get(VMS, **{"$filter": f"host/extId eq '{hosts['host-2']}'"})
    assert {vm["name"] for vm in on_second} == {"web01", "db01", "ahvault-worker-1"}


def test_a_storage_container_is_made_on_a_named_cluster(api: Any) -> None:
    """The header that names the cluster is required, and the id is `containerExtId`."""
    path = "/clustermgmt/v4.3/config/storage-containers"
    assert api.send("POST", path, json={"name": "c"}).status_code == 400
    api.do("POST", path, json={"name": "c"}, headers={"X-Cluster-Id": api.cluster_id()})
    made = api.get(path, **{"$filter": "name eq 'c'"})[0]
    assert api.get(f"{path}/{made['containerExtId']}")["name"] == "c"


def test_stored_vss_metadata_is_a_cabinet_on_the_element(api: Any) -> None:
    """An application-consistent point with metadata hands it out to its own token; others say 422."""
    properties = {
        "$objectType": "dataprotection.v4.common.VssProperties",
        "backupType": "COPY_BACKUP",
        "shouldStoreVssMetadata": True,
    }
    row = {"vmExtId": api.vm("db01")["extId"], "applicationConsistentProperties": properties}
    body = {"name": "vss", "recoveryPointType": "APPLICATION_CONSISTENT", "vmRecoveryPoints": [row]}
    task = api.do("POST", POINTS, json=body)
    point = api.created(task, "dataprotection:config:recovery-point")
    vm_point = api.created(task, "dataprotection:config:vm-recovery-point")

    def discover(of: str, below: str) -> httpx.Response:
        spec = {"vmRecoveryPointExtId": below}
        wanted = {"operation": "GET_VSS_METADATA", "spec": spec}
        response: httpx.Response = api.send(
            "POST", f"{POINTS}/{of}/$actions/discover-cluster", json=wanted
        )
        return response

    token = discover(point, vm_point).json()["data"]["jwtToken"]
    path = f"/api/dataprotection/v4.4/content/recovery-points/{point}/vm-recovery-points/{vm_point}/vss-metadata"
    answer = api.pe.get(path, headers={"Cookie": f"NTNX_IGW_SESSION={token}"})
    assert (answer.status_code, answer.content[:4]) == (200, b"MSCF")
    plain = api.snapshot("db01")
    assert discover(plain.ext_id, plain.vm_point).status_code == 422
    other = api.discover(plain, None)
    assert api.pe.get(path, headers={"Cookie": f"NTNX_IGW_SESSION={other}"}).status_code == 403


def test_owner_and_custom_attributes_are_set_and_taken_away(api: Any) -> None:
    """Both show in the VM, and attributes go one by one."""
    vm = f"{VMS}/{api.vm('web01')['extId']}"
    owner = {"owner": {"extId": "11111111-2222-3333-4444-555555555555"}}
    api.do("POST", f"{vm}/$actions/assign-owner", json=owner, headers=_tag(api, vm))
    both = {"customAttributes": ["backup:gold", "site:a"]}
    api.do("POST", f"{vm}/$actions/add-custom-attributes", json=both, headers=_tag(api, vm))
    one = {"customAttributes": ["site:a"]}
    api.do("POST", f"{vm}/$actions/remove-custom-attributes", json=one, headers=_tag(api, vm))
    shown = api.get(vm)
    assert shown["customAttributes"] == ["backup:gold"]
    assert shown["ownershipInfo"]["owner"]["extId"].startswith("11111111")
