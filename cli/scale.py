"""`ahvault scale`: many machines, by Prefect's own means."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

from cli.config import load_settings
from cli.connections import cluster_block, repository_block, worker_specs, workers_block
from cli.errors import PrefectUnavailable
from cli.job_choice import JobFiles, scheduled_jobs
from cli.local_prefect import prepare_prefect
from cli.options import (
    ClusterOptions,
    CommonOptions,
    RepositoryOptions,
    WorkerOptions,
    with_options,
)
from cli.output import open_output

if TYPE_CHECKING:
    from jobs import WorkerSpec

app = typer.Typer(
    help="Many machines: a Prefect server of your own, and a Prefect worker on every worker VM.",
    no_args_is_help=True,
)

SETUP_EXAMPLES = """Examples:

- `PREFECT_API_URL=http://prefect.example.com:4200/api ahvault scale setup nightly.yaml`
"""


@app.callback()
def scale() -> None:
    """Many machines: a Prefect server of your own, and a Prefect worker on every worker VM."""


@app.command("setup", epilog=SETUP_EXAMPLES)
@with_options
def setup(
    common: CommonOptions,
    cluster: ClusterOptions,
    repository: RepositoryOptions,
    workers: WorkerOptions,
    job_files: JobFiles = None,
) -> None:
    """Prepare the Prefect server that PREFECT_API_URL names, or bring it up to date.

    Saves the configured connections as blocks, and makes work pools, a queue per worker, the
    deployments of jobs and maintenance, and the watch over runs that lost their machine. Then start the
    Prefect workers it prints. May be run again at any time.
    """
    settings = load_settings(common, cluster, repository, workers)
    output = open_output(as_json=common.as_json)
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        raise PrefectUnavailable(
            None, "set PREFECT_API_URL to your server: an embedded one serves nobody else"
        )
    prepare_prefect(verbose=False)
    from flows.deployments import save_connections
    from flows.scale_out import CONTROL_POOL, prepare_server
    from tasks import MOVERS_POOL

    jobs = scheduled_jobs(job_files)
    specs = worker_specs(settings)
    blocks = cluster_block(settings), repository_block(settings), workers_block(settings)
    try:
        made: dict[str, Any] = prepare_server(save_connections(*blocks), jobs, specs)
    except (RuntimeError, OSError) as error:
        raise PrefectUnavailable(url, str(error)) from error
    made["commands"] = [
        f"prefect worker start --type process --pool {CONTROL_POOL}",
        *(_worker_command(spec, MOVERS_POOL) for spec in specs if spec.queue),
    ]
    output.result(made, lambda: _view(made))


def _worker_command(spec: WorkerSpec, pool: str) -> str:
    return (
        f"prefect worker start --type process --pool {pool} --work-queue {spec.queue} "
        f"--name {spec.vm} --limit {spec.slots}"
    )


def _view(made: dict[str, Any]) -> Iterator[str]:
    for kind in ("pools", "queues", "deployments", "automations"):
        yield f"{kind.capitalize()}: {', '.join(made[kind]) or 'none'}"
    yield "Prefect workers to keep running, the first beside the server, the others on their worker VM:"
    yield from (f"  {command}" for command in made["commands"])
