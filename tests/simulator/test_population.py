"""What a new cluster holds: chosen by a seed, sound inside, and no dearer than its data."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simulator import Crowd, GuestError, Simulator, inspect_image
from simulator.sparse import MiB
from tests.simulator.conftest import Api


def _images(simulator: Simulator) -> dict[str, str]:
    """Hash of every VM disk by VM and place."""
    hashes = {}
    for vm in simulator.cluster.documents.all("vm"):
        for place, disk in enumerate(vm.document["disks"]):
            path = simulator.cluster.disks.live_path(disk["extId"])
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            hashes[f"{vm.document['name']}-{place}"] = digest
    return hashes


def test_a_seed_decides_content_and_ids(shared_api: Any, tmp_path: Path) -> None:
    """The same seed gives the same VMs with the same bytes; another gives others."""
    with Simulator(state=tmp_path / "same", size=0.05) as same:
        again, id_again = _images(same), same.vm_id("web01")
    with Simulator(state=tmp_path / "other", size=0.05, seed="other") as other:
        different, other_id = _images(other), other.vm_id("web01")
    first = shared_api.simulator
    assert id_again == first.vm_id("web01") != other_id
    workers = {"ahvault-worker-1-0", "ahvault-worker-2-0"}
    assert {k: v for k, v in again.items() if k not in workers} == {
        k: v for k, v in _images(first).items() if k not in workers
    }
    assert again["web01-0"] != different["web01-0"]


@pytest.mark.parametrize(
    ("vm", "disk"), [("web01", 0), ("db01", 0), ("db01", 1), ("files01", 0), ("files01", 1)]
)
def test_every_disk_is_a_sound_file_system_with_files(shared_api: Any, vm: str, disk: int) -> None:
    """A partition table, a file system that e2fsck likes, and real files; sparse where nothing is."""
    document = shared_api.vm(vm)
    path = shared_api.simulator.cluster.disks.live_path(document["disks"][disk]["extId"])
    inside = inspect_image(path)
    assert inside["partitions"][-1]["is_clean"] is True
    assert len(inside["files"]) >= 5
    assert path.stat().st_blocks * 512 < path.stat().st_size
    is_uefi = document["bootConfig"]["$objectType"].endswith("UefiBoot")
    assert len(inside["partitions"]) == (2 if is_uefi and disk == 0 else 1)


def test_guests_change_what_they_say_and_stay_sound(api: Any) -> None:
    """Writing, replacing, appending and deleting leave exactly the files they should, and a clean file system."""
    story = api.simulator.story
    before = story.list_files("web01")
    story.write_file("web01", "/srv/deep/folder/a.txt", content=b"first")
    story.write_file("web01", "/srv/deep/folder/a.txt", content=b"second")
    story.append_file("web01", "/var/log/syslog", content=b"x" * 5000)
    story.append_file("web01", "/srv/deep/folder/a.txt", content=b" and third")
    story.delete_file("web01", "/etc/hosts", discard=True)
    after = story.list_files("web01")
    expected = hashlib.sha256(b"second and third").hexdigest()
    assert after.pop("/srv/deep/folder/a.txt") == {"size_bytes": 16, "sha256": expected}
    log = after.pop("/var/log/syslog")
    assert log["size_bytes"] == before["/var/log/syslog"]["size_bytes"] + 5000
    unchanged = {k: v for k, v in before.items() if k not in ("/etc/hosts", "/var/log/syslog")}
    assert after == unchanged
    path = api.simulator.cluster.disks.live_path(api.vm("web01")["disks"][0]["extId"])
    assert inspect_image(path)["partitions"][0]["is_clean"] is True


def test_a_guest_cannot_do_the_impossible(api: Any) -> None:
    """No such file, no such disk, no room, a bad path: each is an error, and the disk is as before."""
    story = api.simulator.story
    before = story.list_files("web01")
    impossible = (
        lambda: story.delete_file("web01", "/none"),
        lambda: story.append_file("web01", "/none", content=b"x"),
        lambda: story.write_file("web01", "/big", size_bytes=64 * MiB),
        lambda: story.write_file("web01", "relative", content=b"x"),
        lambda: story.write_file("web01", '/quo"te', content=b"x"),
        lambda: story.write_file("web01", "/x", content=b"x", disk=3),
        lambda: story.write_raw("web01", 31 * MiB, b"x" * 2 * MiB),
        lambda: story.grow_disk("web01", MiB),
    )
    for attempt in impossible:
        with pytest.raises(GuestError):
            attempt()
    assert story.list_files("web01") == before


def test_disks_are_added_removed_and_replaced(api: Any) -> None:
    """A story's disks show in the API, can be frozen, and go with their content."""
    story = api.simulator.story
    added = story.add_disk("web01", 2 * MiB)
    assert [d["extId"] for d in api.vm("web01")["disks"]][1] == added
    assert len(api.snapshot("web01").disk_points) == 2
    replaced = story.replace_disk("web01", 3 * MiB, disk=1)
    disks = api.vm("web01")["disks"]
    assert (disks[1]["extId"], disks[1]["backingInfo"]["diskSizeBytes"]) == (replaced, 3 * MiB)
    story.remove_disk("web01", disk=1)
    assert len(api.vm("web01")["disks"]) == 1


@pytest.fixture
def crowded() -> Iterator[Api]:
    """A client of a simulator with a small crowd."""
    crowd = Crowd(vm_count=12, host_count=4, worker_count=4)
    with Simulator(size=0.02, crowd=crowd) as simulator:
        api = Api(simulator)
        yield api
        api.close()


def test_a_crowd_is_spread_over_its_hosts_and_costs_little(
    crowded: Api,
) -> None:
    """Twelve VMs on four hosts with four workers: each with disks of its own content, paged in lists, and hardly any room."""
    api = crowded
    hosts = {host["extId"]: host["hostName"] for host in api.get("/clustermgmt/v4.3/config/hosts")}
    assert sorted(hosts.values()) == ["host-1", "host-2", "host-3", "host-4"]
    assert [worker.name for worker in api.simulator.workers] == [
        f"ahvault-worker-{number}" for number in (1, 2, 3, 4)
    ]
    path = "/vmm/v4.3/ahv/config/vms"
    crowd_filter = {"$filter": "startswith(name,'vm-')", "$limit": "100"}
    vms = api.get(path, **crowd_filter)
    assert len(vms) == 12
    assert Counter(hosts[vm["host"]["extId"]] for vm in vms) == dict.fromkeys(hosts.values(), 3)
    store = api.simulator.cluster.disks
    paths = [store.live_path(disk["extId"]) for vm in vms for disk in vm["disks"]]
    assert len({path.read_bytes() for path in paths}) == 24
    assert sum(path.stat().st_blocks * 512 for path in paths) < 24 * 512 * 1024
