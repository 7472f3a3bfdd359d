"""`ahvault verify`: whether what the repository holds is what was written."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.config import load_settings
from cli.connections import open_repository
from cli.exit_codes import ExitCode
from cli.options import CommonOptions, RepositoryOptions, with_options
from cli.output import Column, Output, open_output, table
from cli.point_reference import find_point
from cli.progress import open_bar

if TYPE_CHECKING:
    from rich.console import RenderableType

    from repository import (
        Concerned,
        Finding,
        OpenFinding,
        Repository,
        VerifyBudget,
        VerifyCoverage,
        VerifyLevel,
        VerifyReport,
    )

EXAMPLES = """Examples:

- `ahvault verify`
- `ahvault verify --level presence`
- `ahvault verify db01 web01`
- `ahvault verify --every-days 30 --max-gib 200 --max-minutes 60` once a day: all of it within a month
- `ahvault verify --coverage`
"""

LEVEL_HELP = (
    "How deep: records (all records and maps), presence (every pack is there), stored (every "
    "stored byte), content (every chunk decodes to what its id says)."
)

_GIB = 1024**3
_DAYS = 30.0
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
        typer.Argument(help="Restore points (id, VM, VM@TIME); by default all.", metavar="POINT"),
    ] = None,
    level: Annotated[str, typer.Option(help=LEVEL_HELP, metavar="LEVEL")] = "content",
    every_days: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="Read only packs whose last proof at this level is older, the oldest first.",
            metavar="DAYS",
        ),
    ] = None,
    max_gib: Annotated[
        float | None,
        typer.Option(
            min=0, help="Read no more than so much of them, but at least one.", metavar="GIB"
        ),
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option(min=0, help="Begin no pack after so many minutes.", metavar="MINUTES"),
    ] = None,
    coverage: Annotated[
        bool,
        typer.Option(
            "--coverage", help="Read no pack: say what earlier verifications proved and found."
        ),
    ] = False,
) -> None:
    """Check that what the repository holds is what was written, and name what is not.

    Needs the repository alone, no cluster. Ends with the exit code for damage if anything is found,
    or was found earlier and has not been seen mended. With a limit of time or bytes, run it daily:
    it goes on where it left off, and what was read is proven anew every 30 days (--every-days).
    """
    budget = _read_budget(_read_level(level), which, every_days, max_gib, max_minutes)
    settings = load_settings(common, repository)
    output = open_output(as_json=common.as_json)
    with open_repository(settings) as opened:
        if coverage:
            _show_coverage(opened, budget or _budget(_read_level(level)), output)
            return
        report = run_verify(opened, _read_level(level), which, budget)
    output.result(report_as_data(report), lambda: _view(report))
    if not report.is_clean:
        raise typer.Exit(ExitCode.DAMAGE)


def _read_budget(
    level: VerifyLevel,
    which: Sequence[str] | None,
    every_days: float | None,
    max_gib: float | None,
    max_minutes: float | None,
) -> VerifyBudget | None:
    """The budget that the options make; None if none of them is given."""
    if every_days is None and max_gib is None and max_minutes is None:
        return None
    if which:
        raise typer.BadParameter("limits are for all of the repository, not for restore points.")
    return _budget(level, every_days, max_gib, max_minutes)


def _budget(
    level: VerifyLevel,
    every_days: float | None = None,
    max_gib: float | None = None,
    max_minutes: float | None = None,
) -> VerifyBudget:
    from repository import VerifyBudget

    return VerifyBudget(
        level=level,
        every_days=_DAYS if every_days is None else every_days,
        max_bytes=None if max_gib is None else int(max_gib * _GIB),
        max_duration_s=None if max_minutes is None else max_minutes * 60,
    )


def _show_coverage(repository: Repository, budget: VerifyBudget, output: Output) -> None:
    covered = repository.verify_coverage(budget)
    findings = repository.open_findings()
    data = {
        **_coverage_as_data(covered),
        "open_findings": [_open_finding_as_data(each) for each in findings],
    }
    output.result(data, lambda: _view_coverage(covered, findings))
    if findings:
        raise typer.Exit(ExitCode.DAMAGE)


def run_verify(
    repository: Repository,
    level: VerifyLevel,
    which: Sequence[str] | None,
    budget: VerifyBudget | None = None,
) -> VerifyReport:
    """Verify with a progress bar; Ctrl-C stops the engine's threads before it goes on its way."""
    points = None
    if which:
        known = repository.points().points
        points = [find_point(known, reference) for reference in which]
    stop = threading.Event()
    with open_bar("verify") as bar:
        show = lambda at: bar.update(at.bytes_done, at.bytes_total)  # noqa: E731 - used twice
        try:
            if budget is not None:
                return repository.verify_within(budget, on_progress=show, stop=stop)
            return repository.verify(level, points=points, on_progress=show, stop=stop)
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
        "still_open": [_open_finding_as_data(each) for each in report.still_open],
        "mended": [_open_finding_as_data(each) for each in report.mended],
        "coverage": _coverage_as_data(report.coverage) if report.coverage else None,
    }


def _open_finding_as_data(each: OpenFinding) -> dict[str, Any]:
    from jobs import utc_text

    return {
        **_finding_as_data(each.finding),
        "first_seen_at": utc_text(each.first_seen_at),
        "last_seen_at": utc_text(each.last_seen_at),
    }


def _coverage_as_data(covered: VerifyCoverage) -> dict[str, Any]:
    return {
        "level": covered.level.name.lower(),
        "every_days": covered.every_days,
        "packs": covered.pack_count,
        "stored_bytes": covered.stored_bytes,
        "covered_packs": covered.covered_pack_count,
        "covered_bytes": covered.covered_bytes,
        "covered_share": round(covered.covered_share, 6),
        "oldest_age_s": round(covered.oldest_age_s),
        "open_finding_count": covered.open_finding_count,
        "damaged_point_count": covered.damaged_point_count,
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
    if report.coverage:
        yield _coverage_sentence(report.coverage)
    if report.mended:
        yield f"Mended since it was found: {', '.join(each.finding.key for each in report.mended)}."
    if report.is_clean:
        yield "No damage was found."
        return
    if report.findings:
        yield f"DAMAGE: {len(report.findings)} objects are not what was written."
        yield table(_FINDING_COLUMNS, (_finding_row(finding) for finding in report.findings))
    yield from _view_open(report.still_open)
    yield "Restore points that are not named here are whole. Keep the damaged objects until repaired."


def _view_open(findings: Sequence[OpenFinding]) -> Iterator[RenderableType]:
    """Findings of earlier verifications; nothing if there are none."""
    if not findings:
        return
    yield f"DAMAGE: {len(findings)} earlier findings have not been seen mended."
    yield table(_FINDING_COLUMNS, (_finding_row(each.finding) for each in findings))


def _view_coverage(
    covered: VerifyCoverage, findings: Sequence[OpenFinding]
) -> Iterator[RenderableType]:
    yield _coverage_sentence(covered)
    if not findings:
        yield "No damage is known."
    yield from _view_open(findings)


def _coverage_sentence(covered: VerifyCoverage) -> str:
    from jobs import human_bytes, human_span

    oldest = human_span(timedelta(seconds=covered.oldest_age_s))
    return (
        f"Proven at level {covered.level.name.lower()} within {covered.every_days:g} days: "
        f"{covered.covered_share:.1%} ({human_bytes(covered.covered_bytes)} of "
        f"{human_bytes(covered.stored_bytes)}); the oldest proof is {oldest} old."
    )


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
