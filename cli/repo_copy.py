"""`ahvault repo copy`: restore points to a second repository."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.config import RepositorySettings, Settings, load_settings, split_pair
from cli.connections import open_repository
from cli.exit_codes import ExitCode
from cli.options import CommonOptions, with_options
from cli.output import Column, open_output, table
from cli.point_reference import describe_point, find_point, moment_reference
from cli.progress import open_bar
from cli.shared_limits import open_shared_limits

if TYPE_CHECKING:
    from rich.console import RenderableType

    from repository import CopyReport, Repository, RestorePoint, TransferCounters, VerifyReport

EXAMPLES = """Examples:

- `ahvault repo copy /srv/backup /mnt/offsite`
- `ahvault repo copy /srv/backup s3://bucket/ahvault db01 web01@2026-11-23 --target-key-file key`
"""

_COLUMNS = (Column("POINT"), Column("RESULT"), Column("COPY"), Column("STORED", is_number=True))


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """What opens the two repositories; the configured one brings its own settings."""

    source_passphrase_file: Annotated[
        Path | None, typer.Option(help="Passphrase of SRC.", metavar="FILE")
    ] = None
    source_key_file: Annotated[
        Path | None, typer.Option(help="Key file of SRC.", metavar="FILE")
    ] = None
    source_storage_option: Annotated[
        list[str] | None,
        typer.Option(help="For the driver of SRC; may be repeated.", metavar="KEY=VALUE"),
    ] = None
    target_passphrase_file: Annotated[
        Path | None, typer.Option(help="Passphrase of DST.", metavar="FILE")
    ] = None
    target_key_file: Annotated[
        Path | None, typer.Option(help="Key file of DST.", metavar="FILE")
    ] = None
    target_storage_option: Annotated[
        list[str] | None,
        typer.Option(help="For the driver of DST; may be repeated.", metavar="KEY=VALUE"),
    ] = None


@with_options
def copy(
    common: CommonOptions,
    options: CopyOptions,
    src: Annotated[str, typer.Argument(help="Repository to copy from.", metavar="SRC")],
    dst: Annotated[str, typer.Argument(help="Repository to copy to; it exists.", metavar="DST")],
    which: Annotated[
        list[str] | None,
        typer.Argument(help="Restore points (id, VM, VM@TIME); by default all.", metavar="POINT"),
    ] = None,
) -> None:
    """Copy restore points to a second repository, reading and storing only what it lacks.

    The second may lie in another store and have other keys. Copies keep VM, job and time, and say
    what they are copies of. Run it again after any trouble: it goes on where it was. What was
    copied is checked in the end.
    """
    settings = load_settings(common)
    output = open_output(as_json=common.as_json)
    source = _settings(settings, src, "source", options)
    target = _settings(settings, dst, "target", options)
    with open_repository(source) as opened, open_repository(target) as second:
        report, checked = run_copy(opened, second, which)
    output.result(report_as_data(report, checked), lambda: _view(report, checked))
    if report.failed or not checked.is_clean:
        raise typer.Exit(ExitCode.DAMAGE)


def run_copy(
    source: Repository, target: Repository, which: Sequence[str] | None
) -> tuple[CopyReport, VerifyReport]:
    """Copy with a progress bar and check the copies; Ctrl-C stops the engine's threads first."""
    from jobs import open_throttle
    from repository import TransferCounters, VerifyLevel, copy_points

    points = source.points().points
    if which:
        points = [find_point(points, reference) for reference in which]
    stop = threading.Event()
    current = [TransferCounters()]

    def watch(point: RestorePoint, counters: TransferCounters) -> None:
        del point
        current[0] = counters

    with (
        open_shared_limits() as shared,
        open_throttle(source, shared=shared) as reading,
        open_throttle(target, shared=shared) as writing,
        open_bar("copy", lambda: (current[0].read_bytes, current[0].total_bytes)),
    ):
        try:
            report = copy_points(
                source,
                target,
                points,
                session_id=uuid.uuid4().hex,
                on_disk=watch,
                throttle=writing.transfer(direction="write", purpose="copy", stop=stop),
                source_throttle=reading.transfer(direction="read", purpose="copy", stop=stop),
                stop=stop,
            )
            copies = [each.copy for each in report.copied]
            return report, target.verify(VerifyLevel.PRESENCE, points=copies, stop=stop)
        finally:
            stop.set()


def report_as_data(report: CopyReport, checked: VerifyReport) -> dict[str, Any]:
    """The report as plain data."""
    return {
        "copied": [
            {
                "point_id": each.point.id,
                "copy_id": each.copy.id,
                "vm": each.point.vm_name,
                "stored_bytes": each.copy.stored_bytes,
            }
            for each in report.copied
        ],
        "already_there": [
            {"point_id": each.point.id, "copy_id": each.copy.id} for each in report.already_there
        ],
        "failed": [
            {"point_id": each.point.id, "key": each.error.key, "reason": str(each.error)}
            for each in report.failed
        ],
        "is_clean": checked.is_clean,
    }


def _view(report: CopyReport, checked: VerifyReport) -> Iterator[RenderableType]:
    from jobs import human_bytes

    rows = [
        *(
            (moment_reference(each.point), "copied", each.copy.id[:8], each.copy.stored_bytes)
            for each in report.copied
        ),
        *(
            (moment_reference(each.point), "was there", each.copy.id[:8], 0)
            for each in report.already_there
        ),
        *((describe_point(each.point), "DAMAGED", "-", 0) for each in report.failed),
    ]
    yield table(_COLUMNS, ((*row[:3], human_bytes(row[3])) for row in rows))
    for failure in report.failed:
        yield str(failure.error)
    if not checked.is_clean:
        names = ", ".join(finding.key for finding in checked.findings)
        yield f"DAMAGE in the copy: {names}. Run `ahvault verify` there."


def _settings(configured: Settings, url: str, side: str, options: CopyOptions) -> Settings:
    """Settings of one side: those that were given, else the configured ones if it is that one."""
    passphrase_file = getattr(options, f"{side}_passphrase_file")
    key_file = getattr(options, f"{side}_key_file")
    pairs = getattr(options, f"{side}_storage_option") or ()
    given = passphrase_file is not None or key_file is not None or pairs
    if not given and configured.repository.url in (url, str(Path(url).absolute())):
        return configured
    repository = RepositorySettings(
        url=url,
        passphrase_file=passphrase_file,
        key_file=key_file,
        storage_options=dict(split_pair(f"--{side}-storage-option", pair) for pair in pairs),
    )
    return Settings(repository=repository)
