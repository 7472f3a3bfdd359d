"""`ahvault serve`: one machine, scheduled. A Prefect server with its UI, and our jobs served from it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.config import Settings, load_settings, user_data_dir
from cli.connections import (
    cluster_block,
    open_cluster,
    open_repository,
    repository_block,
    workers_block,
)
from cli.errors import ConfigInvalid, PrefectUnavailable
from cli.job_choice import JobFiles, scheduled_jobs
from cli.options import (
    ClusterOptions,
    CommonOptions,
    RepositoryOptions,
    WorkerOptions,
    with_options,
)
from cli.output import open_output, say
from cli.prefect_server import bound_socket, spawn_server, stop_server, wait_until_healthy

if TYPE_CHECKING:
    from jobs import ScheduledJob

EXAMPLES = """Examples:

- `ahvault serve nightly.yaml`
- `ahvault serve jobs/*.yaml --port 4200`
"""

START_TIMEOUT_S = 120.0
"""The first start creates the database, which takes longer than any later one."""

# What a server that keeps its history needs; why is said in docs/serve.md. Whatever the
# environment sets stays.
_SERVER_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
        "prefect.server.concurrency.lease_storage.filesystem"
    ),
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "100",
}
_CLIENT_SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PREFECT_RUNNER_POLL_FREQUENCY": "5",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "repository,nutanix,jobs",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}


@with_options
def serve(
    common: CommonOptions,
    cluster: ClusterOptions,
    repository: RepositoryOptions,
    workers: WorkerOptions,
    job_files: JobFiles = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. The server has no users: keep it private.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the UI and its API.")] = 4200,
    limit: Annotated[int, typer.Option(min=1, help="How many flows may run at once.")] = 4,
    maintenance: Annotated[
        bool,
        typer.Option(
            help="Whether to run retention, collection, verification, clean-up and the RPO check here."
        ),
    ] = True,
) -> None:
    """Run jobs on a schedule, with the Prefect UI, until Ctrl-C or SIGTERM.

    Brings up a Prefect server that keeps its history, saves the configured connections there, and
    serves every job as a deployment: it runs by its schedule, or from the UI. Without a job file
    there is one job over every VM, `manual`, without a schedule. What keeps the repository in shape
    is served beside the jobs, with schedules of its own.
    """
    settings = load_settings(common, cluster, repository, workers)
    output = open_output(as_json=common.as_json)

    jobs = scheduled_jobs(job_files)
    url = f"http://{host}:{port}"
    with ExitStack() as stack:
        bound = stack.enter_context(_bound(host, port))
        _set_environment(host, port)  # Before the first import of prefect, which reads it once.
        _look_before(settings)
        stack.enter_context(_server_running(bound, url))
        ready = {
            "ui_url": url,
            "jobs": [
                {"name": job.name, "schedule": job.schedule, "time_zone": job.time_zone}
                for job in jobs
            ],
            "maintenance": maintenance,
        }
        _serve_jobs(
            settings,
            jobs,
            limit=limit,
            with_upkeep=maintenance,
            when_ready=lambda: output.result(ready, lambda: _view(ready)),
        )


def _look_before(settings: Settings) -> None:
    """What is wrong with the settings is said now, not by the first session in the night."""
    workers_block(settings)
    with open_repository(settings), open_cluster(settings) as client:
        client.clusters()


def _set_environment(host: str, port: int) -> None:
    home = Path(os.environ.get("PREFECT_HOME") or user_data_dir(os.environ) / "prefect")
    home.mkdir(parents=True, exist_ok=True)
    for name, value in {
        **_SERVER_SETTINGS,
        **_CLIENT_SETTINGS,
        "PREFECT_HOME": str(home),
    }.items():
        os.environ.setdefault(name, value)
    # The UI asks the API at the address that the settings name, whatever --port says.
    os.environ["PREFECT_SERVER_API_HOST"] = host
    os.environ["PREFECT_SERVER_API_PORT"] = str(port)
    os.environ["PREFECT_API_URL"] = f"http://{host}:{port}/api"


def _bound(host: str, port: int) -> socket.socket:
    """Somebody else's server on the port would look like ours and get our jobs."""
    try:
        return bound_socket(host, port)
    except OSError as error:
        reason = f"{host}:{port} cannot be listened on: {error.strerror}"
        raise ConfigInvalid("--port", "", reason) from error


@contextmanager
def _server_running(bound: socket.socket, url: str) -> Iterator[None]:
    """A Prefect server on the socket while the block runs; raises `PrefectUnavailable`."""
    say("Starting the Prefect server ...")
    child = spawn_server(bound, {}, is_silent=True)
    bound.close()
    try:
        try:
            wait_until_healthy(child, f"{url}/api", START_TIMEOUT_S)
        except RuntimeError as error:
            raise PrefectUnavailable(url, str(error)) from error
        yield
    finally:
        stop_server(child)


def _serve_jobs(
    settings: Settings,
    jobs: Sequence[ScheduledJob],
    *,
    limit: int,
    with_upkeep: bool,
    when_ready: Callable[[], None],
) -> None:
    """Serve the deployments until a signal ends it; sessions that run are stopped and clean up."""
    from prefect import serve as serve_deployments

    from flows.deployments import describe_deployments, save_connections

    connections = save_connections(
        cluster_block(settings), repository_block(settings), workers_block(settings)
    )
    deployments = describe_deployments(connections, jobs, with_upkeep=with_upkeep)
    _announce(settings, jobs)
    when_ready()
    serve_deployments(
        *deployments, limit=limit, pause_on_shutdown=False, print_starting_message=False
    )


def _announce(settings: Settings, jobs: Sequence[ScheduledJob]) -> None:
    """Tell the repository what is scheduled: a job that never runs is then missed by its RPO."""
    from jobs import remember_job
    from repository import SystemClock

    with open_repository(settings) as opened:
        for job in jobs:
            if job.schedule is not None:
                remember_job(opened.live, job.job(), vms=None, clock=SystemClock())


def _view(ready: dict[str, Any]) -> Iterator[str]:
    yield f"Prefect UI: {ready['ui_url']}"
    for job in ready["jobs"]:
        scheduled = f"scheduled {job['schedule']} in {job['time_zone']}; run it now"
        yield f"Job {job['name']}: {scheduled if job['schedule'] else 'run it'} from the UI's page Deployments"
    if ready["maintenance"]:
        yield "Retention, collection, verification, clean-up and the RPO check run by themselves."
    yield "Ctrl-C ends it."
