"""`ahvault sessions`: what earlier sessions did, from the repository alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from cli.config import load_settings
from cli.connections import open_repository
from cli.errors import SessionUnknown
from cli.exit_codes import ExitCode
from cli.options import CommonOptions, RepositoryOptions, with_options
from cli.output import Column, open_output, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from jobs import SessionResult
    from repository import ReportListing, Repository

EXAMPLES = """Examples:

- `ahvault sessions`
- `ahvault sessions --last 100`
- `ahvault sessions --json | jq '.sessions[] | select(.status != "success")'`
"""

_COLUMNS = (
    Column("SESSION"),
    Column("JOB"),
    Column("STARTED (UTC)"),
    Column("RESULT"),
    Column("TIME", is_number=True),
    Column("VMS", is_number=True),
    Column("FAILED", is_number=True),
    Column("READ", is_number=True),
    Column("STORED", is_number=True),
    Column("RATIO", is_number=True),
    Column("RATE", is_number=True),
)


@with_options
def sessions(
    common: CommonOptions,
    repository: RepositoryOptions,
    last: Annotated[int, typer.Option(min=1, help="How many of the newest to list.")] = 20,
) -> None:
    """List earlier sessions; `ahvault session show` tells one whole.

    Reports lie in the repository, so this needs neither a cluster nor a Prefect server.
    """
    from cli.session_report import session_as_data

    settings = load_settings(common, repository)
    output = open_output(as_json=common.as_json)
    with open_repository(settings) as opened:
        listing = opened.reports(newest=last)
    newest = _results(listing)
    output.result(
        {
            "sessions": [session_as_data(result) for result in newest],
            "damaged": [{"key": each.key, "detail": each.detail} for each in listing.damaged],
        },
        lambda: _view(newest),
    )
    for record in listing.damaged:
        output.note(f"ahvault: {record.key} cannot be read: {record.detail}")
    if listing.damaged:
        raise typer.Exit(ExitCode.DAMAGE)


def _results(listing: ReportListing) -> list[SessionResult]:
    from jobs import SessionResult

    return [SessionResult.model_validate(report) for report in listing.reports]


def find_session(repository: Repository, which: str | None) -> SessionResult:
    """The session whose id starts so, or the newest. Raises `SessionUnknown` for none or several."""
    listing = repository.reports(newest=1) if which is None else repository.reports()
    results = _results(listing)
    found = [result for result in results if result.session_id.startswith(which or "")]
    if len(found) != 1:
        raise SessionUnknown(which or "", matches=len(found))
    return found[0]


def _view(results: Sequence[SessionResult]) -> Iterator[RenderableType]:
    if not results:
        yield "No session has run yet. `ahvault backup` runs the first."
        return
    yield table(_COLUMNS, (_row(result) for result in results))


def _row(result: SessionResult) -> tuple[str, ...]:
    from jobs import human_bytes, human_duration, human_rate, human_ratio, utc_text

    return (
        result.session_id[:8],
        result.job,
        utc_text(result.started_at),
        result.status,
        human_duration(result.duration_s),
        str(len(result.vms)),
        str(sum(vm.status == "failed" for vm in result.vms)),
        human_bytes(result.read_bytes),
        human_bytes(result.stored_bytes),
        human_ratio(result.read_bytes, result.stored_bytes),
        human_rate(result.read_bytes, result.transfer_s),
    )
