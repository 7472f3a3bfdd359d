"""The whole backup and restore sequences of `nutanix-v4 §28` against the simulator, over real HTTPS."""

from __future__ import annotations

import hashlib
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nutanix import (
    BlankDisk,
    ChangedRegions,
    DeviceRoot,
    DiskFromRecoveryPoint,
    FeatureMissing,
    NotFound,
    NutanixError,
    RequestInvalid,
    VolumeDiskRef,
    open_attached_disks,
    rebuild_vm,
)
from simulator import Settings, Simulator

MiB = 1 << 20


def new_id():
    return str(uuid.uuid4())


class Session:
    """A client on a simulator, with the steps that several stories share."""

    def __init__(self, sim, client):
        self.sim, self.client, self.story = sim, client, sim.story
        self.worker = client.find_vm("ahvault-worker-1")
        self.root = DeviceRoot(Path(sim.workers[0].device_root))

    def snapshot(self, vm):
        point_id = self.client.create_recovery_point(
            name=f"t-{vm.name}",
            vm_ids=[vm.id],
            expires_at=datetime.now(UTC) + timedelta(days=1),
            request_id=new_id(),
        )
        point = self.client.recovery_point(point_id)
        (member,) = point.vm_recovery_points
        held = self.client.disk_recovery_points(point_id, member.id)
        return point_id, member, {disk.disk_id: disk.ref for disk in held if disk.disk_id}

    def frozen(self, ref):
        facts = self.story.frozen(ref.disk_recovery_point_id)
        return Path(facts["path"]).read_bytes()

    def attach(self, cluster_id, disks):
        self.client.power_on(self.worker.id)
        group = self.client.create_volume_group(
            name="t-group", cluster_id=cluster_id, disks=disks, request_id=new_id()
        )
        attachment = self.client.attach_volume_group(group, self.worker.id)
        return group, attachment, self.client.volume_disks(group)


def apply_regions(base, new, answer: ChangedRegions):
    """What a backup would make of a base and an answer, by reading only what is listed."""
    result = bytearray(base[: answer.size_bytes].ljust(answer.size_bytes, b"\0"))
    for region in answer.regions:
        start, end = region.offset_bytes, region.end_bytes
        result[start:end] = bytes(end - start) if region.is_zeroed else new[start:end]
    return bytes(result)


STORIES = {
    "newest": Settings(),
    "small pages": Settings(region_count_max=3),
    "ends by silence, holes as gaps": Settings(ends_regions_with="absent", holes_as="gaps"),
    "stale tags as failed tasks": Settings(stale_tag_as="task", task_s=0.01),
    "pc 7.3": Settings(newest_minor=1, answers_version_probe=False, content_minor=0),
    "short tokens": Settings(token_life_s=1.0, region_count_max=3),
}


@pytest.fixture(params=list(STORIES))
def session(request, connect):
    with Simulator(size=0.05, settings=STORIES[request.param]) as sim, connect(sim) as client:
        yield Session(sim, client)


def test_backup_twice_and_read_through_the_worker(session):
    """Full and incremental: the regions tell the truth, the attached disks hold it, all is removed."""
    client = session.client
    vm = client.find_vm("db01")
    first_id, _, first = session.snapshot(vm)
    disk_id = vm.data_disks[0].id
    allocated = client.changed_regions(first[disk_id], None)
    base = session.frozen(first[disk_id])
    assert apply_regions(b"", base, allocated) == base

    session.story.write_file("db01", "/new.bin", size_bytes=300_000, seed="x")
    session.story.discard_raw("db01", len(base) - 8 * MiB, 4 * MiB)
    session.story.grow_disk("db01", len(base) + 3 * MiB)
    second_id, member, second = session.snapshot(vm)
    captured = client.captured_vm(member.id)
    assert captured.data_disks[0].size_bytes == len(base) + 3 * MiB
    changed = client.changed_regions(second[disk_id], first[disk_id])
    now = session.frozen(second[disk_id])
    assert apply_regions(base, now, changed) == now
    assert (
        sum(region.length_bytes for region in changed.regions if not region.is_zeroed)
        < len(now) / 2
    )

    points = [second[disk.id].disk_recovery_point_id for disk in captured.data_disks]
    sources = [DiskFromRecoveryPoint(place, point) for place, point in enumerate(points)]
    group, attachment, disks = session.attach(vm.cluster_id, sources)
    with open_attached_disks(session.root, attachment, disks) as opened:
        buffer = bytearray(opened[0].size_bytes)
        opened[0].read_into(0, buffer)
        assert hashlib.sha256(buffer).digest() == hashlib.sha256(now).digest()
        assert len(opened) == len(captured.data_disks)
    client.delete_volume_group(group)
    client.power_off(session.worker.id)
    client.delete_recovery_point(first_id)
    client.delete_recovery_point(second_id)
    assert client.volume_groups(name_prefix="t-") == []
    assert client.recovery_points(name_prefix="t-") == []
    assert not client.vm(session.worker.id).is_on


@pytest.fixture(scope="module")
def shared(request):
    with Simulator(size=0.05) as sim:
        yield sim


@pytest.fixture
def newest(shared, connect):
    with connect(shared) as client:
        yield Session(shared, client)


def test_restore_to_a_new_vm(newest):
    """Blank group, written through the worker, cloned into a VM that outlives the group (§18 C)."""
    client = newest.client
    vm = client.find_vm("files01")
    point_id, member, refs = newest.snapshot(vm)
    captured = client.captured_vm(member.id)
    container = next(
        each for each in client.storage_containers() if each.name.startswith("default")
    )
    blanks = [
        BlankDisk(place, disk.size_bytes, container.id)
        for place, disk in enumerate(captured.data_disks)
    ]
    group, attachment, disks = newest.attach(vm.cluster_id, blanks)
    with open_attached_disks(newest.root, attachment, disks, writable=True) as opened:
        for place, disk in enumerate(captured.data_disks):
            content = newest.frozen(refs[disk.id])
            opened[place].write_at(0, content)
            opened[place].write_zeros(len(content) - 4096, 4096)
            opened[place].flush()
    sources = {
        disk.id: VolumeDiskRef(group, disks[place].id)
        for place, disk in enumerate(captured.data_disks)
    }
    rebuilt = rebuild_vm(
        captured,
        name="t-restored",
        cluster_id=vm.cluster_id,
        disks=sources,
        keeps_macs=False,
    )
    restored_id = client.create_vm(rebuilt.spec, request_id=new_id())
    client.delete_volume_group(group)

    restored = client.vm(restored_id)
    assert restored.memory_size_bytes == vm.memory_size_bytes
    assert restored.machine_type == vm.machine_type
    assert restored.is_uefi == vm.is_uefi
    assert restored.category_ids == vm.category_ids
    assert [nic.subnet_id for nic in restored.nics] == [nic.subnet_id for nic in vm.nics]
    check_id, _, restored_refs = newest.snapshot(restored)
    for old, new in zip(captured.data_disks, restored.data_disks, strict=True):
        content = newest.frozen(refs[old.id])
        assert newest.frozen(restored_refs[new.id]) == content[:-4096] + bytes(4096)
        assert old.address == new.address
    client.power_on(restored_id)
    client.delete_vm(restored_id)
    client.delete_vm(restored_id)
    for each in (point_id, check_id):
        client.delete_recovery_point(each)


def test_the_same_request_id_does_the_work_once(newest):
    """Creating again under the same id, as after a crash, gives the same object (§10)."""
    client, vm = newest.client, newest.client.find_vm("web01")
    arguments = {
        "name": "t-once",
        "vm_ids": [vm.id],
        "expires_at": datetime.now(UTC) + timedelta(days=1),
        "request_id": new_id(),
    }
    first = client.create_recovery_point(**arguments)
    assert client.create_recovery_point(**arguments) == first
    assert [point.id for point in client.recovery_points(name_prefix="t-once")] == [first]
    with pytest.raises(RequestInvalid):
        client.create_recovery_point(**{**arguments, "name": "t-other"})
    client.delete_recovery_point(first)


def test_expiry_can_be_moved(newest):
    """What was set is read back, to the second and in UTC."""
    client, vm = newest.client, newest.client.find_vm("web01")
    point_id, _, _ = newest.snapshot(vm)
    later = datetime(2040, 5, 6, 7, 8, 9, tzinfo=UTC)
    client.set_recovery_point_expiry(point_id, later)
    assert client.recovery_point(point_id).expires_at == later
    client.delete_recovery_point(point_id)
    with pytest.raises(NotFound):
        client.set_recovery_point_expiry(point_id, later)


def test_a_reference_that_is_gone_is_an_error(newest):
    """Changed regions against a deleted recovery point fail; allocated regions still work (B6)."""
    client, vm = newest.client, newest.client.find_vm("web01")
    old_id, _, old = newest.snapshot(vm)
    new_id_, _, new = newest.snapshot(vm)
    newest.story.delete_recovery_point(old_id)
    disk_id = vm.data_disks[0].id
    with pytest.raises(NutanixError):
        client.changed_regions(new[disk_id], old[disk_id])
    assert client.changed_regions(new[disk_id], None).regions
    client.delete_recovery_point(new_id_)


def test_a_worker_that_is_off_shows_no_disk(newest):
    """Attached to a stopped worker, a disk does not appear, and the error says what to look at."""
    client, vm = newest.client, newest.client.find_vm("web01")
    point_id, _, refs = newest.snapshot(vm)
    source = DiskFromRecoveryPoint(0, next(iter(refs.values())).disk_recovery_point_id)
    group, attachment, disks = newest.attach(vm.cluster_id, [source])
    client.power_off(newest.worker.id)
    opening = open_attached_disks(newest.root, attachment, disks, timeout_s=0.3)
    with pytest.raises(NutanixError, match="Is the worker running"), opening:
        pass
    client.delete_volume_group(group)
    client.delete_recovery_point(point_id)


def test_many_threads_on_one_client(newest):
    """Eight threads take, list and delete recovery points at once without an error or a mix-up."""
    client, vm = newest.client, newest.client.find_vm("web01")
    start = threading.Barrier(8)

    def work(place):
        start.wait()
        point_id = client.create_recovery_point(
            name=f"t-many-{place}",
            vm_ids=[vm.id],
            expires_at=datetime.now(UTC) + timedelta(days=1),
            request_id=new_id(),
        )
        name = client.recovery_point(point_id).name
        client.delete_recovery_point(point_id)
        return name

    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(work, range(8)))
    assert names == [f"t-many-{place}" for place in range(8)]
    assert client.recovery_points(name_prefix="t-many-") == []


def test_an_old_cluster_says_what_it_lacks(connect):
    """API 4.0 has no captured configuration and cannot clone volume disks: told, not guessed (§21)."""
    settings = Settings(newest_minor=0, answers_version_probe=False)
    with Simulator(size=0.05, settings=settings) as sim, connect(sim) as client:
        session = Session(sim, client)
        vm = client.find_vm("web01")
        point_id, member, refs = session.snapshot(vm)
        assert client.changed_regions(refs[vm.data_disks[0].id], None).regions
        with pytest.raises(FeatureMissing, match=r"older than 4\.1"):
            client.captured_vm(member.id)
        source = DiskFromRecoveryPoint(0, refs[vm.data_disks[0].id].disk_recovery_point_id)
        group, attachment, _ = session.attach(vm.cluster_id, [source])
        assert attachment.index is not None
        client.delete_volume_group(group)
        client.delete_recovery_point(point_id)


def test_an_enforced_limit_slows_and_does_not_fail(connect):
    """Sixteen parallel disks against five calls per second: all answers, no error (issue 4)."""
    settings = Settings(api_limit_per_s=5, task_s=0.01)
    with Simulator(size=0.05, settings=settings) as sim, connect(sim) as client:
        vm = client.find_vm("web01")
        point_id, _, refs = Session(sim, client).snapshot(vm)
        ref = refs[vm.data_disks[0].id]
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _: client.changed_regions(ref, None), range(16)))
        assert len({answer.regions for answer in answers}) == 1
        client.delete_recovery_point(point_id)
