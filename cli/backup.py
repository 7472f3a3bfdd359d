"""`ahvault backup`: one session, run from here."""

from __future__ import annotations

from pathlib import Path
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
from cli.local_prefect import flows_ready, prepare_prefect
from cli.options import (
    ClusterOptions,
    CommonOptions,
    RepositoryOptions,
    WorkerOptions,
    with_options,
)
from cli.output import open_output
from cli.session_progress import watch_session

if TYPE_CHECKING:
    from jobs import BackupJob, SessionResult

EXAMPLES = """Examples:

- `ahvault backup`
- `ahvault backup web01 db01`
- `ahvault backup --exclude files01 --job nightly --json`
"""


@with_options
def backup(
    common: CommonOptions,
    cluster: ClusterOptions,
    repository: RepositoryOptions,
    workers: WorkerOptions,
    vms: Annotated[
        list[str] | None,
        typer.Argument(help="VMs by name or id; by default every VM.", metavar="[VM]..."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="A VM to leave out; may be repeated.", metavar="VM"),
    ] = None,
    job: Annotated[
        str, typer.Option(help="Name of the job. Incrementals follow on points of the same job.")
    ] = "adhoc",
    parallel_vms: Annotated[
        int, typer.Option(min=1, max=64, help="How many VMs are processed at the same time.")
    ] = 2,
    consistency: Annotated[
        str, typer.Option(help="What to ask of the cluster: crash or application.")
    ] = "crash",
    job_file: Annotated[
        Path | None,
        typer.Option(help="Take the whole job from a YAML file instead.", metavar="FILE"),
    ] = None,
) -> None:
    """Back up VMs: one new restore point each, incremental wherever that is possible.

    Runs the session in this process and shows how it goes. A VM that fails does not fail the
    others. Set PREFECT_API_URL to record the run on a Prefect server.
    """
    from cli.session_report import session_as_data, view_session

    settings = load_settings(common, cluster, repository, workers)
    output = open_output(as_json=common.as_json)
    prepare_prefect(verbose=common.verbose)
    definition = (
        _job_of_file(job_file, vms)
        if job_file is not None
        else _define_job(job, vms or [], exclude or [], parallel_vms, consistency)
    )
    result = run_backup(settings, definition)
    output.result(session_as_data(result), lambda: view_session(result))
    if result.status in ("failed", "stopped"):
        raise typer.Exit(ExitCode.FAILED)


def run_backup(settings: Settings, job: BackupJob) -> SessionResult:
    """Run one session to its end and return what it did, also when VMs failed.

    `prepare_prefect` must have been called. What is wrong with the settings, the login or a VM's
    name is found before the embedded server is waited for.
    """
    _look_before(settings, job)
    from flows.backup import backup as session_flow
    from jobs import SessionFailed, observed_by

    with flows_ready(), watch_session() as observer, observed_by(observer):
        try:
            return session_flow(
                cluster=cluster_block(settings),
                repository=repository_block(settings),
                workers=workers_block(settings),
                job=job,
            )
        except SessionFailed as failed:
            return failed.result


def _look_before(settings: Settings, job: BackupJob) -> None:
    workers_block(settings)
    with open_repository(settings), open_cluster(settings) as client:
        client.clusters()
        for name in (*job.scope.vms, *job.scope.exclude.vms):
            client.find_vm(name)


def _job_of_file(path: Path, vms: list[str] | None) -> BackupJob:
    from jobs import JobInvalid, read_job_file

    if vms:
        raise JobInvalid(
            "scope", f"VMs are named on the command line and in {path}; name them once"
        )
    return read_job_file(path).job()


def _define_job(
    name: str, vms: list[str], exclude: list[str], parallel_vms: int, consistency: str
) -> BackupJob:
    from jobs import parse_job

    fields = {
        "name": name,
        "scope": {"vms": vms, "exclude": {"vms": exclude}},
        "parallel_vms": parallel_vms,
        "consistency": consistency,
    }
    return parse_job(fields, place="the command line").job()
