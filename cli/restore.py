"""`ahvault restore`: a VM again, from a restore point, beside whatever exists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from cli.config import Settings, load_settings
from cli.connections import (
    cluster_block,
    open_cluster,
    open_repository,
    repository_block,
    workers_block,
)
from cli.exit_codes import ExitCode
from cli.local_prefect import flows_ready, prepare_prefect, spawn_early
from cli.options import (
    ClusterOptions,
    CommonOptions,
    RepositoryOptions,
    WorkerOptions,
    with_options,
)
from cli.output import open_output
from cli.point_reference import find_point
from cli.session_progress import watch_session

if TYPE_CHECKING:
    from rich.console import RenderableType

    from jobs import RestoreResult

EXAMPLES = """Examples:

- `ahvault restore db01 --name db01-restored`
- `ahvault restore db01@2026-11-23T20:15 --name db01-monday --power-on`
- `ahvault restore 4f1c0b7e --name db01-test --container scratch`
- `ahvault restore db01 --name db01-rescued --allow-damaged`
"""


@with_options
def restore(
    common: CommonOptions,
    cluster: ClusterOptions,
    repository: RepositoryOptions,
    workers: WorkerOptions,
    point: Annotated[
        str, typer.Argument(help="Restore point: its id, a VM (its newest), or VM@TIME.")
    ],
    name: Annotated[str, typer.Option(help="Name of the new VM; no VM may bear it yet.")],
    power_on: Annotated[bool, typer.Option("--power-on", help="Start the VM when it is there.")] = (
        False
    ),
    container: Annotated[
        str | None,
        typer.Option(help="Storage container for all disks; by default each disk's own."),
    ] = None,
    allow_damaged: Annotated[
        bool,
        typer.Option(
            "--allow-damaged",
            help="Go on where stored data is damaged: zeros for it, and say where.",
        ),
    ] = False,
) -> None:
    """Re-create a VM from a restore point, under a new name.

    No VM that exists is touched. Disks, memory, CPUs, boot mode, networks and categories are as
    they were at the restore point; what cannot be carried over is said in warnings.
    """
    if not name.strip():
        raise typer.BadParameter("a VM needs a name.", param_hint="--name")
    settings = load_settings(common, cluster, repository, workers)
    output = open_output(as_json=common.as_json)
    prepare_prefect(verbose=common.verbose)
    spawn_early()
    result = run_restore(
        settings,
        point,
        name=name,
        container=container,
        power_on=power_on,
        allow_damaged=allow_damaged,
    )
    output.result(result.model_dump(mode="json"), lambda: _view(result))
    if result.damaged:
        raise typer.Exit(ExitCode.DAMAGE)


def run_restore(
    settings: Settings,
    point: str,
    *,
    name: str,
    container: str | None,
    power_on: bool,
    allow_damaged: bool = False,
) -> RestoreResult:
    """Restore one VM and return what was made. `prepare_prefect` must have been called.

    A wrong name of the point, a wrong login or an unreachable repository is found before the
    embedded server is waited for.
    """
    with open_repository(settings) as opened:
        found = find_point(opened.points().points, point)
    workers_block(settings)
    with open_cluster(settings) as client:
        client.clusters()
    from flows.restore import restore_vm
    from jobs import observed_by

    with flows_ready(), watch_session() as observer, observed_by(observer):
        return restore_vm(
            cluster=cluster_block(settings),
            repository=repository_block(settings),
            workers=workers_block(settings),
            point_id=found.id,
            vm_name=name,
            container=container,
            power_on=power_on,
            allow_damaged=allow_damaged,
        )


def _view(result: RestoreResult) -> Iterator[RenderableType]:
    from jobs import human_bytes, human_duration

    state = "running" if result.is_on else "powered off"
    yield (
        f"Restored {result.source_vm_name} as {result.vm_name} ({result.vm_id}), {state}: "
        f"{result.disk_count} disks, {human_bytes(result.provisioned_bytes)} provisioned, "
        f"{human_bytes(result.restored_bytes)} written in {human_duration(result.duration_s)}"
        f" by {result.worker or 'no worker'}"
    )
    for name in result.volume_groups:
        yield f"Volume group {name} was made and attached to it"
    for text in result.warnings:
        yield f"warning: {text}"
    for disk in result.damaged:
        yield (
            f"DAMAGE: {human_bytes(disk.lost_bytes)} of disk {disk.label or disk.disk_id} could not "
            "be read and are zeros in the new VM:"
        )
        for start, end in disk.ranges_bytes:
            yield f"  bytes {start} to {end}"
