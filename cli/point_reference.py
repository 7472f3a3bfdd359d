"""Finding a restore point by the name a person gives it. Pure: names and points in, one point out.

4f1c0b7e                    the start of a restore point's id
db01                        a VM: its newest restore point
db01@2026-11-23T20:15       a VM and the start of a moment, in UTC, as `ahvault points` shows it
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cli.errors import DiskUnknown, PointAmbiguous, PointUnknown

if TYPE_CHECKING:
    from repository import DiskRecord, RestorePoint

SHORT_ID_LENGTH_MIN = 8


def find_point(points: Sequence[RestorePoint], reference: str) -> RestorePoint:
    """The one point that `reference` names. A VM's name wins over an id that starts alike.

    `points` are oldest first. Raises `PointUnknown` with names that are near, or `PointAmbiguous`.
    """
    vm_name, has_moment, moment = reference.rpartition("@")
    if has_moment and vm_name:
        return _find_by_moment(points, reference, vm_name, moment)
    of_vm = points_of_vm(points, reference)
    if of_vm:
        return of_vm[-1]
    by_id = [point for point in points if reference and point.id.startswith(reference)]
    return _the_one(by_id, points, reference)


def points_of_vm(points: Sequence[RestorePoint], vm: str) -> list[RestorePoint]:
    """The points of one VM, by name or id, oldest first.

    Raises `PointAmbiguous` when different VMs bear that name: the newest would be a guess.
    """
    found = [point for point in points if vm in (point.vm_name, point.vm_id)]
    if len({point.vm_id for point in found}) > 1:
        raise PointAmbiguous(vm, [describe_point(point) for point in found])
    return found


def find_disk(point: RestorePoint, disk: str) -> DiskRecord:
    """The one disk that `disk` names by label or by the start of its id; raises `DiskUnknown`."""
    by_label = [record for record in point.disks if record.label == disk]
    by_id = [record for record in point.disks if disk and record.disk_id.startswith(disk)]
    found = by_label or by_id
    if len(found) != 1:
        known = [record.label or record.disk_id for record in point.disks]
        raise DiskUnknown(disk, describe_point(point), known)
    return found[0]


def describe_point(point: RestorePoint) -> str:
    """`db01@2026-11-23T20:15:12Z (4f1c0b7e)`: a name that a command takes back, and its id."""
    return f"{moment_reference(point)} ({point.id[:SHORT_ID_LENGTH_MIN]})"


def moment_reference(point: RestorePoint) -> str:
    """`db01@2026-11-23T20:15:12Z`."""
    return f"{point.vm_name}@{_shown_time(point)}"


def short_ids(point_ids: Iterable[str]) -> dict[str, str]:
    """Full id to its shortest start that is unique among them, at least eight characters."""
    ids = sorted(point_ids)
    short: dict[str, str] = {}
    for index, full in enumerate(ids):
        neighbours = ids[max(index - 1, 0) : index] + ids[index + 1 : index + 2]
        shared = max((_shared_length(full, other) for other in neighbours), default=0)
        short[full] = full[: max(SHORT_ID_LENGTH_MIN, shared + 1)]
    return short


def _find_by_moment(
    points: Sequence[RestorePoint], reference: str, vm_name: str, moment: str
) -> RestorePoint:
    of_vm = points_of_vm(points, vm_name)
    if not of_vm:
        return _the_one([], points, reference)
    wanted = moment.upper().replace(" ", "T")
    found = [point for point in of_vm if _shown_time(point).startswith(wanted)]
    if not found:
        near = difflib.get_close_matches(
            reference, [moment_reference(point) for point in of_vm], n=2, cutoff=0.0
        )
        raise PointUnknown(reference, f"{vm_name} has none of that moment (UTC)", near)
    return _the_one(found, points, reference)


def _the_one(
    found: Sequence[RestorePoint], points: Sequence[RestorePoint], reference: str
) -> RestorePoint:
    if len(found) == 1:
        return found[0]
    if found:
        raise PointAmbiguous(reference, [describe_point(point) for point in found])
    if not points:
        raise PointUnknown(reference, "the repository holds none yet")
    names = sorted({point.vm_name for point in points})
    vm = reference.partition("@")[0]
    near = difflib.get_close_matches(vm, names, n=3, cutoff=0.5)
    raise PointUnknown(reference, "no VM and no id in the repository goes by that name", near)


def _shown_time(point: RestorePoint) -> str:
    from jobs import utc_text

    return utc_text(point.created_at)


def _shared_length(one: str, other: str) -> int:
    length = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        length += 1
    return length
