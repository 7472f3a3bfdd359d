"""`ahvault doctor`: everything a session needs, looked at without touching a VM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import typer

from cli.config import Settings, load_settings
from cli.connections import open_cluster, open_repository
from cli.exit_codes import ExitCode
from cli.options import (
    ClusterOptions,
    CommonOptions,
    RepositoryOptions,
    WorkerOptions,
    with_options,
)
from cli.output import Column, open_output, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from nutanix import Finding

EXAMPLES = """Examples:

- `ahvault doctor`
- `ahvault doctor --json | jq '.findings[] | select(.level != "ok")'`
"""

_COLUMNS = (
    Column("CHECK"),
    Column("RESULT"),
    Column("WHAT WAS FOUND", can_wrap=True),
    Column("WHAT TO DO", can_wrap=True),
)


@with_options
def doctor(
    common: CommonOptions,
    cluster: ClusterOptions,
    repository: RepositoryOptions,
    workers: WorkerOptions,
) -> None:
    """Check connection, certificate, clocks, rights, workers and repository, and say what to fix.

    Changes nothing on the cluster and powers nothing on. Ends with code 1 if a session would fail.
    """
    settings = load_settings(common, cluster, repository, workers)
    output = open_output(as_json=common.as_json)
    findings = list(_examine(settings))
    output.result(
        {
            "findings": [
                {"check": each.check, "level": each.level, "text": each.text, "advice": each.advice}
                for each in findings
            ]
        },
        lambda: _view(findings),
    )
    if any(each.level == "problem" for each in findings):
        raise typer.Exit(ExitCode.FAILED)


def _examine(settings: Settings) -> Iterator[Finding]:
    from cli.connections import worker_specs
    from jobs import check_repository, check_workers
    from nutanix import Level, diagnose
    from repository import SystemClock

    with open_cluster(settings) as client:
        reached = True
        for finding in diagnose(client):
            reached = reached and not (
                finding.level is Level.PROBLEM and finding.check in ("connection", "login")
            )
            yield finding
        if reached:
            yield from check_workers(client, worker_specs(settings))
    yield from check_repository(lambda: open_repository(settings), SystemClock())


def _view(findings: Sequence[Finding]) -> Iterator[RenderableType]:
    yield table(_COLUMNS, ((each.check, each.level, each.text, each.advice) for each in findings))
    problems = sum(each.level == "problem" for each in findings)
    yield ""
    yield f"{problems} problems." if problems else "A session has what it needs."
