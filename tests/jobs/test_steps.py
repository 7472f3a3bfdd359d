"""The steps of a session against a simulated cluster: what they do, and what they leave behind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

import jobs
from jobs import BackupSession, ReadMethod
from jobs.journal import all_entries
from nutanix import AhvClient
from repository import FileTarget, Repository, RestorePoint
from simulator import Simulator

BackUp = Callable[[BackupSession, str], RestorePoint]


def assert_equals_recovery_point(
    simulator: Simulator, repository: Repository, point: RestorePoint, folder: Path
) -> None:
    """Every disk of the restore point restores to exactly what its recovery point holds."""
    for disk in point.disks:
        reference = disk.source_facts["recovery_point"]
        frozen = simulator.story.frozen(reference["disk_recovery_point_id"])
        path = folder / f"{point.id}-{disk.disk_id}.img"
        with FileTarget(path, disk.size_bytes) as target:
            repository.open_disk(point, disk.disk_id).restore_to(target, target_is_blank=True)
        assert path.read_bytes() == Path(frozen["path"]).read_bytes(), disk.label
        path.unlink()


def methods(point: RestorePoint) -> dict[str, str]:
    return {disk.label: disk.read_method for disk in point.disks}


@pytest.fixture
def vm_id(simulator: Simulator) -> str:
    return simulator.vm_id("db01")


def test_every_change_of_a_guest_is_in_the_next_restore_point(
    simulator: Simulator,
    repository: Repository,
    open_backup: Callable[..., AbstractContextManager[BackupSession]],
    back_up: BackUp,
    vm_id: str,
    tmp_path: Path,
) -> None:
    """Full, written, discarded to zeros, grown and new disks: each restores byte for byte, read by the right method."""
    story = simulator.story
    story.write_file("db01", "/data/old.bin", size_bytes=4 << 20, seed="old", disk=1)
    with open_backup("db01") as session:
        full = back_up(session, vm_id)
        assert_equals_recovery_point(simulator, repository, full, tmp_path)
    assert set(methods(full).values()) == {ReadMethod.ALLOCATED}

    story.write_file("db01", "/data/log.txt", size_bytes=300_000, seed="log", disk=1)
    story.delete_file("db01", "/data/old.bin", discard=True, disk=1)
    story.grow_disk("db01", full.disks[1].size_bytes + (3 << 20) + 512, disk=1)
    story.add_disk("db01", 5 << 20)
    story.write_raw("db01", (5 << 20) - 512, b"\x7f" * 512, disk=2)
    with open_backup("db01") as session:
        incremental = back_up(session, vm_id)
        assert_equals_recovery_point(simulator, repository, incremental, tmp_path)
    labels = [disk.label for disk in incremental.disks]
    assert [incremental.disks[n].read_method for n in range(3)] == [
        "changed",
        "changed",
        "allocated",
    ]
    assert "added" in incremental.disks[2].read_reason, labels
    assert incremental.read_bytes < full.read_bytes / 2

    story.discard_raw("db01", 0, incremental.disks[1].size_bytes, disk=1)
    story.remove_disk("db01", disk=2)
    with open_backup("db01") as session:
        emptied = back_up(session, vm_id)
        assert_equals_recovery_point(simulator, repository, emptied, tmp_path)
    assert emptied.disks[1].figures.stored_bytes == 0
    assert len(emptied.disks) == 2


def test_one_reference_stays_and_nothing_else(
    simulator: Simulator,
    client: AhvClient,
    repository: Repository,
    open_backup: Callable[..., AbstractContextManager[BackupSession]],
    back_up: BackUp,
) -> None:
    """N4: after each run one recovery point of ours per VM and job, no volume group, no journal, workers off (N11, W9)."""
    vm_id = simulator.vm_id("web01")
    for job in ("nightly", "weekly", "nightly"):
        with open_backup("web01", job) as session:
            assert all(client.find_vm(worker.name).is_on for worker in simulator.workers)
            back_up(session, vm_id)
    prefix = jobs.marks.repository_prefix(repository.id)
    names = [point.name for point in client.recovery_points(name_prefix=prefix)]
    assert sorted(name.rpartition("-web01")[0].rpartition("-")[2] for name in names) == [
        "nightly",
        "weekly",
    ]
    assert client.volume_groups(name_prefix=prefix) == []
    assert all_entries(repository.live) == []
    assert not any(client.find_vm(worker.name).is_on for worker in simulator.workers)


def test_a_reference_deleted_behind_our_back_costs_reading_not_correctness(
    simulator: Simulator,
    client: AhvClient,
    repository: Repository,
    open_backup: Callable[..., AbstractContextManager[BackupSession]],
    back_up: BackUp,
    tmp_path: Path,
) -> None:
    """B2: without its reference a disk is read as far as allocated, and compared; the reason is stored (B7)."""
    vm_id = simulator.vm_id("web01")
    with open_backup() as session:
        first = back_up(session, vm_id)
    simulator.story.delete_recovery_point(first.source["recovery_point_id"])
    simulator.story.write_file("web01", "/srv/new.bin", size_bytes=1 << 20, seed="new")
    with open_backup() as session:
        second = back_up(session, vm_id)
        assert_equals_recovery_point(simulator, repository, second, tmp_path)
    assert methods(second)["scsi.0"] == ReadMethod.ALLOCATED
    assert "no longer on the cluster" in second.disks[0].read_reason
    assert second.disks[0].figures.known_bytes > second.disks[0].figures.new_bytes


def test_a_failure_before_the_commit_leaves_the_old_reference(
    simulator: Simulator,
    client: AhvClient,
    repository: Repository,
    open_backup: Callable[..., AbstractContextManager[BackupSession]],
    back_up: BackUp,
    reference_of: Callable[[BackupSession, str], jobs.Reference],
) -> None:
    """N6: a snapshot that no commit record names is deleted; the reference of the last point stays."""
    vm_id = simulator.vm_id("files01")
    with open_backup("files01") as session:
        point = back_up(session, vm_id)
    with open_backup("files01") as session:
        snapshot = jobs.take_snapshot(session, vm_id)
        jobs.abandon_snapshot(session, snapshot)
        assert reference_of(session, vm_id).recovery_point_id == point.source["recovery_point_id"]
    prefix = jobs.marks.repository_prefix(repository.id)
    ids = [each.id for each in client.recovery_points(name_prefix=prefix)]
    assert point.source["recovery_point_id"] in ids
    assert snapshot.recovery_point_id not in ids
