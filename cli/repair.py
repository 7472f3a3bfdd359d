"""`ahvault repair`: save what is good, rely on nothing that is bad."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.config import load_settings
from cli.connections import open_repository
from cli.exit_codes import ExitCode
from cli.options import CommonOptions, RepositoryOptions, with_options
from cli.output import open_output
from cli.progress import open_bar

if TYPE_CHECKING:
    from repository import RepairReport, Repository

EXAMPLES = """Examples:

- `ahvault repair --dry-run`
- `ahvault repair`
"""


@with_options
def repair(
    common: CommonOptions,
    repository: RepositoryOptions,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")
    ] = False,
) -> None:
    """Verify everything, then take what is still good out of what is bad.

    Chunks of bad packs that still open are copied, the index is made again where it is bad, and bad
    packs are put under quarantine: kept, but never relied on. What is lost heals with the next
    backup that reads it in full. Nothing is deleted. Ends with the exit code for damage if it finds
    something that it has no means against.
    """
    settings = load_settings(common, repository)
    output = open_output(as_json=common.as_json)
    with open_repository(settings) as opened:
        report = _run(opened, dry_run=dry_run)
    output.result(_as_data(report), lambda: _view(report))
    if report.not_repairable:
        raise typer.Exit(ExitCode.DAMAGE)


def _run(repository: Repository, *, dry_run: bool) -> RepairReport:
    """Repair with a progress bar; Ctrl-C stops the engine's threads before it goes on its way."""
    stop = threading.Event()
    with open_bar("repair") as bar:
        try:
            return repository.repair(
                dry_run=dry_run,
                on_progress=lambda at: bar.update(at.bytes_done, at.bytes_total),
                stop=stop,
            )
        finally:
            stop.set()


def _as_data(report: RepairReport) -> dict[str, Any]:
    return {
        "is_dry_run": report.is_dry_run,
        "findings": len(report.findings),
        "packs_quarantined": list(report.packs_quarantined),
        "segments_quarantined": list(report.segments_quarantined),
        "packs_indexed": report.packs_indexed,
        "chunks_saved": report.chunks_saved,
        "saved_bytes": report.saved_bytes,
        "not_repairable": [finding.key for finding in report.not_repairable],
    }


def _view(report: RepairReport) -> Iterator[str]:
    from jobs import human_bytes

    if not report.findings and not report.packs_indexed:
        yield "Nothing to repair."
        return
    yield "Dry run, nothing was written. It would be:" if report.is_dry_run else "Repaired:"
    yield (
        f"{report.chunks_saved} chunks ({human_bytes(report.saved_bytes)}) saved from "
        f"{len(report.packs_quarantined)} packs that are under quarantine now"
    )
    yield (
        f"{report.packs_indexed} packs put into the index again; "
        f"{len(report.segments_quarantined)} index segments under quarantine"
    )
    for finding in report.not_repairable:
        yield f"no means against: {finding.key} ({finding.kind.value}: {finding.detail})"
    yield "Run `ahvault verify` to see what is still lost; a full backup of those VMs heals it."
