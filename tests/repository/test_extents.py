"""The chunk plan: what is read, what is taken as zero, what is inherited."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repository import Extent, ExtentKind, InvalidInput
from repository.extents import ChunkAction, plan_chunks

CHUNK = 10


@st.composite
def disks(draw: st.DrawFn) -> tuple[list[Extent], int, int | None]:
    """Extents of a small disk, its size, and the size of its base."""
    size = draw(st.integers(0, 75))
    bounds = sorted(draw(st.sets(st.integers(0, size), max_size=12)))
    extents = [
        Extent(start, end, draw(st.sampled_from(ExtentKind)))
        for start, end in pairwise(bounds)
        if draw(st.booleans())
    ]
    return extents, size, draw(st.none() | st.integers(0, 75))


def expected_action(
    chunk: int, extents: list[Extent], size: int, base_size: int | None
) -> ChunkAction | None:
    """The rule, byte by byte."""
    positions = range(chunk * CHUNK, min((chunk + 1) * CHUNK, size))
    kinds = [
        next((e.kind for e in extents if e.start_bytes <= position < e.end_bytes), None)
        for position in positions
    ]
    if all(kind is ExtentKind.ZERO for kind in kinds):
        return ChunkAction.ZERO
    if any(kinds):
        return ChunkAction.READ
    if base_size is None:
        return None
    base_bytes = max(0, min((chunk + 1) * CHUNK, base_size) - chunk * CHUNK)
    return ChunkAction.READ if base_bytes != len(positions) else None


@given(disks())
def test_plan_follows_the_rule_for_every_chunk(case: tuple[list[Extent], int, int | None]) -> None:
    """Each chunk is planned exactly as a byte-by-byte reading of the rule says."""
    extents, size, base_size = case
    runs = plan_chunks(extents, size, CHUNK, base_size_bytes=base_size)
    planned = {}
    for run in runs:
        for chunk in range(run.first, run.end):
            assert chunk not in planned
            planned[chunk] = run.action
    expected = {
        chunk: action
        for chunk in range(-(-size // CHUNK))
        if (action := expected_action(chunk, extents, size, base_size))
    }
    assert planned == expected
    assert [run.first for run in runs] == sorted(run.first for run in runs)


@pytest.mark.parametrize(
    "extents",
    [
        [Extent(5, 5)],
        [Extent(-1, 5)],
        [Extent(0, 31)],
        [Extent(10, 20), Extent(15, 25)],
        [Extent(10, 20), Extent(0, 5)],
    ],
)
def test_impossible_extents_are_refused(extents: list[Extent]) -> None:
    """Empty, outside, overlapping and unsorted extents are refused by name."""
    with pytest.raises(InvalidInput, match=r"extent \["):
        plan_chunks(extents, 30, CHUNK, base_size_bytes=None)
