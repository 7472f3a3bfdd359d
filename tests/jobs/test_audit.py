"""Samples of what the cluster calls unchanged, and what happens when it lies."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import BackupSession, ReadMethod
from jobs.audit import SAMPLED_BYTES_MAX, SAMPLES_MIN, sample_unchanged
from nutanix import AhvClient, ChangedRegions
from repository import Extent, FileTarget, Repository, RestorePoint
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
