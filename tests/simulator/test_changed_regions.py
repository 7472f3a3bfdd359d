"""Changed regions are true: never less than what differs, windowed and paged as the API does it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simulator.sparse import KiB, MiB, align, differing_extents, merge

BLOCK = 64 * KiB


def _covers(regions: list[tuple[int, int, str]], extents: list[tuple[int, int]]) -> bool:
    covered = merge((start, end) for start, end, _kind in regions)
    return all(any(s <= start and end <= e for s, e in covered) for start, end in extents)


def _frozen(api: Any, point: Any, disk: int) -> Path:
    return Path(api.simulator.story.frozen(point.disk_points[disk])["path"])


def _rebuilt(base: bytes, regions: list[tuple[int, int, str]], new: bytes) -> bytes:
    """What a client ends up with that reads only REGULAR regions and writes zeros into the others."""
    image = bytearray(base.ljust(len(new), b"\0")[: len(new)])
    for start, end, kind in regions:
        stop = min(end, len(new))
        image[start:stop] = new[start:stop] if kind == "REGULAR" else bytes(stop - start)
    return bytes(image)


def _live_a_little(story: Any, rng: random.Random, step: int) -> None:
    """One random thing that happens to the disks of db01."""
    name = f"/srv/{rng.randrange(4)}/file{rng.randrange(6)}"
    choice = rng.randrange(7)
    if choice <= 2:
        story.write_file(
            "db01", name, size_bytes=rng.randrange(1, 300 * KiB), seed=str(step), disk=1
        )
    elif choice == 3:
        story.append_file(
            "db01", "/data/base/16384", size_bytes=rng.randrange(1, 200 * KiB), disk=1
        )
    elif choice == 4:
        victim = rng.choice(
            [p for p in story.list_files("db01", disk=1) if p.startswith("/srv")] or [""]
        )
        if victim:
            story.delete_file("db01", victim, discard=rng.random() < 0.7, disk=1)
    elif choice == 5:
        offset = rng.randrange(20 * MiB, 30 * MiB)
        story.write_raw("db01", offset, rng.randbytes(rng.randrange(1, 100 * KiB)), disk=1)
    else:
        offset = rng.randrange(20 * MiB, 30 * MiB)
        story.discard_raw("db01", offset, rng.randrange(1, 2 * MiB), disk=1)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_random_story_leaves_no_change_untold(api: Any, seed: int) -> None:
    """Between any two recovery points, the regions cover every differing block, and rebuild the newer."""
    rng = random.Random(seed)
    points = [api.snapshot("db01", "p0")]
    for number in range(1, 5):
        for step in range(4):
            _live_a_little(api.simulator.story, rng, number * 100 + step)
        if number == 3:
            api.simulator.story.grow_disk("db01", 60 * MiB + 12 * KiB, disk=1)
        points.append(api.snapshot("db01", f"p{number}"))
    for older in range(4):
        for newer in range(older + 1, 5):
            old, new = _frozen(api, points[older], 1), _frozen(api, points[newer], 1)
            regions = api.regions(points[newer], points[older], 1, blockSizeByte=BLOCK)
            assert _covers(regions, differing_extents(old, new, 4 * KiB))
            assert _rebuilt(old.read_bytes(), regions, new.read_bytes()) == new.read_bytes()


def test_regions_are_no_wider_than_the_writes(api: Any) -> None:
    """A write of known place gives its blocks and nothing else, also through a deleted middle point."""
    first = api.snapshot("web01")
    api.simulator.story.write_raw("web01", 20 * MiB + 100, b"x" * 10)
    middle = api.snapshot("web01")
    api.simulator.story.write_raw("web01", 25 * MiB, b"y" * (BLOCK + 1))
    last = api.snapshot("web01")
    api.do("DELETE", f"/dataprotection/v4.4/config/recovery-points/{middle.ext_id}")
    assert api.regions(last, first, blockSizeByte=BLOCK) == [
        (20 * MiB, 20 * MiB + BLOCK, "REGULAR"),
        (25 * MiB, 25 * MiB + 2 * BLOCK, "REGULAR"),
    ]


def test_nothing_happened_means_no_regions(api: Any) -> None:
    """Two recovery points of an idle disk differ in nothing, and the answer has no data at all."""
    first, second = api.snapshot("web01"), api.snapshot("web01")
    answer = api.compute(second, first).json()
    assert "data" not in answer
    assert {d["name"]: d["value"] for d in answer["metadata"]["extraInfo"]}["nextOffset"] == "0"


def test_without_reference_the_map_covers_the_disk_and_holes_are_zero(api: Any) -> None:
    """The allocation map has every block once, and a region called ZEROED holds zeros only."""
    point = api.snapshot("files01")
    content = _frozen(api, point, 1).read_bytes()
    regions = api.regions(point, None, 1)
    assert merge((s, e) for s, e, _kind in regions) == [(0, len(content))]
    assert {kind for *_range, kind in regions} == {"REGULAR", "ZEROED"}
    assert not any(any(content[s:e]) for s, e, kind in regions if kind == "ZEROED")


def test_holes_may_be_left_out(open_api: Callable[..., Any]) -> None:
    """With holes as gaps, only REGULAR regions are told, and they cover all data."""
    api = open_api(holes_as="gaps")
    point = api.snapshot("files01")
    regions = api.regions(point, None, 1)
    assert {kind for *_range, kind in regions} == {"REGULAR"}
    content = _frozen(api, point, 1).read_bytes()
    assert _rebuilt(b"", regions, content) == content


def test_a_window_is_kept_and_its_end_leads_to_the_next_change(api: Any) -> None:
    """Regions stay inside the aligned window; nextOffset may skip far ahead, and fileSize is the disk's."""
    first = api.snapshot("web01")
    for place in (20 * MiB, 28 * MiB):
        api.simulator.story.write_raw("web01", place, b"x")
    second = api.snapshot("web01")
    answer = api.compute(second, first, offset=19 * MiB, length=2 * MiB).json()
    assert [(r["offset"], r["length"]) for r in answer["data"]] == [(20 * MiB, 32 * KiB)]
    extra = {d["name"]: d["value"] for d in answer["metadata"]["extraInfo"]}
    assert extra == {"nextOffset": str(28 * MiB), "fileSize": str(32 * MiB)}


def test_a_window_that_cuts_a_region_ends_where_it_ends(api: Any) -> None:
    """A bounded window over the allocation map says its own end as nextOffset."""
    point = api.snapshot("web01")
    answer = api.compute(point, None, offset=0, length=MiB).json()
    extra = {d["name"]: d["value"] for d in answer["metadata"]["extraInfo"]}
    assert extra["nextOffset"] == str(MiB)


def test_pages_are_capped_and_add_up(open_api: Callable[..., Any]) -> None:
    """With a small cap the same regions come in more pages, none longer than the cap."""
    api = open_api(region_count_max=3)
    first = api.snapshot("web01")
    rng = random.Random(5)
    places = sorted(rng.sample(range(16 * MiB, 30 * MiB, 128 * KiB), 11))
    for place in places:
        api.simulator.story.write_raw("web01", place, b"x")
    second = api.snapshot("web01")
    assert len(api.compute(second, first).json()["data"]) == 3
    assert [start for start, *_rest in api.regions(second, first)] == places


@pytest.mark.parametrize("block", [32 * KiB, 64 * KiB, 128 * KiB, 256 * KiB])
def test_regions_are_aligned_to_the_block_size(api: Any, block: int) -> None:
    """Whatever the size of the blocks, regions begin and end on them, past the end of an odd disk too."""
    api.simulator.story.grow_disk("web01", 33 * MiB + 4 * KiB)
    first = api.snapshot("web01")
    api.simulator.story.write_raw("web01", 33 * MiB, b"tail")
    second = api.snapshot("web01")
    regions = api.regions(second, first, blockSizeByte=block)
    assert regions == [(33 * MiB, 33 * MiB + block, "REGULAR")]
    assert align([(s, e) for s, e, _kind in regions], block) == [(33 * MiB, 33 * MiB + block)]


def test_a_reference_of_another_disk_is_refused(api: Any) -> None:
    """After a disk was replaced, its old recovery point is no reference for the new one."""
    first = api.snapshot("db01")
    api.simulator.story.replace_disk("db01", 40 * MiB, disk=1)
    second = api.snapshot("db01")
    answer = api.compute(second, first, 1)
    assert answer.status_code == 422
    assert answer.json()["data"]["error"][0]["code"] == "DP-10100"


def test_a_reference_that_is_gone_is_not_found(api: Any) -> None:
    """A reference deleted behind the client's back answers 404 at the first step."""
    first = api.snapshot("web01")
    second = api.snapshot("web01")
    api.simulator.story.delete_recovery_point(first.ext_id)
    spec = {
        "diskRecoveryPoint": second.reference(0),
        "referenceDiskRecoveryPoint": first.reference(0),
    }
    path = f"/dataprotection/v4.4/config/recovery-points/{second.ext_id}/$actions/discover-cluster"
    answer = api.send("POST", path, json={"operation": "COMPUTE_CHANGED_REGIONS", "spec": spec})
    assert answer.status_code == 404
    assert (
        answer.json()["data"]["error"][0]["errorGroup"]
        == "DATAPROTECTION_ENTITY_NON_EXISTENT_ERROR"
    )


def test_a_discarded_file_is_told_as_zeroed(api: Any) -> None:
    """Deleting with discard gives ZEROED regions; deleting without leaves the stale blocks REGULAR or untold."""
    story = api.simulator.story
    story.write_file("web01", "/a.bin", size_bytes=2 * MiB)
    story.write_file("web01", "/b.bin", size_bytes=2 * MiB)
    first = api.snapshot("web01")
    story.delete_file("web01", "/a.bin", discard=False)
    second = api.snapshot("web01")
    story.delete_file("web01", "/b.bin", discard=True)
    third = api.snapshot("web01")
    assert not [r for r in api.regions(second, first) if r[2] == "ZEROED"]
    zeroed = sum(end - start for start, end, kind in api.regions(third, second) if kind == "ZEROED")
    assert 1.8 * MiB < zeroed <= 2.1 * MiB
