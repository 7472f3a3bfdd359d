"""Sparse files: extents, copies and differences cost what is allocated, and are exact."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from simulator.sparse import (
    GiB,
    KiB,
    MiB,
    align,
    clip,
    copy_sparse,
    create_sparse,
    data_extents,
    differing_extents,
    gaps,
    merge,
    punch,
)

extents = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), max_size=12)


def _points(found: list[tuple[int, int]]) -> set[int]:
    return {at for start, end in found for at in range(start, end)}


@given(extents)
def test_merge_keeps_exactly_the_points_it_was_given(given: list[tuple[int, int]]) -> None:
    """Merged extents cover the same points, sorted, without touching each other."""
    merged = merge(given)
    assert _points(merged) == _points(given)
    assert all(a[1] < b[0] for a, b in pairwise(merged))


@given(extents, st.integers(1, 64))
def test_align_covers_whole_blocks_and_no_others(given: list[tuple[int, int]], block: int) -> None:
    """A block is in the result exactly if a point of it was given."""
    wanted = {at // block for at in _points(given)}
    assert {at // block for at in _points(align(given, block))} == wanted
    assert all(s % block == 0 and e % block == 0 for s, e in align(given, block))


@given(extents, st.integers(0, 200), st.integers(0, 200))
def test_gaps_and_clip_split_a_window(given: list[tuple[int, int]], start: int, end: int) -> None:
    """Inside a window, every point is either in an extent or in a gap."""
    merged = merge(given)
    inside, outside = _points(clip(merged, start, end)), _points(gaps(merged, start, end))
    assert inside | outside == set(range(start, end))
    assert not inside & outside


def test_a_terabyte_costs_nothing_and_copies_at_once(tmp_path: Path) -> None:
    """Only what was written takes room, in the file and in its copy, and holes stay holes."""
    source, target = tmp_path / "a", tmp_path / "b"
    create_sparse(source, 1024 * GiB)
    with source.open("r+b") as file:
        file.seek(700 * GiB)
        file.write(b"x" * MiB)
    copy_sparse(source, target)
    assert target.stat().st_size == 1024 * GiB
    assert target.stat().st_blocks * 512 <= 2 * MiB
    assert list(data_extents(target)) == [(700 * GiB, 700 * GiB + MiB)]
    assert differing_extents(source, target, 32 * KiB) == []


def test_differences_are_found_in_bytes_in_allocation_and_in_length(tmp_path: Path) -> None:
    """A changed block, a punched block of zeros and a longer tail all differ; nothing else does."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"a" * 256 * KiB + bytes(256 * KiB))
    copy_sparse(old, new)
    with new.open("r+b") as file:
        file.seek(70 * KiB)
        file.write(b"b")
        file.truncate(600 * KiB)
    punch(new, 320 * KiB, 384 * KiB)
    found = differing_extents(old, new, 32 * KiB)
    assert found == [(64 * KiB, 96 * KiB), (320 * KiB, 384 * KiB), (512 * KiB, 600 * KiB)]
