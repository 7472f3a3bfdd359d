"""Samples of what the cluster calls unchanged, and what happens when it lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import BackupJob, BackupSession, NullObserver, ReadCause, ReadMethod, WorkerSpec
from jobs.audit import (
    FULLY_READ_AT,
    SAMPLED_BYTES_MAX,
    SAMPLES_MIN,
    is_full_read_due,
    outside,
    sample_unchanged,
)
from jobs.session import open_backup_session
from nutanix import AhvClient, ChangedRegion, ChangedRegions
from repository import DiskRecord, Extent, FileTarget, Repository, RestorePoint
from simulator import Simulator

MIB = 1024 * 1024


@given(
    chunks=st.integers(0, 400),
    cuts=st.lists(st.integers(0, 400 * 64), max_size=20).map(sorted),
    seed=st.text(max_size=4),
)
def test_samples_are_whole_unclaimed_chunks(chunks: int, cuts: list[int], seed: str) -> None:
    """Never a chunk that an extent touches, never one twice, inside the disk, and as many as wanted or there are."""
    size = chunks * 64 + 7
    extents = [
        Extent(start, end)
        for start, end in zip(cuts[::2], cuts[1::2], strict=False)
        if start < end <= size
    ]
    samples = sample_unchanged(size, 64, extents, seed=seed)
    touched = {
        n for each in extents for n in range(each.start_bytes // 64, -(-each.end_bytes // 64))
    }
    numbers = [each.start_bytes // 64 for each in samples]
    assert all(each.length_bytes == 64 and each.end_bytes <= size for each in samples)
    assert numbers == sorted(set(numbers))
    assert touched.isdisjoint(numbers)
    assert len(numbers) == min(SAMPLES_MIN, chunks - len({n for n in touched if n < chunks}))


def test_samples_follow_the_disk_up_to_a_limit() -> None:
    """0.02 % of a large disk's chunks, at most 256 MiB, half of them from its start, the same for the same seed."""
    small = sample_unchanged(200_000 * MIB, MIB, [], seed="a")
    assert len(small) == 40
    assert [each.start_bytes for each in small[:20]] == [n * MIB for n in range(20)]
    assert small == sample_unchanged(200_000 * MIB, MIB, [], seed="a")
    assert small != sample_unchanged(200_000 * MIB, MIB, [], seed="b")
    huge = sample_unchanged(64 * 1024 * 1024 * MIB, MIB, [], seed="a")
    assert len(huge) == SAMPLED_BYTES_MAX // MIB


def test_a_lying_change_list_never_becomes_a_wrong_restore_point(
    simulator: Simulator,
    client: AhvClient,
    repository: Repository,
    open_backup: Callable[..., AbstractContextManager[BackupSession]],
    back_up: Callable[[BackupSession, str], RestorePoint],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A cluster that reports nothing changed although the disk did: the sample shows it, all is read, the point is right, and the reason is stored."""
    vm_id = simulator.vm_id("web01")
    with open_backup() as session:
        back_up(session, vm_id)
    simulator.story.write_raw("web01", 2 * MIB + 5, b"changed in silence")
    honest = AhvClient.changed_regions

    def nothing_changed(
        self: AhvClient, disk: Any, reference: Any, **options: Any
    ) -> ChangedRegions:
        answer = honest(self, disk, reference, **options)
        return (
            ChangedRegions(answer.size_bytes, answer.block_size_bytes, ()) if reference else answer
        )

    monkeypatch.setattr(AhvClient, "changed_regions", nothing_changed)
    with open_backup() as session:
        point = back_up(session, vm_id)
    disk = point.disks[0]
    assert disk.read_method == ReadMethod.ALL
    assert "change list was wrong" in disk.read_reason
    frozen = simulator.story.frozen(disk.source_facts["recovery_point"]["disk_recovery_point_id"])
    with FileTarget(tmp_path / "disk.img", disk.size_bytes) as target:
        repository.open_disk(point, disk.disk_id).restore_to(target, target_is_blank=True)
    assert (tmp_path / "disk.img").read_bytes() == Path(frozen["path"]).read_bytes()


def test_a_full_read_is_due_once_in_its_interval() -> None:
    """Never read, or read too long ago; disks of one day spread over a quarter of the interval, none later than it."""

    def disk(name: str, days_ago: float | None) -> DiskRecord:
        said = None if days_ago is None else (now - timedelta(days=days_ago)).isoformat()
        return DiskRecord(
            disk_id=name,
            label="scsi.0",
            size_bytes=0,
            chunk_size_bytes=MIB,
            maps=(),
            root="0" * 64,
            read_method="changed",
            source_facts={FULLY_READ_AT: said},
        )

    now = datetime(2026, 5, 1, tzinfo=UTC)
    assert is_full_read_due(disk("a", None), now, 30)
    assert not is_full_read_due(disk("a", None), now, None)
    names = [f"disk-{n}" for n in range(200)]
    assert not any(is_full_read_due(disk(name, 22.9), now, 30) for name in names)
    assert all(is_full_read_due(disk(name, 30), now, 30) for name in names)
    days = {
        next(day for day in range(40) if is_full_read_due(disk(name, day), now, 30))
        for name in names
    }
    assert days == set(range(23, 31))
    assert all(is_full_read_due(disk(name, 1), now, 1) for name in names)


@given(
    found=st.lists(st.integers(0, 30), unique=True).map(sorted),
    cuts=st.lists(st.integers(0, 31 * 64), max_size=12, unique=True).map(sorted),
)
def test_lies_are_found_chunks_that_no_claim_touches(found: list[int], cuts: list[int]) -> None:
    """Held against chunk by chunk."""
    claimed = [Extent(a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=False)]
    touched = {
        n for each in claimed for n in range(each.start_bytes // 64, -(-each.end_bytes // 64))
    }
    runs = [Extent(n * 64, n * 64 + 64) for n in found]
    lies = {
        n
        for each in outside(runs, claimed, 64)
        for n in range(each.start_bytes // 64, each.end_bytes // 64)
    }
    assert lies == set(found) - touched


@pytest.fixture
def audited(
    client: AhvClient, repository: Repository, workers: list[WorkerSpec]
) -> Callable[[], AbstractContextManager[BackupSession]]:
    """A session whose disks are all due for a full read."""

    @contextmanager
    def opened() -> Iterator[BackupSession]:
        with open_backup_session(
            client=client,
            repository=repository,
            workers=workers,
            job=BackupJob(name="nightly", full_read_days=20),
            observer=NullObserver(),
        ) as session:
            session.workers.prepare()
            yield session

    return opened


def frozen_is_restored(
    simulator: Simulator, repository: Repository, point: RestorePoint, folder: Path
) -> None:
    disk = point.disks[0]
    frozen = simulator.story.frozen(disk.source_facts["recovery_point"]["disk_recovery_point_id"])
    with FileTarget(folder / "audited.img", disk.size_bytes) as target:
        repository.open_disk(point, disk.disk_id).restore_to(target, target_is_blank=True)
    assert (folder / "audited.img").read_bytes() == Path(frozen["path"]).read_bytes()
    (folder / "audited.img").unlink()


@pytest.mark.parametrize("lie", [None, "changed", "zeros"])
def test_the_full_read_proves_the_change_lists(
    simulator: Simulator,
    client: AhvClient,
    repository: Repository,
    audited: Callable[[], AbstractContextManager[BackupSession]],
    back_up: Callable[[BackupSession, str], RestorePoint],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lie: str | None,
) -> None:
    """An honest cluster: all is read, none had changed, and the day is recorded. One that hid a change or called data zeros: alarm, and the point is right all the same."""
    name = f"audited-{lie}"
    vm_id = simulator.story.add_vm(name, [60 * MIB])
    for at in (1, 20, 40):
        simulator.story.write_raw(name, at * MIB, b"kept" * 200_000)
    with audited() as session:
        first = back_up(session, vm_id)
    assert first.disks[0].source_facts[FULLY_READ_AT] is not None
    with audited() as session:
        ordinary = back_up(session, vm_id)
    assert ordinary.disks[0].source_facts["read_cause"] == ReadCause.CHANGED_REGIONS
    assert (
        ordinary.disks[0].source_facts[FULLY_READ_AT] == first.disks[0].source_facts[FULLY_READ_AT]
    )

    simulator.story.write_raw(name, 50 * MIB, b"told")
    hidden = 20 * MIB + 7 if lie == "changed" else 2 * MIB + 3
    if lie:
        simulator.story.write_raw(name, hidden, b"hidden")
    honest = AhvClient.changed_regions

    def without(self: AhvClient, disk: Any, reference: Any, **options: Any) -> ChangedRegions:
        answer = honest(self, disk, reference, **options)
        kept = [
            each
            for each in answer.regions
            if lie is None
            or not each.offset_bytes <= hidden < each.offset_bytes + each.length_bytes
            or (lie == "changed" and reference is None)
        ]
        if lie == "zeros" and reference is None:
            kept = [
                ChangedRegion(0, 3 * MIB, True),
                *(each for each in kept if each.offset_bytes >= 3 * MIB),
            ]
        return ChangedRegions(answer.size_bytes, answer.block_size_bytes, tuple(kept))

    monkeypatch.setattr(AhvClient, "changed_regions", without)
    monkeypatch.setattr("jobs.transfer.is_full_read_due", lambda *_: True)
    monkeypatch.setattr("jobs.audit.SAMPLES_MIN", 4)
    with audited() as session:
        point = back_up(session, vm_id)
    disk = point.disks[0]
    frozen_is_restored(simulator, repository, point, tmp_path)
    assert disk.source_facts[FULLY_READ_AT] > first.disks[0].source_facts[FULLY_READ_AT]
    if lie is None:
        assert disk.source_facts["read_cause"] == ReadCause.AUDIT_DUE
        assert "none had changed that it called unchanged" in disk.read_reason
        assert disk.figures.read_bytes >= 3 * MIB
        assert disk.figures.stored_bytes < 2 * MIB
        return
    assert disk.source_facts["read_cause"] == ReadCause.TRACKING_WRONG
    assert disk.read_method == ReadMethod.ALL
    said = "have changed" if lie == "changed" else "called zeros hold data"
    assert said in disk.read_reason
