"""`ahvault export`: one disk of a restore point as a raw image file."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.config import load_settings
from cli.connections import open_repository
from cli.errors import FileInTheWay
from cli.exit_codes import ExitCode
from cli.options import CommonOptions, RepositoryOptions, with_options
from cli.output import open_output
from cli.point_reference import find_disk, find_point, moment_reference
from cli.progress import open_bar
from cli.shared_limits import open_shared_limits

if TYPE_CHECKING:
    from repository import Extent, Repository, RestorePoint, TransferCounters

EXAMPLES = """Examples:

- `ahvault export db01 scsi.1 db01-data.raw`
- `ahvault export db01@2026-11-23T20:15 scsi.0 db01.raw --force`
"""


@with_options
def export(
    common: CommonOptions,
    repository: RepositoryOptions,
    point: Annotated[
        str,
        typer.Argument(
            help="Restore point: its id, a VM (its newest), or VM@TIME.", metavar="POINT"
        ),
    ],
    disk: Annotated[
        str,
        typer.Argument(
            help="Disk: its label or id, as in `ahvault points --disks`.", metavar="DISK"
        ),
    ],
    file: Annotated[
        Path,
        typer.Argument(
            help="Raw image to write; holes where the disk is zero.", metavar="FILE", dir_okay=False
        ),
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    allow_damaged: Annotated[
        bool,
        typer.Option("--allow-damaged", help="Write zeros for what is damaged, and say where."),
    ] = False,
) -> None:
    """Write one disk of a restore point to a raw, sparse image file.

    Needs the repository alone: no cluster, no server. The file appears under its name only when it
    is complete, and every chunk is checked against its digest on the way.
    """
    settings = load_settings(common, repository)
    output = open_output(as_json=common.as_json)
    if file.exists() and not force:
        raise FileInTheWay(file)
    with open_repository(settings) as opened:
        found = find_point(opened.points().points, point)
        record = find_disk(found, disk)
        facts = write_image(opened, found, record.disk_id, file, allow_damaged=allow_damaged)
    facts |= {"point_id": found.id, "disk_id": record.disk_id, "file": str(file)}
    name = f"{moment_reference(found)} {record.label or record.disk_id}"
    output.result(facts, lambda: _view(name, file, facts))
    if facts["damaged_ranges_bytes"]:
        raise typer.Exit(ExitCode.DAMAGE)


def write_image(
    repository: Repository,
    point: RestorePoint,
    disk_id: str,
    path: Path,
    *,
    allow_damaged: bool = False,
) -> dict[str, Any]:
    """Write the disk beside `path` and move it there when it is durable.

    On any error, Ctrl-C included, the unfinished file is removed. Returns the figures. Damage that is
    allowed reads as zeros in the file; its ranges are among the figures.
    """
    from jobs import open_throttle
    from repository import FileTarget, TransferCounters

    reader = repository.open_disk(point, disk_id)
    counters = TransferCounters()
    stop = threading.Event()
    unfinished = path.with_name(f".{path.name}.unfinished-{os.getpid()}")
    started_s = time.monotonic()
    damaged: list[Extent] = []
    try:
        with (
            open_shared_limits() as shared,
            open_throttle(repository, shared=shared) as engine,
            FileTarget(unfinished, reader.size_bytes) as target,
            open_bar(path.name, sample=lambda: (_done_bytes(counters), reader.size_bytes)),
        ):
            try:
                reader.restore_to(
                    target,
                    target_is_blank=True,
                    counters=counters,
                    throttle=engine.transfer(direction="read", purpose="restore", stop=stop),
                    stop=stop,
                    on_damage=damaged.append if allow_damaged else None,
                )
            finally:
                stop.set()
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return {
        "size_bytes": reader.size_bytes,
        "written_bytes": counters.new_bytes,
        "duration_s": round(time.monotonic() - started_s, 3),
        "damaged_ranges_bytes": sorted([part.start_bytes, part.end_bytes] for part in damaged),
    }


def _done_bytes(counters: TransferCounters) -> int:
    return counters.new_bytes + counters.zero_bytes


def _view(name: str, file: Path, facts: dict[str, Any]) -> Iterator[str]:
    yield _sentence(name, file, facts)
    for start, end in facts["damaged_ranges_bytes"]:
        yield f"DAMAGE: bytes {start} to {end} could not be read and are zeros in the file."


def _sentence(name: str, file: Path, facts: dict[str, Any]) -> str:
    from jobs import human_bytes, human_duration, human_rate

    written, size, duration_s = facts["written_bytes"], facts["size_bytes"], facts["duration_s"]
    return (
        f"Wrote {name} to {file}: {human_bytes(size)}, of which {human_bytes(written)} is data, "
        f"in {human_duration(duration_s)} ({human_rate(written, duration_s)})"
    )
