"""What a restore point builds on, row by row of the B table: whatever happened to the VM, the point is right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from jobs import (
    BackupJob,
    BackupSession,
    NullObserver,
    ReadCause,
    ReadMethod,
    Reference,
    WorkerSpec,
)
from jobs.session import open_backup_session
from nutanix import AhvClient, ClusterBusy
from repository import FileTarget, Repository, RestorePoint, VerifyLevel
from simulator import Simulator

MIB = 1 << 20

Protect = Callable[..., RestorePoint]


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    """Two clusters under one Prism Central, each with workers of its own."""
    with Simulator(size=0.1, further_clusters=["second-cluster"]) as running:
        yield running


@pytest.fixture
def guest(simulator: Simulator, request: pytest.FixtureRequest) -> Iterator[str]:
    """A VM of two disks with data on both; its name is the test's own."""
    name = request.node.name[5:].replace("_", "-")[:60]
    simulator.story.add_vm(name, [12 * MIB, 8 * MIB])
    for disk in (0, 1):
        simulator.story.write_raw(name, MIB, b"before" * 100_000, disk=disk)
    yield name
    if any(vm["name"] == name for vm in simulator.story.describe()["vms"]):
        simulator.story.remove_vm(name)


@pytest.fixture
def protect(
    simulator: Simulator,
    repository: Repository,
    tmp_path: Path,
    open_backup: Callable[..., AbstractContextManager[BackupSession]],
    back_up: Callable[[BackupSession, str], RestorePoint],
) -> Protect:
    """One session over one VM; every disk of its restore point is compared with the recovery point."""

    def run(vm: str, job: str = "nightly") -> RestorePoint:
        with open_backup(vm, job) as session:
            point = back_up(session, simulator.vm_id(vm))
        with Repository.open(repository.url) as reader:
            for disk in point.disks:
                reference = disk.source_facts["recovery_point"]["disk_recovery_point_id"]
                frozen = simulator.story.frozen(reference)
                path = tmp_path / "restored.img"
                with FileTarget(path, disk.size_bytes) as target:
                    reader.open_disk(point, disk.disk_id).restore_to(target, target_is_blank=True)
                assert path.read_bytes() == Path(frozen["path"]).read_bytes(), disk.label
                path.unlink()
        return point

    return run


def causes(point: RestorePoint) -> list[ReadCause]:
    return [ReadCause(disk.source_facts["read_cause"]) for disk in point.disks]


def known_share(point: RestorePoint) -> float:
    """How much of what was read turned out to be stored already."""
    figures = [disk.figures for disk in point.disks]
    known = sum(each.known_bytes + each.zero_bytes for each in figures)
    return known / max(1, known + sum(each.new_bytes for each in figures))


def test_resized_and_read_as_far_as_it_grew(
    simulator: Simulator, guest: str, protect: Protect
) -> None:
    """Grow: the common range is compared, the grown tail is read, and nothing else (B table)."""
    protect(guest)
    simulator.story.grow_disk(guest, 15 * MIB + 512)
    simulator.story.write_raw(guest, 14 * MIB, b"tail")
    point = protect(guest)
    assert causes(point) == [ReadCause.CHANGED_REGIONS] * 2
    assert point.disks[0].size_bytes == 15 * MIB + 512
    assert point.disks[0].figures.read_bytes <= 4 * MIB


def test_disk_replaced_in_its_slot(simulator: Simulator, guest: str, protect: Protect) -> None:
    """Same slot, new id: removed and added, never compared by place, and the other disk stays incremental (B3)."""
    protect(guest)
    simulator.story.replace_disk(guest, 8 * MIB, disk=1)
    simulator.story.write_raw(guest, 5 * MIB, b"other disk", disk=1)
    point = protect(guest)
    assert causes(point) == [ReadCause.CHANGED_REGIONS, ReadCause.REPLACED_DISK]
    assert point.disks[1].read_method == ReadMethod.ALLOCATED
    assert "taken its place" in point.disks[1].read_reason


def test_disks_added_and_removed(simulator: Simulator, guest: str, protect: Protect) -> None:
    """A new disk is read as far as allocated, a removed one is absent, the others are read as ever."""
    protect(guest)
    simulator.story.remove_disk(guest, disk=1)
    simulator.story.add_disk(guest, 4 * MIB)
    simulator.story.add_disk(guest, 4 * MIB)
    point = protect(guest)
    labels = {disk.label: cause for disk, cause in zip(point.disks, causes(point), strict=True)}
    assert labels == {
        "scsi.0": ReadCause.CHANGED_REGIONS,
        "scsi.1": ReadCause.REPLACED_DISK,
        "scsi.2": ReadCause.NEW_DISK,
    }


def test_vm_reverted(simulator: Simulator, guest: str, protect: Protect, client: AhvClient) -> None:
    """A VM that lives its past again: no change list is believed, everything allocated is compared."""
    first = protect(guest)
    captured = client.recovery_point(first.source["recovery_point_id"]).vm_recovery_points[0]
    simulator.story.write_raw(guest, 3 * MIB, b"undone")
    simulator.story.revert(guest, captured.id)
    simulator.story.write_raw(guest, 6 * MIB, b"after the revert")
    point = protect(guest)
    assert causes(point) == [ReadCause.VM_REVERTED] * 2
    assert known_share(point) > 0.5
    simulator.story.write_raw(guest, 7 * MIB, b"and on")
    assert causes(protect(guest)) == [ReadCause.CHANGED_REGIONS] * 2


def test_vm_moved_to_another_host(simulator: Simulator, guest: str, protect: Protect) -> None:
    """A live migration inside the cluster changes nothing."""
    protect(guest)
    simulator.story.migrate(guest, "host-2")
    assert causes(protect(guest)) == [ReadCause.CHANGED_REGIONS] * 2


def test_vm_moved_to_another_cluster(
    simulator: Simulator, guest: str, protect: Protect, client: AhvClient
) -> None:
    """Under its old id: the chain goes on by digest comparison, the old cluster is not asked, its reference goes (N4)."""
    first = protect(guest)
    simulator.story.relocate(guest, "second-cluster")
    simulator.story.write_raw(guest, 4 * MIB, b"over there")
    point = protect(guest)
    assert point.vm_id == first.vm_id
    assert point.previous_point_id == first.id
    assert causes(point) == [ReadCause.VM_MOVED] * 2
    assert known_share(point) > 0.5
    standing = {each.id for each in client.recovery_points()}
    assert first.source["recovery_point_id"] not in standing
    assert causes(protect(guest)) == [ReadCause.CHANGED_REGIONS] * 2


def test_vm_moved_under_a_new_id(simulator: Simulator, guest: str, protect: Protect) -> None:
    """The chain is continued when name, BIOS id, disks and absence of the old VM all say that it is the same one."""
    first = protect(guest)
    simulator.story.relocate(guest, "second-cluster", keeps_id=False)
    point = protect(guest)
    assert point.vm_id != first.vm_id
    assert point.previous_point_id == first.id
    assert causes(point) == [ReadCause.VM_RECREATED] * 2
    assert point.stored_bytes == 0
    assert causes(protect(guest)) == [ReadCause.CHANGED_REGIONS] * 2


def test_two_vms_are_never_taken_for_one(
    simulator: Simulator, guest: str, protect: Protect, repository: Repository
) -> None:
    """A namesake with another BIOS id, and one beside a VM that still exists, begin chains of their own."""
    protect(guest)
    simulator.story.remove_vm(guest)
    simulator.story.add_vm(guest, [12 * MIB, 8 * MIB])
    namesake = protect(guest)
    assert namesake.previous_point_id is None
    assert causes(namesake) == [ReadCause.FIRST_RUN] * 2


def test_reference_deleted_behind_our_back(
    simulator: Simulator, guest: str, protect: Protect
) -> None:
    """Everything allocated is compared by digest; the point is incremental all the same (B2)."""
    first = protect(guest)
    simulator.story.delete_recovery_point(first.source["recovery_point_id"])
    point = protect(guest)
    assert causes(point) == [ReadCause.REFERENCE_GONE] * 2
    assert point.stored_bytes == 0
    assert point.previous_point_id == first.id


def test_last_point_forgotten(
    simulator: Simulator, guest: str, protect: Protect, repository: Repository
) -> None:
    """The newest point that is left is built on; its own reference went with the forgotten one's commit."""
    first = protect(guest)
    simulator.story.write_raw(guest, 2 * MIB, b"second")
    second = protect(guest)
    repository.forget(second)
    point = protect(guest)
    assert point.previous_point_id == first.id
    assert causes(point) == [ReadCause.REFERENCE_GONE] * 2


def test_last_commit_record_damaged(
    guest: str,
    client: AhvClient,
    workers: list[WorkerSpec],
    protect: Protect,
    repository: Repository,
    back_up: Callable[[BackupSession, str], RestorePoint],
    reference_of: Callable[[BackupSession, str], Reference],
    tmp_path: Path,
) -> None:
    """A commit record that cannot be read is passed over and told: the newest valid point is the base, compared by digest."""
    first = protect(guest)
    second = protect(guest)
    record = tmp_path / "repository" / second.key
    record.write_bytes(record.read_bytes()[:-40])
    with (
        Repository.open(repository.url) as reopened,
        open_backup_session(
            client=client,
            repository=reopened,
            workers=workers,
            job=BackupJob(name="nightly"),
            observer=NullObserver(),
        ) as session,
    ):
        session.workers.prepare()
        point = back_up(session, first.vm_id)
        assert reference_of(session, first.vm_id).damaged_count == 1
    assert point.previous_point_id == first.id
    assert causes(point) == [ReadCause.REFERENCE_GONE] * 2
    assert point.stored_bytes == 0


def test_maps_of_the_last_point_damaged(
    guest: str, protect: Protect, repository: Repository, tmp_path: Path
) -> None:
    """Without a readable base everything allocated is read again, and known chunks are recognised."""
    first = protect(guest)
    for disk in first.disks:
        for each in disk.maps:
            path = tmp_path / "repository" / each.key
            path.write_bytes(path.read_bytes()[:-1] + b"!")
    point = protect(guest)
    assert causes(point) == [ReadCause.BASE_DAMAGED] * 2
    assert {disk.read_method for disk in point.disks} == {ReadMethod.ALLOCATED}
    assert point.stored_bytes == 0


@pytest.fixture
def warned(
    simulator: Simulator,
    open_backup: Callable[..., AbstractContextManager[BackupSession]],
    reference_of: Callable[[BackupSession, str], Reference],
) -> Callable[[str], str]:
    """What the next session would say of the restore point that it builds on."""

    def said(vm: str) -> str:
        with open_backup(vm) as session:
            return " ".join(reference_of(session, simulator.vm_id(vm)).warnings)

    return said


def test_damaged_chunks_are_read_from_production_again(
    simulator: Simulator,
    guest: str,
    protect: Protect,
    repository: Repository,
    warned: Callable[[str], str],
    tmp_path: Path,
) -> None:
    """H4: known damage is a warning; once what lies in a pack under quarantine is not inherited; the next run reads those places, and all is healed."""
    protect(guest)
    packs = [path for path in (tmp_path / "repository/data").rglob("*") if path.is_file()]
    for pack in packs:
        data = bytearray(pack.read_bytes())
        data[200] ^= 0xFF
        pack.write_bytes(data)
    assert repository.verify(VerifyLevel.CONTENT).findings
    assert "run `ahvault repair`" in warned(guest)
    assert repository.repair().packs_quarantined
    assert repository.verify(VerifyLevel.CONTENT).findings
    point = protect(guest)
    assert not any(finding.concerned for finding in repository.verify(VerifyLevel.CONTENT).findings)
    assert causes(point) == [ReadCause.CHANGED_REGIONS] * 2
    assert any("known to be damaged" in disk.read_reason for disk in point.disks)


@pytest.mark.parametrize("how", ["truncated", "looping", "no_size"])
def test_partial_lists(simulator: Simulator, guest: str, protect: Protect, how: str) -> None:
    """One bad page: asked again. Bad pages only: everything is read, with the reason. Never a partial list (B5, B7)."""
    protect(guest)
    fault = {"kind": "bad_regions", "how": how, "match": {"side": "element"}}
    simulator.story.set_faults({"faults": [{**fault, "times": 1}]})
    simulator.story.write_raw(guest, 2 * MIB, b"x" * 70_000)
    assert causes(protect(guest)) == [ReadCause.CHANGED_REGIONS] * 2
    assert simulator.story.struck_faults() == [1]
    simulator.story.set_faults({"faults": [fault]})
    simulator.story.write_raw(guest, 2 * MIB, b"y" * 70_000)
    point = protect(guest)
    simulator.story.set_faults({})
    assert causes(point) == [ReadCause.REGIONS_REFUSED] * 2
    assert {disk.read_method for disk in point.disks} == {ReadMethod.ALL}
    assert "allocated regions could not be had" in point.disks[0].read_reason


def test_changed_regions_fail_but_allocated_work(
    guest: str, protect: Protect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B6: when the first question fails the second is asked, before the whole disk is read."""
    protect(guest)
    honest = AhvClient.changed_regions

    def refuses(self: AhvClient, disk: Any, reference: Any, **options: Any) -> Any:
        if reference is not None:
            raise ClusterBusy("list regions", status=503, attempts=8)
        return honest(self, disk, reference, **options)

    monkeypatch.setattr(AhvClient, "changed_regions", refuses)
    point = protect(guest)
    assert causes(point) == [ReadCause.REGIONS_REFUSED] * 2
    assert {disk.read_method for disk in point.disks} == {ReadMethod.ALLOCATED}
