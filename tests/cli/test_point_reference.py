"""A restore point is found by every name a person gives it, and never by a guess."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from cli.errors import DiskUnknown, PointAmbiguous, PointUnknown
from cli.point_reference import find_disk, find_point, short_ids
from repository import DiskRecord, RestorePoint


def disk(disk_id: str, label: str) -> DiskRecord:
    """A disk record without content."""
    return DiskRecord(
        disk_id=disk_id,
        label=label,
        size_bytes=0,
        chunk_size_bytes=1,
        maps=(),
        root="0" * 64,
        read_method="all",
    )


def point(point_id: str, vm_name: str, hour: int, minute: int = 0, vm_id: str = "") -> RestorePoint:
    """A restore point of one VM at one moment of a day."""
    moment = datetime(2026, 11, 23, hour, minute, 12, tzinfo=UTC)
    return RestorePoint(
        id=point_id,
        key=f"points/{point_id}",
        vm_id=vm_id or f"id-of-{vm_name}",
        vm_name=vm_name,
        job="adhoc",
        session_id="s",
        session_started_at=moment,
        created_at=moment,
        committed_at=moment,
        consistency="crash",
        gc_generation=0,
        disks=(disk("d0aa", "scsi.0"), disk("d0bb", "scsi.1")),
    )


POINTS = [
    point("aaaaaaaa11", "db01", 8),
    point("aaaaaaaa22", "web01", 9),
    point("bbbbbbbb33", "db01", 20, 15),
    point("cccccccc44", "db01", 20, 45),
]


@pytest.mark.parametrize(
    ("reference", "point_id"),
    [
        ("db01", "cccccccc44"),
        ("id-of-web01", "aaaaaaaa22"),
        ("b", "bbbbbbbb33"),
        ("aaaaaaaa1", "aaaaaaaa11"),
        ("db01@2026-11-23T08", "aaaaaaaa11"),
        ("db01@2026-11-23 20:15", "bbbbbbbb33"),
        ("db01@2026-11-23T20:45:12Z", "cccccccc44"),
    ],
)
def test_every_way_to_name_a_point(reference: str, point_id: str) -> None:
    """A VM means its newest; an id or a moment may be cut short."""
    assert find_point(POINTS, reference).id == point_id


@pytest.mark.parametrize("reference", ["aaaaaaaa", "db01@2026-11-23T20"])
def test_a_name_that_fits_several_is_refused(reference: str) -> None:
    """The message lists what it could mean."""
    with pytest.raises(PointAmbiguous, match="fits 2 restore points: db01@2026-11-23T"):
        find_point(POINTS, reference)


def test_two_vms_of_one_name_are_never_confused() -> None:
    """After a VM was replaced by another of its name, the name alone names no point."""
    points = [*POINTS, point("dddddddd55", "web01", 21, vm_id="another")]
    with pytest.raises(PointAmbiguous):
        find_point(points, "web01")
    assert find_point(points, "another").id == "dddddddd55"


@pytest.mark.parametrize(
    ("reference", "hint"),
    [
        ("db1", "Did you mean db01"),
        ("web1@2026", "Did you mean web01"),
        ("db01@2027-01-01", "none of that moment.*Did you mean db01@2026-11-23T"),
        ("", "goes by that name"),
        ("@", "goes by that name"),
    ],
)
def test_an_unknown_name_gets_near_ones(reference: str, hint: str) -> None:
    """The message offers names that exist and look alike."""
    with pytest.raises(PointUnknown, match=hint):
        find_point(POINTS, reference)


def test_an_empty_repository_says_so() -> None:
    """Nothing can be near when there is nothing."""
    with pytest.raises(PointUnknown, match="holds none yet"):
        find_point([], "db01")


def test_disks_by_label_or_id() -> None:
    """A label, or the start of an id that fits one disk."""
    assert find_disk(POINTS[0], "scsi.1").disk_id == "d0bb"
    assert find_disk(POINTS[0], "d0a").disk_id == "d0aa"
    for unclear in ("d0", "scsi.2", ""):
        with pytest.raises(DiskUnknown, match=r"Its disks are: scsi\.0, scsi\.1"):
            find_disk(POINTS[0], unclear)


def test_short_ids_are_unique_and_found_again() -> None:
    """Every short id leads back to its point."""
    short = short_ids(point.id for point in POINTS)
    assert short["bbbbbbbb33"] == "bbbbbbbb"
    assert [find_point(POINTS, short[made.id]).id for made in POINTS] == [p.id for p in POINTS]
