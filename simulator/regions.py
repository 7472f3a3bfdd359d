"""Changed regions: which ranges of a disk recovery point differ from another (nutanix-v4 §15.2).

The truth comes from `DiskStore`: recorded writes against a reference, allocation without one. This file
cuts it into windows, blocks and pages as the API does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from simulator.disks import DiskStore
from simulator.sparse import Extent, KiB, align, clip, gaps, merge

BLOCK_SIZES_BYTES = tuple(KiB * n for n in (32, 64, 128, 256))


@dataclass(frozen=True, slots=True)
class Frozen:
    """The frozen content of one disk recovery point."""

    vdisk: str
    generation: int


@dataclass(frozen=True, slots=True)
class Region:
    """One changed range; `is_zero` means it reads as zeros now."""

    start: int
    end: int
    is_zero: bool


@dataclass(frozen=True, slots=True)
class RegionPage:
    """One answer: regions, where the next begins (0 when there is none), and the size of the disk."""

    regions: tuple[Region, ...]
    next_offset: int
    file_size_bytes: int


def compute_page(
    disks: DiskStore,
    newer: Frozen,
    older: Frozen | None,
    *,
    offset: int,
    length: int | None,
    block_bytes: int,
    count_max: int,
    holes_as: Literal["zeroed", "gaps"],
) -> RegionPage:
    """The regions of a window, at most `count_max`.

    Regions begin and end at multiples of `block_bytes`, so the first may start before `offset` and the
    last may end past the disk. `next_offset` is where the next region begins, which may be far behind the window.
    """
    size = disks.get(newer.vdisk).generation(newer.generation).size_bytes
    start = offset - offset % block_bytes
    end = size if length is None else min(size, offset + length)
    end += -end % block_bytes
    everything = _all_regions(disks, newer, older, start, size, block_bytes, holes_as)
    page: list[Region] = []
    for region in everything:
        if region.start >= end or len(page) == count_max:
            return RegionPage(tuple(page), region.start, size)
        if region.end > end:
            page.append(Region(region.start, end, region.is_zero))
            return RegionPage(tuple(page), end, size)
        page.append(region)
    return RegionPage(tuple(page), 0, size)


def _all_regions(
    disks: DiskStore,
    newer: Frozen,
    older: Frozen | None,
    start: int,
    size: int,
    block_bytes: int,
    holes_as: Literal["zeroed", "gaps"],
) -> list[Region]:
    """Every region from `start` on, in order, neighbours of one type joined."""
    whole: list[Extent] = [(start, size)] if start < size else []
    changed = (
        whole if older is None else disks.changed(newer.vdisk, older.generation, newer.generation)
    )
    limit = size + -size % block_bytes
    wanted = clip(align(changed, block_bytes), start, limit)
    data = align(disks.allocated(newer.vdisk, newer.generation, start, size), block_bytes)
    regular = [Region(s, e, is_zero=False) for w in wanted for s, e in merge(clip(data, *w))]
    if older is None and holes_as == "gaps":
        return sorted(regular, key=lambda r: r.start)
    zeroed = [Region(s, e, is_zero=True) for w in wanted for s, e in gaps(data, *w)]
    return sorted([*regular, *zeroed], key=lambda r: r.start)
