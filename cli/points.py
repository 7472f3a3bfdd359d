"""`ahvault points`: what the repository holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.config import load_settings
from cli.connections import open_repository
from cli.exit_codes import ExitCode
from cli.options import CommonOptions, RepositoryOptions, with_options
from cli.output import Column, open_output, table
from cli.point_reference import find_point, points_of_vm, short_ids

if TYPE_CHECKING:
    from rich.console import RenderableType

    from repository import DamagedRecord, DiskRecord, PointListing, RestorePoint

EXAMPLES = """Examples:

- `ahvault points`
- `ahvault points db01 --disks`
- `ahvault points --json | jq -r '.points[].id'`
"""

_POINT_COLUMNS = (
    Column("ID"),
    Column("VM"),
    Column("TIME (UTC)"),
    Column("KIND"),
    Column("DISKS", is_number=True),
    Column("PROVISIONED", is_number=True),
    Column("READ", is_number=True),
    Column("STORED", is_number=True),
    Column("RATIO", is_number=True),
    Column("CONSISTENCY"),
    Column("JOB"),
)
_DISK_COLUMNS = (
    Column("POINT"),
    Column("DISK"),
    Column("DISK ID"),
    Column("SIZE", is_number=True),
    Column("READ", is_number=True),
    Column("STORED", is_number=True),
    Column("METHOD"),
    Column("FULLY READ"),
    Column("WHY", can_wrap=True),
)


@with_options
def points(
    common: CommonOptions,
    repository: RepositoryOptions,
    which: Annotated[
        str | None,
        typer.Argument(help="A VM, or one restore point: its id or VM@TIME.", metavar="VM|POINT"),
    ] = None,
    disks: Annotated[bool, typer.Option("--disks", help="List every disk as well.")] = False,
) -> None:
    """List the restore points that the repository holds.

    Needs the repository alone, no cluster. A record that cannot be read is named on stderr, the
    others are listed all the same, and the command ends with the exit code for damage.
    """
    settings = load_settings(common, repository)
    output = open_output(as_json=common.as_json)
    with open_repository(settings) as opened:
        listing = opened.points()
    chosen = _choose(listing, which)
    output.result(
        {
            "points": [point_as_data(point) for point in chosen],
            "damaged": [_damage_as_data(record) for record in listing.damaged],
        },
        lambda: _view(chosen, listing, with_disks=disks),
    )
    for record in listing.damaged:
        output.note(f"ahvault: a restore point cannot be read: {record.detail}")
    if listing.damaged:
        raise typer.Exit(ExitCode.DAMAGE)


def point_as_data(point: RestorePoint) -> dict[str, Any]:
    """A restore point as plain data. The VM's captured configuration is left out: it is long."""
    from jobs import utc_text

    return {
        "id": point.id,
        "vm": point.vm_name,
        "vm_id": point.vm_id,
        "created_at": utc_text(point.created_at),
        "committed_at": utc_text(point.committed_at),
        "kind": kind_of(point),
        "consistency": point.consistency,
        "job": point.job,
        "session_id": point.session_id,
        "provisioned_bytes": point.provisioned_bytes,
        "read_bytes": point.read_bytes,
        "stored_bytes": point.stored_bytes,
        "consistency_wanted": point.source.get("consistency_wanted"),
        "lacks": point.source.get("lacks", []),
        "volume_groups": [each["name"] for each in point.source.get("volume_groups", [])],
        "copied_from": point.copied_from.model_dump() if point.copied_from else None,
        "disks": [_disk_as_data(disk) for disk in point.disks],
    }


def kind_of(point: RestorePoint) -> str:
    """How it came to be: a `copy`, `incremental` on an earlier point, or `full`. Each restores by itself."""
    if point.copied_from is not None:
        return "copy"
    return "full" if point.previous_point_id is None else "incremental"


def _choose(listing: PointListing, which: str | None) -> Sequence[RestorePoint]:
    if which is None:
        return listing.points
    return points_of_vm(listing.points, which) or [find_point(listing.points, which)]


def _disk_as_data(disk: DiskRecord) -> dict[str, Any]:
    return {
        "id": disk.disk_id,
        "label": disk.label,
        "size_bytes": disk.size_bytes,
        "read_bytes": disk.figures.read_bytes,
        "stored_bytes": disk.figures.stored_bytes,
        "read_method": disk.read_method,
        "read_reason": disk.read_reason,
        "read_cause": disk.source_facts.get("read_cause"),
        "fully_read_at": disk.source_facts.get("fully_read_at"),
    }


def _damage_as_data(record: DamagedRecord) -> dict[str, str]:
    return {"key": record.key, "detail": record.detail}


def _view(
    chosen: Sequence[RestorePoint], listing: PointListing, *, with_disks: bool
) -> Iterator[RenderableType]:
    if not chosen:
        yield "The repository holds no restore point yet. `ahvault backup` makes the first."
        return
    ids = short_ids(point.id for point in listing.points)
    yield table(_POINT_COLUMNS, (_point_row(point, ids[point.id]) for point in chosen))
    for point in chosen:
        for text in point.source.get("lacks") or ():
            yield f"{ids[point.id]} of {point.vm_name}: {text}"
    if with_disks:
        rows = (_disk_row(disk, ids[point.id]) for point in chosen for disk in point.disks)
        yield ""
        yield table(_DISK_COLUMNS, rows)


def _point_row(point: RestorePoint, short_id: str) -> tuple[str, ...]:
    from jobs import human_bytes, human_ratio, utc_text

    return (
        short_id,
        point.vm_name,
        utc_text(point.created_at),
        kind_of(point),
        str(len(point.disks)),
        human_bytes(point.provisioned_bytes),
        human_bytes(point.read_bytes),
        human_bytes(point.stored_bytes),
        human_ratio(point.read_bytes, point.stored_bytes),
        _consistency(point),
        point.job,
    )


def _consistency(point: RestorePoint) -> str:
    """What was reached, and what was wanted where that was more (N1)."""
    wanted = point.source.get("consistency_wanted")
    return (
        f"{point.consistency} ({wanted} wanted)"
        if wanted == "application" != point.consistency
        else point.consistency
    )


def _disk_row(disk: DiskRecord, short_id: str) -> tuple[str, ...]:
    from jobs import human_bytes

    return (
        short_id,
        disk.label or "-",
        disk.disk_id,
        human_bytes(disk.size_bytes),
        human_bytes(disk.figures.read_bytes),
        human_bytes(disk.figures.stored_bytes),
        disk.read_method,
        str(disk.source_facts.get("fully_read_at") or "-")[:10],
        disk.read_reason,
    )
