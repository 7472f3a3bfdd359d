"""`ahvault verify`: whether what the repository holds is what was written."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.config import load_settings
from cli.connections import open_repository
from cli.exit_codes import ExitCode
from cli.options import CommonOptions, RepositoryOptions, with_options
from cli.output import Column, open_output, table
from cli.point_reference import find_point
from cli.progress import open_bar

if TYPE_CHECKING:
    from rich.console import RenderableType

    from repository import Concerned, Finding, Repository, VerifyLevel, VerifyReport

EXAMPLES = """Examples:

- `ahvault verify`
- `ahvault verify --level presence`
- `ahvault verify db01 web01`
"""

LEVEL_HELP = (
    "How deep: records (all records and maps), presence (every pack is there), stored (every "
    "stored byte), content (every chunk decodes to what its id says)."
)

_FINDING_COLUMNS = (
    Column("OBJECT"),
    Column("WHAT"),
    Column("DETAIL", can_wrap=True),
    Column("RESTORE POINTS CONCERNED", can_wrap=True),
)


@with_options
def verify(
    common: CommonOptions,
    repository: RepositoryOptions,
    which: Annotated[
        list[str] | None,
        typer.Argument(
            help="Restore points (id, VM, VM@TIME); by default all.", metavar="[POINT]..."
        ),
    ] = None,
    level: Annotated[str, typer.Option(help=LEVEL_HELP, metavar="LEVEL")] = "content",
) -> None:
    """Check that what the repository holds is what was written, and name what is not.

    Needs the repository alone, no cluster. Ends with the exit code for damage if anything is found.
    """
    settings = load_settings(common, repository)
    output = open_output(as_json=common.as_json)
    chosen_level = _read_level(level)
    with open_repository(settings) as opened:
        report = run_verify(opened, chosen_level, which)
    output.result(report_as_data(report), lambda: _view(report))
    if not report.is_clean:
        raise typer.Exit(ExitCode.DAMAGE)


def run_verify(
    repository: Repository, level: VerifyLevel, which: Sequence[str] | None
) -> VerifyReport:
    """Verify with a progress bar; Ctrl-C stops the engine's threads before it goes on its way."""
    points = None
    if which:
        known = repository.points().points
        points = [find_point(known, reference) for reference in which]
    stop = threading.Event()
    with open_bar("verify") as bar:
        try:
            return repository.verify(
                level,
                points=points,
                on_progress=lambda at: bar.update(at.bytes_done, at.bytes_total),
                stop=stop,
            )
        finally:
            stop.set()


def report_as_data(report: VerifyReport) -> dict[str, Any]:
    """The report as plain data."""
    return {
        "is_clean": report.is_clean,
        "level": report.level.name.lower(),
        "points_checked": report.points_checked,
        "disks_checked": report.disks_checked,
        "objects_checked": report.objects_checked,
        "packs_checked": report.packs_checked,
        "chunks_checked": report.chunks_checked,
        "bytes_checked": report.bytes_checked,
        "findings": [_finding_as_data(finding) for finding in report.findings],
    }


def _read_level(name: str) -> VerifyLevel:
    from repository import VerifyLevel

    try:
        return VerifyLevel[name.upper()]
    except KeyError:
        known = ", ".join(level.name.lower() for level in VerifyLevel)
        raise typer.BadParameter(f"{name!r} is none of: {known}.", param_hint="--level") from None


def _finding_as_data(finding: Finding) -> dict[str, Any]:
    return {
        "key": finding.key,
        "kind": finding.kind.value,
        "detail": finding.detail,
        "concerned": [
            {
                "point_id": concerned.point_id,
                "vm": concerned.vm_name,
                "disk_id": concerned.disk_id,
                "ranges_bytes": [[part.start_bytes, part.end_bytes] for part in concerned.extents],
            }
            for concerned in finding.concerned
        ],
    }


def _view(report: VerifyReport) -> Iterator[RenderableType]:
    from jobs import human_bytes

    checked = (
        f"{report.points_checked} restore points, {report.disks_checked} disks, "
        f"{report.objects_checked} objects, {report.packs_checked} packs, "
        f"{report.chunks_checked} chunks, {human_bytes(report.bytes_checked)}"
    )
    yield f"Checked to level {report.level.name.lower()}: {checked}."
    if report.is_clean:
        yield "No damage was found."
        return
    yield f"DAMAGE: {len(report.findings)} objects are not what was written."
    yield table(_FINDING_COLUMNS, (_finding_row(finding) for finding in report.findings))
    yield "Restore points that are not named here are whole. Keep the damaged objects until repaired."


def _finding_row(finding: Finding) -> tuple[str, ...]:
    concerned = "; ".join(_describe_concerned(part) for part in finding.concerned)
    return (finding.key, finding.kind.value, finding.detail, concerned or "none")


def _describe_concerned(concerned: Concerned) -> str:
    from jobs import human_bytes

    disk = f" disk {concerned.disk_id}" if concerned.disk_id else ""
    size_bytes = sum(part.end_bytes - part.start_bytes for part in concerned.extents)
    ranges = (
        f", {human_bytes(size_bytes)} from byte {concerned.extents[0].start_bytes}"
        if size_bytes
        else ""
    )
    return f"{concerned.vm_name} {concerned.point_id[:8]}{disk}{ranges}"
