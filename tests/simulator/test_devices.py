"""Attached disks appear on a worker as Linux would name them, hold the right bytes, and go again."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

from simulator import inspect_image
from simulator.sparse import MiB

WORKER = "ahvault-worker-1"


def _root(api: Any) -> Path:
    return next(Path(w.device_root) for w in api.simulator.workers if w.name == WORKER)


def _eventually(api: Any, names: set[str]) -> None:
    """Devices follow the end of a task within moments, as a hot plug does."""
    for _ in range(200):
        found = {p.name for p in _root(api).iterdir() if p.name != "disk"}
        if found == names:
            return
        time.sleep(0.005)
    raise AssertionError(f"{found} instead of {names}")


def _attach(api: Any, group: str, **body: Any) -> None:
    path = f"/volumes/v4.3/config/volume-groups/{group}/$actions/attach-vm"
    api.do("POST", path, json={"extId": api.vm(WORKER)["extId"], **body})


def _detach(api: Any, group: str) -> None:
    path = f"/volumes/v4.3/config/volume-groups/{group}/$actions/detach-vm"
    api.do("POST", path, json={"extId": api.vm(WORKER)["extId"]})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_clones_of_a_recovery_point_appear_with_its_bytes(api: Any) -> None:
    """Both disks of a recovery point appear by path and by id, equal to what was frozen, and go on detach."""
    point = api.snapshot("db01")
    api.simulator.story.write_file("db01", "/after.txt", content=b"written after the freeze")
    api.set_power(WORKER, "power-on")
    group = api.make_group(*api.clones_of(point))
    _attach(api, group, index=4)
    _eventually(api, {"sda", "sdb", "sdc"})
    for lun, disk_point in enumerate(point.disk_points):
        device = _root(api) / f"disk/by-path/pci-0000:00:05.0-scsi-0:0:4:{lun}"
        frozen = api.simulator.story.frozen(disk_point)
        assert device.stat().st_size == frozen["size_bytes"]
        assert _sha256(device) == _sha256(Path(frozen["path"]))
    ids = sorted(p.name for p in (_root(api) / "disk/by-id").iterdir())
    disks = api.get(f"/volumes/v4.3/config/volume-groups/{group}/disks")
    for disk in disks:
        serial = "scsi-SNUTANIX_NFS_3_0_389_" + disk["extId"].replace("-", "_")
        assert serial in ids
    _detach(api, group)
    _eventually(api, {"sda"})
    assert len(list((_root(api) / "disk/by-path").iterdir())) == 1


def test_a_worker_that_is_off_has_no_devices(api: Any) -> None:
    """Attaching to a stopped worker is allowed; the devices come with power and go with it."""
    group = api.make_group(*api.clones_of(api.snapshot("web01")))
    _attach(api, group)
    _eventually(api, set())
    api.set_power(WORKER, "power-on")
    _eventually(api, {"sda", "sdb"})
    api.set_power(WORKER, "power-off")
    _eventually(api, set())


def test_what_a_worker_writes_into_a_blank_disk_is_in_the_vm_made_from_it(api: Any) -> None:
    """Restore path C: blank disk, write through the device, detach, VM from the volume disk, delete the group."""
    story = api.simulator.story
    story.write_file("web01", "/etc/proof", content=b"to be restored")
    frozen = story.frozen(api.snapshot("web01").disk_points[0])
    container = api.get("/clustermgmt/v4.3/config/storage-containers")[0]["containerExtId"]
    source = {"extId": container, "entityType": "STORAGE_CONTAINER"}
    group = api.make_group(
        {"index": 0, "diskSizeBytes": frozen["size_bytes"], "diskDataSourceReference": source}
    )
    api.set_power(WORKER, "power-on")
    _attach(api, group, index=9)
    _eventually(api, {"sda", "sdb"})
    with (_root(api) / "disk/by-path/pci-0000:00:05.0-scsi-0:0:9:0").open("r+b") as device:
        device.write(Path(frozen["path"]).read_bytes())
    _detach(api, group)
    disk = api.get(f"/volumes/v4.3/config/volume-groups/{group}/disks")[0]["extId"]
    reference = {
        "$objectType": "vmm.v4.ahv.config.VolumeDiskReference",
        "diskExtId": disk,
        "volumeGroupExtId": group,
    }
    backing = {"$objectType": "vmm.v4.ahv.config.VmDisk", "dataSource": {"reference": reference}}
    body = {
        "name": "web01-restored",
        "cluster": {"extId": api.cluster_id()},
        "disks": [{"diskAddress": {"busType": "SCSI", "index": 0}, "backingInfo": backing}],
    }
    api.do("POST", "/vmm/v4.3/ahv/config/vms", json=body)
    api.do("DELETE", f"/volumes/v4.3/config/volume-groups/{group}")
    restored = Path(story.frozen(api.snapshot("web01-restored").disk_points[0])["path"])
    assert _sha256(restored) == _sha256(Path(frozen["path"]))
    inside = inspect_image(restored)
    assert inside["files"]["/etc/proof"]["size_bytes"] == len(b"to be restored")
    assert [p["is_clean"] for p in inside["partitions"]] == [True]


def test_writing_through_a_device_leaves_the_recovery_point_alone(api: Any) -> None:
    """A clone is writable, and the recovery point it came from does not change."""
    point = api.snapshot("web01")
    before = _sha256(Path(api.simulator.story.frozen(point.disk_points[0])["path"]))
    api.set_power(WORKER, "power-on")
    _attach(api, api.make_group(*api.clones_of(point)), index=1)
    _eventually(api, {"sda", "sdb"})
    with (_root(api) / "sdb").open("r+b") as device:
        device.write(b"scribble" * 1000)
    assert _sha256(Path(api.simulator.story.frozen(point.disk_points[0])["path"])) == before


def test_an_attached_group_is_not_deleted_and_not_shared(api: Any) -> None:
    """Deleting an attached group fails, and so does attaching it to a second VM."""
    group = api.make_group(*api.clones_of(api.snapshot("web01")))
    _attach(api, group)
    deleted = api.task(api.send("DELETE", f"/volumes/v4.3/config/volume-groups/{group}"))
    assert deleted["status"] == "FAILED"
    assert deleted["errorMessages"][0]["errorGroup"] == "VOLUME_GROUP_ATTACHED"
    path = f"/volumes/v4.3/config/volume-groups/{group}/$actions/attach-vm"
    second = api.task(api.send("POST", path, json={"extId": api.vm("ahvault-worker-2")["extId"]}))
    assert second["status"] == "FAILED"
    assert [g["extId"] for g in api.get("/volumes/v4.3/config/volume-groups")].count(group) == 1


def test_an_attached_group_shows_among_the_disks_of_the_vm(api: Any) -> None:
    """The VM's ETag changes with an attachment, and the group is listed as a disk without a backing of its own."""
    worker = api.vm(WORKER)["extId"]
    path = f"/vmm/v4.3/ahv/config/vms/{worker}"
    before = api.send("GET", path).headers["etag"]
    group = api.make_group(*api.clones_of(api.snapshot("web01")))
    _attach(api, group, index=6)
    after = api.send("GET", path)
    assert after.headers["etag"] != before
    last = after.json()["data"]["disks"][-1]
    assert last["backingInfo"]["volumeGroupExtId"] == group
    assert last["diskAddress"]["index"] == 6
    row = api.get(f"/volumes/v4.3/config/volume-groups/{group}")["attachments"][0]["attachment"]
    assert (row["extId"], row["index"]) == (worker, 6)


def test_a_deleted_group_leaves_no_files(api: Any) -> None:
    """Clones cost nothing once their group is gone; recovery points keep only what they froze."""
    vdisks = Path(api.simulator.cluster.state) / "vdisks"
    before = {p.name for p in vdisks.iterdir()}
    point = api.snapshot("web01")
    group = api.make_group(*api.clones_of(point))
    api.do("DELETE", f"/volumes/v4.3/config/volume-groups/{group}")
    api.simulator.story.write_raw("web01", MiB * 20, b"x")
    api.do("DELETE", f"/dataprotection/v4.4/config/recovery-points/{point.ext_id}")
    for _ in range(100):
        after = {p.name for p in vdisks.iterdir()}
        if len(after) == len(before):
            break
        time.sleep(0.01)
    assert len(after) == len(before)
