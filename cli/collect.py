"""`ahvault collect`: free the space of what no restore point needs any more."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cli.config import load_settings
from cli.connections import open_repository
from cli.exit_codes import ExitCode
from cli.options import CommonOptions, RepositoryOptions, with_options
from cli.output import Column, open_output, table
from cli.progress import open_bar

if TYPE_CHECKING:
    from rich.console import RenderableType

    from repository import CollectReport, CollectSettings, Repository

EXAMPLES = """Examples:

- `ahvault collect --dry-run`
- `ahvault collect` once a day
- `ahvault collect --cancel`
- `ahvault collect --discard-quarantined` once damaged objects are of no more use to anybody
- `ahvault collect --undelete-hours 0 --grace-hours 0` at once, while no session is running
"""

_GIB = 1024**3
_COLUMNS = (Column("OBJECTS"), Column("TO DELETE", is_number=True))


@with_options
def collect(
    common: CommonOptions,
    repository: RepositoryOptions,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be deleted and rewritten.")
    ] = False,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Give up the plan that waits; nothing is deleted.")
    ] = False,
    undelete_hours: Annotated[
        float, typer.Option(min=0, help="How long forgotten restore points can be brought back.")
    ] = 168,
    grace_hours: Annotated[
        float,
        typer.Option(
            min=0,
            help="How long a plan rests before anything is deleted. Below 24 only while no session "
            "is running.",
        ),
    ] = 48,
    rewrite_dead_percent: Annotated[
        int, typer.Option(min=1, max=100, help="Rewrite packs with more dead bytes than this.")
    ] = 25,
    rewrite_budget_gib: Annotated[
        float, typer.Option(min=0, help="Read at most so much in one run to rewrite packs.")
    ] = 8,
    discard_quarantined: Annotated[
        bool,
        typer.Option(
            "--discard-quarantined",
            help="Also delete what is under quarantine and needed by no restore point.",
        ),
    ] = False,
    only_collector: Annotated[
        bool,
        typer.Option(
            "--only-collector",
            help="Vouch that nobody else collects, for stores that cannot create exclusively.",
        ),
    ] = False,
) -> None:
    """Free the space of what no restore point needs any more, one step per call.

    The first call plans, a call after the grace time deletes, so it belongs into a daily timer.
    Backups and restores may run beside it; it can be stopped anywhere and called again.
    """
    from repository import CollectSettings, CollectStage

    settings = load_settings(common, repository)
    output = open_output(as_json=common.as_json)
    how = CollectSettings(
        undelete_hours=undelete_hours,
        grace_hours=grace_hours,
        rewrite_dead_percent=rewrite_dead_percent,
        rewrite_bytes_max=int(rewrite_budget_gib * _GIB),
        discard_quarantined=discard_quarantined,
        is_only_collector=only_collector,
    )
    with open_repository(settings) as opened:
        if cancel:
            report = opened.cancel_collection("cancelled by the operator")
        else:
            report = _run(opened, how, dry_run=dry_run)
    data = {**asdict(report), "dry_run": dry_run, "delete_requests": report.delete_requests}
    output.result(data, lambda: _view(report, dry_run=dry_run))
    if report.stage is CollectStage.INCOMPLETE and not dry_run:
        raise typer.Exit(ExitCode.FAILED)


def _run(repository: Repository, how: CollectSettings, *, dry_run: bool) -> CollectReport:
    """Collect with a progress bar; Ctrl-C stops between two objects."""
    from jobs import collect_cache

    stop = threading.Event()
    with open_bar("collect") as bar:
        try:
            return repository.collect(
                how,
                dry_run=dry_run,
                cache=collect_cache(repository.id),
                on_progress=lambda at: bar.update(at.objects_done, at.objects_total),
                stop=stop,
            )
        finally:
            stop.set()


def _view(report: CollectReport, *, dry_run: bool) -> Iterator[RenderableType]:
    from jobs import human_bytes

    reason = f" ({report.reason})" if report.reason else ""
    would = "Dry run, nothing was changed. " if dry_run else ""
    yield f"{would}Generation {report.generation}: {report.stage}{reason}."
    if report.quarantined_objects:
        yield (
            f"{report.quarantined_objects} damaged objects "
            f"({human_bytes(report.quarantined_bytes)}) are needed by nothing and stay, because they "
            "are under quarantine: --discard-quarantined lets them go."
        )
    if not report.object_counts:
        return
    yield ""
    yield table(_COLUMNS, sorted(report.object_counts.items()))
    yield ""
    yield (
        f"{len(report.points)} forgotten restore points, {human_bytes(report.freed_bytes)} "
        f"in {report.delete_requests} objects, one request each."
    )
    if report.rewritten_packs:
        yield (
            f"{report.rewritten_packs} packs ({human_bytes(report.rewritten_bytes)}) rewritten"
            + (f" as {human_bytes(report.stored_bytes)}." if not dry_run else " first.")
        )
