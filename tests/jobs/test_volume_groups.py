"""Volume groups of a VM: frozen with it, backed up and restored with it, or said to be missing (N3, X2)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

import jobs
from jobs import BackupSession, ReadCause, RestoreRefused, VmStory, WorkerSpec
from jobs.journal import all_entries
from jobs.marks import repository_prefix
from jobs.selection import DiskRule
from nutanix import AhvClient
from repository import FileTarget, Repository, RestorePoint, SystemClock
from simulator import Simulator

MIB = 1 << 20
Open = Callable[..., AbstractContextManager[BackupSession]]
BackUp = Callable[[BackupSession, str], RestorePoint]


@pytest.fixture
def guest(simulator: Simulator, client: AhvClient, request: pytest.FixtureRequest) -> Iterator[str]:
    """A VM with one disk and a volume group of two; its name is the test's own."""
    name = request.node.name[5:].replace("_", "-")[:40]
    simulator.story.add_vm(name, [6 * MIB])
    simulator.story.add_volume_group(f"{name}-data", [4 * MIB, 3 * MIB], vm=name)
    write(simulator, name, 0, MIB, b"on the group")
    write(simulator, name, 1, 2 * MIB, b"on its second disk")
    simulator.story.write_raw(name, MIB, b"on the VM")
    yield name
    client.delete_volume_group(group_of(simulator, name).ext_id)
    simulator.story.remove_vm(name)


def group_of(simulator: Simulator, vm: str) -> Any:
    groups = simulator.cluster.documents.all("volume_group")
    return next(each for each in groups if each.document["name"] == f"{vm}-data")


def write(simulator: Simulator, vm: str, disk: int, offset: int, content: bytes) -> None:
    """As the guest writes to a disk of its group."""
    simulator.cluster.disks.write(group_of(simulator, vm).private["vdisks"][disk], offset, content)


def frozen_bytes(simulator: Simulator, disk: Any) -> bytes:
    reference = disk.source_facts["recovery_point"]["disk_recovery_point_id"]
    return Path(simulator.story.frozen(reference)["path"]).read_bytes()


def restored_bytes(repository: Repository, point: RestorePoint, disk: Any, folder: Path) -> bytes:
    path = folder / "restored.img"
    with FileTarget(path, disk.size_bytes) as target:
        repository.open_disk(point, disk.disk_id).restore_to(target, target_is_blank=True)
    found = path.read_bytes()
    path.unlink()
    return found


def assert_right(
    simulator: Simulator, repository: Repository, point: RestorePoint, folder: Path
) -> None:
    for disk in point.disks:
        found = restored_bytes(repository, point, disk, folder)
        assert found == frozen_bytes(simulator, disk), disk.label


def causes(point: RestorePoint) -> dict[str, str]:
    return {disk.label.rpartition("-")[2]: disk.source_facts["read_cause"] for disk in point.disks}


def test_a_group_is_backed_up_with_its_vm(
    simulator: Simulator,
    repository: Repository,
    client: AhvClient,
    guest: str,
    open_backup: Open,
    back_up: BackUp,
    tmp_path: Path,
) -> None:
    """One recovery point holds both; its disks are labelled by group and index, and incremental by their own disk recovery points (B3)."""
    with open_backup(guest) as session:
        first = back_up(session, simulator.vm_id(guest))
    assert [disk.label for disk in first.disks] == [
        "scsi.0",
        f"vg.{guest}-data.0",
        f"vg.{guest}-data.1",
    ]
    assert first.source["lacks"] == []
    assert_right(simulator, repository, first, tmp_path)

    write(simulator, guest, 1, MIB, b"changed")
    with open_backup(guest) as session:
        second = back_up(session, simulator.vm_id(guest))
    assert set(causes(second).values()) == {ReadCause.CHANGED_REGIONS}
    assert second.read_bytes == MIB
    assert_right(simulator, repository, second, tmp_path)
    standing = client.recovery_points(name_prefix=repository_prefix(repository.id))
    assert [each.id for each in standing] == [second.source["recovery_point_id"]]
    assert {each.volume_group_id for each in standing[0].volume_group_recovery_points} == {
        group_of(simulator, guest).ext_id
    }


def test_group_and_vm_are_of_one_moment(
    simulator: Simulator,
    repository: Repository,
    guest: str,
    open_backup: Open,
    back_up: BackUp,
    tmp_path: Path,
) -> None:
    """A guest that writes a number to its disk and then to its group, all the time: the point holds the same number twice, or one apart."""
    stop, vm_disk = (
        threading.Event(),
        simulator.cluster.documents.find("vm", simulator.vm_id(guest)),
    )
    assert vm_disk is not None

    def write_on() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            simulator.story.write_raw(guest, 0, number.to_bytes(8, "big"))
            write(simulator, guest, 0, 0, number.to_bytes(8, "big"))

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        with open_backup(guest) as session:
            points = [back_up(session, simulator.vm_id(guest))]
    finally:
        stop.set()
        writer.join()
    for point in points:
        on_vm, on_group = (
            int.from_bytes(restored_bytes(repository, point, disk, tmp_path)[:8], "big")
            for disk in point.disks[:2]
        )
        assert on_vm > 0
        assert on_vm - on_group in (0, 1)


@pytest.mark.parametrize("why", ["shared", "chap", "refused", "rule"])
def test_what_cannot_be_frozen_with_it_is_said_to_be_missing(
    simulator: Simulator,
    guest: str,
    open_backup: Open,
    back_up: BackUp,
    why: str,
) -> None:
    """Shared by several VMs, CHAP, or a cluster that will not: the VM is backed up, and the point and a warning say what it lacks (N3)."""
    group = group_of(simulator, guest)
    with simulator.cluster.documents.change():
        document = dict(group.document)
        if why == "chap":
            document["enabledAuthentications"] = "CHAP"
        if why == "shared":
            document["sharingStatus"] = "SHARED"
        simulator.cluster.documents.put("volume_group", group.ext_id, document)
    if why == "shared":
        simulator.story.add_vm(f"{guest}-peer", [MIB])
        attach_to(simulator, group.ext_id, f"{guest}-peer")
    if why == "refused":
        refusal = {
            "kind": "status",
            "status": 422,
            "group": "VG_NOT_SUPPORTED",
            "match": {"method": "POST", "path": "/config/recovery-points"},
            "times": 1,
        }
        simulator.story.set_faults({"faults": [refusal]})
    vm_id = simulator.vm_id(guest)
    with open_backup(guest) as session:
        if why == "rule":
            session.disk_rules[vm_id] = DiskRule(volume_groups=False)
        snapshot = jobs.take_snapshot(session, vm_id)
        jobs.abandon_snapshot(session, snapshot)
        point = back_up(session, vm_id)
    simulator.story.set_faults({})
    words = {
        "shared": "shared with 1 other VM",
        "chap": "CHAP secret",
        "refused": "did not take it into the VM's recovery point",
        "rule": "disk rule of the job",
    }
    assert [disk.label for disk in snapshot.disks] == ["scsi.0"]
    assert words[why] in snapshot.lacks[0]
    assert (snapshot.lacks[0] in snapshot.warnings) == (why != "rule")
    if why == "refused":
        assert len(point.disks) == 3, "the next run asks for all of it again"
    else:
        assert point.source["lacks"] == list(snapshot.lacks)


def attach_to(simulator: Simulator, group_id: str, vm: str) -> None:
    from simulator.attachments import attach_group

    with simulator.cluster.documents.change():
        attach_group(simulator.cluster, group_id, simulator.vm_id(vm), None)


def test_a_group_that_comes_goes_or_changes(
    simulator: Simulator,
    repository: Repository,
    client: AhvClient,
    guest: str,
    open_backup: Open,
    back_up: BackUp,
    tmp_path: Path,
) -> None:
    """Attached later: read as new. Detached: absent. Attached again: read in full, for its reference went. Nothing else is read for it."""
    vm_id, group_id = simulator.vm_id(guest), group_of(simulator, guest).ext_id

    def run() -> RestorePoint:
        with open_backup(guest) as session:
            point = back_up(session, vm_id)
        assert_right(simulator, repository, point, tmp_path)
        return point

    client.detach_volume_group(group_id, vm_id)
    assert list(causes(run())) == ["scsi.0"]
    client.attach_volume_group(group_id, vm_id)
    assert causes(run()) == {
        "scsi.0": ReadCause.CHANGED_REGIONS,
        "data.0": ReadCause.NEW_DISK,
        "data.1": ReadCause.NEW_DISK,
    }
    simulator.cluster.disks.grow(group_of(simulator, guest).private["vdisks"][0], 5 * MIB)
    with simulator.cluster.documents.change():
        group = group_of(simulator, guest)
        disks = [{**group.private["disks"][0], "diskSizeBytes": 5 * MIB}, group.private["disks"][1]]
        simulator.cluster.documents.put(
            "volume_group", group_id, group.document, {**group.private, "disks": disks}
        )
    grown = run()
    assert grown.disks[1].size_bytes == 5 * MIB
    assert set(causes(grown).values()) == {ReadCause.CHANGED_REGIONS}


def restore(
    session: BackupSession, point: RestorePoint, name: str
) -> tuple[str, list[str], jobs.RestoreResult]:
    """Every step of a restore, as the flow does it."""
    story = VmStory.begin(point.vm_id, name, clock=session.clock, observer=session.observer)
    target = jobs.choose_target(session.client, point, vm_name=name, container=None)
    group = jobs.group_blank_disks(session, point, target)
    attachment = jobs.attach(session, group, {})
    for index, disk in enumerate(point.disks):
        jobs.restore_disk(
            session, story, point=point, disk=disk, index=index, attachment=attachment
        )
    jobs.detach(session, attachment)
    vm_id, warnings = jobs.create_restored_vm(session, point, target, group)
    assert jobs.remove_group(session, group) is None
    return vm_id, warnings, jobs.restore_result(story, point, vm_id=vm_id, is_on=False)


def test_restored_as_a_new_group_attached_to_the_new_vm(
    simulator: Simulator,
    client: AhvClient,
    guest: str,
    open_backup: Open,
    back_up: BackUp,
    repository: Repository,
) -> None:
    """Same bytes, same indexes, same place on the bus, a name of its own; the original group is not touched, and a name that is taken is refused."""
    before = {each.id for each in client.volume_groups()}
    with open_backup(guest) as session:
        point = back_up(session, simulator.vm_id(guest))
        vm_id, warnings, result = restore(session, point, "copy")
        with pytest.raises(RestoreRefused, match="exists already"):
            jobs.choose_target(client, point, vm_name="copy", container=None)
    assert result.volume_groups == (f"copy-{guest}-data",)
    assert not [text for text in warnings if "volume group" in text]
    made = [each for each in client.volume_groups() if each.id not in before]
    assert [each.name for each in made] == [f"copy-{guest}-data"]
    assert [each.vm_id for each in client.vm_attachments(made[0].id)] == [vm_id]
    assert client.vm(vm_id).volume_group_ids == (made[0].id,)
    original = {each.volume_group_id: each.address.index for each in client.vm(point.vm_id).disks}
    places = {each.volume_group_id: each.address.index for each in client.vm(vm_id).disks}
    assert places[made[0].id] == original[group_of(simulator, guest).ext_id]
    for disk, record in zip(client.volume_disks(made[0].id), point.disks[1:], strict=True):
        live = simulator.cluster.disks.live_path(disk.id)
        assert live.read_bytes() == frozen_bytes(simulator, record)
    assert all_entries(repository.live) == []
    simulator.story.remove_vm("copy")
    with open_backup(guest), pytest.raises(RestoreRefused, match="volume group called copy-"):
        jobs.choose_target(client, point, vm_name="copy", container=None)


def test_a_restore_that_dies_leaves_no_group(
    simulator: Simulator,
    client: AhvClient,
    guest: str,
    workers: list[WorkerSpec],
    open_backup: Open,
    back_up: BackUp,
    repository: Repository,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ended between the group's creation and its VM's: the reconciler knows both by id, and removes them and nothing else (N10, N11)."""
    before = {each.id for each in client.volume_groups()}
    vms = {each.id for each in client.vms()}
    with open_backup(guest) as session:
        point = back_up(session, simulator.vm_id(guest))

    class Killed(BaseException):
        pass

    def dies(*_: object) -> None:
        raise Killed

    monkeypatch.setattr("jobs.restore.attach_groups", dies)
    monkeypatch.setattr("jobs.session.remove_own_leftovers", lambda *_, **__: None)
    with pytest.raises(Killed), open_backup(guest) as session:
        restore(session, point, "halfway")
    assert {each.id for each in client.volume_groups()} != before
    found = jobs.find_leftovers(
        client, repository, cluster_url=client.connection.url, clock=SystemClock()
    )
    removed = jobs.remove_leftovers(client, repository, found, clock=SystemClock())
    assert any("halfway" in each for each in removed)
    assert {each.id for each in client.volume_groups()} == before
    assert {each.id for each in client.vms()} == vms
    assert all_entries(repository.live) == []
