"""`ahvault blocks`: the configured connections as blocks on a Prefect server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from cli.config import load_settings
from cli.connections import cluster_block, repository_block, workers_block
from cli.options import (
    ClusterOptions,
    CommonOptions,
    RepositoryOptions,
    WorkerOptions,
    with_options,
)
from cli.output import open_output
from cli.remote_prefect import require_server

EXAMPLES = """Examples:

- `ahvault blocks`
- `ahvault blocks --name branch-office`
"""


@with_options
def blocks(
    common: CommonOptions,
    cluster: ClusterOptions,
    repository: RepositoryOptions,
    workers: WorkerOptions,
    name: Annotated[
        str, typer.Option(help="Name of the three blocks; prefect.yaml asks for `main`.")
    ] = "main",
) -> None:
    """Save the configured connections as blocks on the Prefect server at PREFECT_API_URL.

    `ahvault serve` does so by itself; deployments on a work pool need it once, and after a change.
    """
    settings = load_settings(common, cluster, repository, workers)
    output = open_output(as_json=common.as_json)
    require_server()
    from flows.deployments import save_connections

    saved = save_connections(
        cluster_block(settings), repository_block(settings), workers_block(settings), name=name
    )
    output.result({"name": name, "blocks": sorted(saved)}, lambda: _view(name, saved))


def _view(name: str, saved: dict[str, object]) -> Iterator[str]:
    yield f"Saved under the name {name}: {', '.join(sorted(saved))}."
