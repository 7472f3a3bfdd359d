"""Putting pages of regions together: complete and consistent, or nothing (B4-B6)."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nutanix import ChangedRegion, RegionsUnusable
from nutanix.answers import Answer
from nutanix.regions import REGIONS_PER_PAGE_MAX, RegionPages, merge

KiB = 1024
SIZE = 1000 * KiB + 512


def page(
    *regions: tuple[int, int, str], next_offset: Any = "0", size: Any = str(SIZE), **envelope: Any
) -> Answer:
    """An answer of the Prism Element; pairs in `extraInfo` come in no fixed order."""
    extra = [{"name": "nextOffset", "value": next_offset}, {"name": "fileSize", "value": size}]
    metadata = {"extraInfo": [each for each in extra if each["value"] is not None], **envelope}
    items = [{"offset": o, "length": n, "regionType": kind} for o, n, kind in regions]
    return Answer({"data": items, "metadata": metadata})


def collect(*answers: Answer) -> RegionPages:
    pages = RegionPages("disk-1")
    for answer in answers:
        pages.add(answer)
    return pages


def test_pages_become_one_list():
    """Neighbours of one kind are joined over page borders; other kinds are kept apart."""
    pages = collect(
        page((0, 64 * KiB, "REGULAR"), (64 * KiB, 64 * KiB, "REGULAR"), next_offset="131072"),
        page((128 * KiB, 32 * KiB, "REGULAR"), (160 * KiB, 32 * KiB, "ZEROED")),
    )
    assert pages.is_complete
    assert pages.merged() == (
        ChangedRegion(0, 160 * KiB, is_zeroed=False),
        ChangedRegion(160 * KiB, 32 * KiB, is_zeroed=True),
    )


@pytest.mark.parametrize("last", ["0", 0, None, str(SIZE), SIZE + 1, SIZE])
def test_every_way_to_say_the_end(last):
    """nextOffset absent, 0, or at the disk's end, as string or number, ends the list (§15.2)."""
    assert collect(page((0, 32 * KiB, "REGULAR"), next_offset=last)).is_complete


def test_a_region_past_an_odd_disk_end_is_clipped():
    """Alignment may push the last region beyond the disk; what is returned never is (B4)."""
    pages = collect(page((992 * KiB, 32 * KiB, "REGULAR")))
    assert pages.merged() == (ChangedRegion(992 * KiB, SIZE - 992 * KiB, is_zeroed=False),)


def test_a_region_may_start_before_its_page():
    """Alignment may reach back before the offset asked for; the overlap is merged."""
    pages = collect(
        page((0, 64 * KiB, "REGULAR"), next_offset=str(40 * KiB)),
        page((32 * KiB, 64 * KiB, "REGULAR")),
    )
    assert pages.merged() == (ChangedRegion(0, 96 * KiB, is_zeroed=False),)


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([page(size=None)], "how large"),
        ([page(size="many")], "fileSize is not a number"),
        ([page(next_offset="soon")], "nextOffset is not a number"),
        ([page(next_offset="65536"), page(next_offset="65536")], "again"),
        ([page(next_offset="65536"), page(next_offset="32768")], "again"),
        ([page(next_offset="65536"), page(size=str(SIZE + 512))], "size changed"),
        ([page((0, 0, "REGULAR"))], "length 0"),
        ([page((-512, 1024, "REGULAR"))], "offset -512"),
        ([page((0, 512, "$UNKNOWN"))], "not understood"),
        ([page((SIZE, 512, "REGULAR"))], "beyond its page"),
        ([page((64 * KiB, 512, "REGULAR"), next_offset="32768")], "beyond its page"),
        ([page((32 * KiB, 512, "REGULAR"), (0, 512, "REGULAR"))], "out of order"),
        ([page(flags=[{"name": "isTruncated", "value": True}])], "cut the list off"),
    ],
)
def test_whatever_looks_wrong_is_refused(answers, reason):
    """No doubtful list is ever returned, not even in part: the caller reads more instead (B5)."""
    with pytest.raises(RegionsUnusable, match=reason) as caught:
        collect(*answers)
    assert caught.value.disk_recovery_point_id == "disk-1"


def test_a_full_page_without_an_end_is_refused():
    """10 000 regions and no word on whether there is more: most likely there is."""
    full = [(place * 100, 50, "REGULAR") for place in range(REGIONS_PER_PAGE_MAX)]
    with pytest.raises(RegionsUnusable, match="full page"):
        collect(page(*full, next_offset=None))


def test_an_unfinished_list_cannot_be_taken():
    """`merged` before the end raises, so that no code path can use half a list."""
    with pytest.raises(RegionsUnusable, match="not complete"):
        collect(page(next_offset="65536")).merged()


spans = st.tuples(st.integers(0, 60), st.integers(1, 12), st.booleans())


@given(st.lists(spans, max_size=25), st.integers(1, 64))
def test_merge_means_the_same_byte_by_byte(raw, size_bytes):
    """Against a byte array: data wins over zeros, and the result is sorted, disjoint and inside."""
    regions = [ChangedRegion(*each) for each in sorted(raw)]
    truth: list[str | None] = [None] * size_bytes
    for kind, is_zeroed in (("zero", True), ("data", False)):
        for region in regions:
            if region.is_zeroed is is_zeroed:
                for place in range(region.offset_bytes, min(region.end_bytes, size_bytes)):
                    truth[place] = kind
    merged = merge(regions, size_bytes=size_bytes)
    found: list[str | None] = [None] * size_bytes
    for region in merged:
        found[region.offset_bytes : region.end_bytes] = [
            "zero" if region.is_zeroed else "data"
        ] * region.length_bytes
    assert found == truth
    for left, right in itertools.pairwise(merged):
        assert left.end_bytes <= right.offset_bytes
        assert left.end_bytes < right.offset_bytes or left.is_zeroed is not right.is_zeroed
