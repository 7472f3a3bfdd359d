"""A volume group of a guest, frozen in one recovery point with its VM (§14, §15; `nutanix-v4 §12`)."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nutanix import DeviceRoot, DiskFromRecoveryPoint, DiskRecoveryPointRef, open_attached_disks
from simulator import Settings, Simulator

MiB = 1 << 20


@pytest.fixture(scope="module")
def sim():
    with Simulator(size=0.05, settings=Settings(task_s=0.01, power_on_s=0.02)) as running:
        yield running


def take(client, sim, group_id):
    """One recovery point over web01 and the group; the group's disks in it, by disk id."""
    point_id = client.create_recovery_point(
        name=f"t-{uuid.uuid4()}",
        vm_ids=[sim.vm_id("web01")],
        volume_group_ids=[group_id],
        expires_at=datetime.now(UTC) + timedelta(days=1),
        request_id=str(uuid.uuid4()),
    )
    point = client.recovery_point(point_id)
    assert [each.vm_id for each in point.vm_recovery_points] == [sim.vm_id("web01")]
    (held,) = point.volume_group_recovery_points
    assert held.volume_group_id == group_id
    return {each.disk_id: each.ref for each in held.disks(point_id)}


def test_regions_and_bytes_of_a_volume_group_in_a_recovery_point(sim, connect):
    """VM and group are frozen at one moment; regions of the group's disk are what was written since; a clone reads the frozen bytes."""
    group_id = sim.story.add_volume_group("data-of-web01", [8 * MiB, 4 * MiB], vm="web01")
    with connect(sim) as client:
        assert client.vm(sim.vm_id("web01")).volume_group_ids == (group_id,)
        disks = client.volume_disks(group_id)
        assert [disk.size_bytes for disk in disks] == [8 * MiB, 4 * MiB]
        first = take(client, sim, group_id)
        assert set(first) == {disk.id for disk in disks}
        sim.story.write_raw("data-of-web01", 3 * MiB, b"changed" * 1000, disk=0)
        second = take(client, sim, group_id)
        sim.story.write_raw("data-of-web01", 3 * MiB, b"later" * 1000, disk=0)

        changed = client.changed_regions(second[disks[0].id], first[disks[0].id])
        assert changed.size_bytes == 8 * MiB
        assert [(r.offset_bytes, r.length_bytes) for r in changed.regions] == [(3 * MiB, 65536)]
        untouched = client.changed_regions(second[disks[1].id], first[disks[1].id])
        assert untouched.regions == ()

        worker = sim.workers[0]
        client.power_on(worker.ext_id)
        source = DiskFromRecoveryPoint(0, second[disks[0].id].disk_recovery_point_id)
        copy_id = client.create_volume_group(
            name="copy", cluster_id=client.volume_group(group_id).cluster_id,
            disks=[source], request_id=str(uuid.uuid4()),
        )  # fmt: skip
        attachment = client.attach_volume_group(copy_id, worker.ext_id)
        root = DeviceRoot(Path(worker.device_root))
        with open_attached_disks(root, attachment, client.volume_disks(copy_id)) as opened:
            found = bytearray(7000)
            opened[0].read_into(3 * MiB, found)
        assert bytes(found) == b"changed" * 1000
        client.delete_volume_group(copy_id)


def test_a_disk_recovery_point_has_one_owner():
    """A reference that names both a VM and a group, or neither, is refused before anything is asked."""
    both = {"vm_recovery_point_id": "a", "volume_group_recovery_point_id": "b"}
    for owner in ({}, both):
        with pytest.raises(ValueError, match="one VM or to one volume group"):
            DiskRecoveryPointRef(recovery_point_id="r", disk_recovery_point_id="d", **owner)


def test_a_reference_kept_before_volume_groups_were_known_still_reads():
    """What older restore points name as JSON is read as a VM's disk."""
    kept = {"recovery_point_id": "r", "vm_recovery_point_id": "v", "disk_recovery_point_id": "d"}
    assert DiskRecoveryPointRef.model_validate(kept).owner_path == "vm-recovery-points/v"
