"""`ahvault verify`: whether what the repository holds is what was written."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from cli.config import load_settings
from cli.connections import open_repository
from cli.exit_codes import ExitCode
from cli.options import CommonOptions, RepositoryOptions, with_options
from cli.output import Output, open_output
from cli.point_reference import find_point
from cli.progress import open_bar

if TYPE_CHECKING:
    from repository import Repository, VerifyBudget, VerifyLevel, VerifyReport

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
    from cli.verify_report import report_as_data, view_report

    budget = _read_budget(_read_level(level), which, every_days, max_gib, max_minutes)
    settings = load_settings(common, repository)
    output = open_output(as_json=common.as_json)
    with open_repository(settings) as opened:
        if coverage:
            _show_coverage(opened, budget or _budget(_read_level(level)), output)
            return
        report = run_verify(opened, _read_level(level), which, budget)
    output.result(report_as_data(report), lambda: view_report(report))
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
    from cli.verify_report import coverage_as_data, view_coverage

    covered = repository.verify_coverage(budget)
    findings = repository.open_findings()
    data = coverage_as_data(covered, findings)
    output.result(data, lambda: view_coverage(covered, findings))
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


def _read_level(name: str) -> VerifyLevel:
    from repository import VerifyLevel

    try:
        return VerifyLevel[name.upper()]
    except KeyError:
        known = ", ".join(level.name.lower() for level in VerifyLevel)
        raise typer.BadParameter(f"{name!r} is none of: {known}.", param_hint="--level") from None
