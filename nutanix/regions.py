"""Putting the pages of a changed-regions answer together, trusting none of it (B4-B6). Pure.

An incomplete list would silently lose changes, so whatever looks wrong raises `RegionsUnusable`
and the caller reads more instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from nutanix.answers import Answer
from nutanix.errors import RegionsUnusable
from nutanix.models.recovery_points import ChangedRegion

REGIONS_PER_PAGE_MAX = 10_000
REGION_TYPES = {"REGULAR": False, "ZEROED": True}


class RegionPages:
    """The regions of one disk, growing page by page. `next_offset_bytes` is where to ask next.

    Not thread-safe.
    """

    def __init__(self, disk_recovery_point_id: str) -> None:
        self._disk = disk_recovery_point_id
        self._regions: list[ChangedRegion] = []
        self._last_start_bytes = 0
        self.next_offset_bytes = 0
        self.is_complete = False
        self.size_bytes: int | None = None

    def add(self, page: Answer) -> None:
        """Take one page; raises `RegionsUnusable` when it cannot be the next part of one answer."""
        if page.flag("isTruncated"):
            raise self._unusable("the cluster says that it cut the list off")
        self._agree_on_size(page)
        items = page.data or []
        if not isinstance(items, list):
            raise self._unusable("a list was expected")
        following_bytes = self._following(page, len(items))
        for item in items:
            self._add_region(item, following_bytes)
        if following_bytes is None:
            self.is_complete = True
        else:
            self.next_offset_bytes = following_bytes

    def merged(self) -> tuple[ChangedRegion, ...]:
        """All regions, clipped to the disk and merged; only after `is_complete`."""
        if not self.is_complete or self.size_bytes is None:
            raise self._unusable("the list is not complete")
        return merge(self._regions, size_bytes=self.size_bytes)

    def _agree_on_size(self, page: Answer) -> None:
        size_bytes = self._integer("fileSize", page.extra_info("fileSize"))
        if size_bytes is None or size_bytes < 0:
            raise self._unusable("it does not say how large the disk is")
        if self.size_bytes not in (None, size_bytes):
            raise self._unusable(
                f"the disk's size changed from {self.size_bytes} to {size_bytes} bytes"
            )
        self.size_bytes = size_bytes

    def _following(self, page: Answer, item_count: int) -> int | None:
        """Where the next page starts, or `None` at the end: absent, 0, or the end of the disk.

        A full page that does not say where to go on is taken for a cut-off one.
        """
        following_bytes = self._integer("nextOffset", page.extra_info("nextOffset"))
        if following_bytes is None and item_count >= REGIONS_PER_PAGE_MAX:
            raise self._unusable("a full page does not say whether there is more")
        if not following_bytes or following_bytes >= (self.size_bytes or 0):
            return None
        if following_bytes <= self.next_offset_bytes:
            raise self._unusable(f"the next page would start at byte {following_bytes} again")
        return following_bytes

    def _add_region(self, item: Any, following_bytes: int | None) -> None:
        offset_bytes = self._integer("offset", item.get("offset"))
        length_bytes = self._integer("length", item.get("length"))
        kind = item.get("regionType")
        if offset_bytes is None or length_bytes is None or kind not in REGION_TYPES:
            raise self._unusable(f"a region is not understood: type {kind}")
        if offset_bytes < 0 or length_bytes <= 0:
            raise self._unusable(f"a region has offset {offset_bytes} and length {length_bytes}")
        if offset_bytes < self._last_start_bytes:
            raise self._unusable(f"the region at byte {offset_bytes} is out of order")
        limit_bytes = following_bytes if following_bytes is not None else self.size_bytes
        if limit_bytes is not None and offset_bytes >= limit_bytes:
            raise self._unusable(f"the region at byte {offset_bytes} lies beyond its page")
        self._last_start_bytes = offset_bytes
        self._regions.append(ChangedRegion(offset_bytes, length_bytes, REGION_TYPES[kind]))

    def _integer(self, name: str, value: object) -> int | None:
        try:
            return None if value is None else int(str(value))
        except ValueError as error:
            raise self._unusable(f"{name} is not a number") from error

    def _unusable(self, reason: str) -> RegionsUnusable:
        return RegionsUnusable(self._disk, reason)


def merge(regions: Iterable[ChangedRegion], *, size_bytes: int) -> tuple[ChangedRegion, ...]:
    """Clip to `[0, size_bytes)`, resolve overlaps, join neighbours of one kind.

    `regions` are sorted by offset. Where a zeroed and a regular region overlap, regular wins:
    reading a byte too many is harmless, taking data for zeros is not.
    """
    merged: list[ChangedRegion] = []
    for is_zeroed, spans in _exclusive(regions, size_bytes):
        merged.extend(ChangedRegion(start, end - start, is_zeroed) for start, end in spans)
    merged.sort()
    return tuple(merged)


Span = tuple[int, int]


def _exclusive(
    regions: Iterable[ChangedRegion], size_bytes: int
) -> tuple[tuple[bool, list[Span]], tuple[bool, list[Span]]]:
    spans: dict[bool, list[Span]] = {False: [], True: []}
    for region in regions:
        end_bytes = min(region.end_bytes, size_bytes)
        if region.offset_bytes < end_bytes:
            _extend(spans[region.is_zeroed], region.offset_bytes, end_bytes)
    return (False, spans[False]), (True, _without(spans[True], spans[False]))


def _extend(spans: list[Span], start: int, end: int) -> None:
    if spans and start <= spans[-1][1]:
        spans[-1] = (spans[-1][0], max(spans[-1][1], end))
    else:
        spans.append((start, end))


def _without(spans: Sequence[Span], taken: Sequence[Span]) -> list[Span]:
    """`spans` minus `taken`; both sorted and without overlap."""
    left: list[Span] = []
    first = 0
    for start, end in spans:
        reached = start
        while first < len(taken) and taken[first][1] <= reached:
            first += 1
        place = first
        while place < len(taken) and taken[place][0] < end:
            if taken[place][0] > reached:
                left.append((reached, taken[place][0]))
            reached = max(reached, taken[place][1])
            place += 1
        if reached < end:
            left.append((reached, end))
    return left
