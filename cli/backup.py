"""`ahvault backup`: one session, run from here."""

from __future__ import annotations

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
from cli.job_choice import WHOLE_JOB, JobOptions, PartOptions, chosen_job
from cli.local_prefect import flows_ready, prepare_prefect, spawn_early
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
- `ahvault backup web01 'db*'`
- `ahvault backup --job nightly.yaml`
- `ahvault backup --job nightly.yaml --retry-failed`
- `ahvault backup --job nightly.yaml --only web01 --only db01`
- `ahvault backup --category Environment/production --exclude files01 --job nightly --json`
"""


@with_options
def backup(
    common: CommonOptions,
    cluster: ClusterOptions,
    repository: RepositoryOptions,
    workers: WorkerOptions,
    vms: Annotated[
        list[str] | None,
        typer.Argument(help="VMs by name, id or name pattern; by default every VM.", metavar="VM"),
    ] = None,
    category: Annotated[
        list[str] | None,
        typer.Option(help="Also every VM of this category; may be repeated.", metavar="KEY/VALUE"),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            help="A VM to leave out, by name, id or name pattern; may be repeated.", metavar="VM"
        ),
    ] = None,
    job: Annotated[
        str | None,
        typer.Option(
            help="A YAML file that holds the whole job, or a name for it: incrementals follow on "
            "points of the same job, `adhoc` by default.",
            metavar="FILE|NAME",
        ),
    ] = None,
    parallel_vms: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="How many VMs are processed at the same time."),
    ] = None,
    consistency: Annotated[
        str | None,
        typer.Option(help="What to ask of the cluster: crash or application."),
    ] = None,
    *,
    part: PartOptions,
) -> None:
    """Back up VMs: one new restore point each, incremental wherever that is possible.

    Runs the session in this process and shows how it goes. A VM that fails does not fail the
    others. Set PREFECT_API_URL to record the run on a Prefect server.
    """
    from cli.session_report import session_as_data, view_session
    from jobs import nothing_to_retry

    settings = load_settings(common, cluster, repository, workers)
    output = open_output(as_json=common.as_json)
    prepare_prefect(verbose=common.verbose)
    spawn_early()
    options = JobOptions(
        job=job,
        vms=vms or (),
        categories=category or (),
        exclude=exclude or (),
        parallel_vms=parallel_vms,
        consistency=consistency,
    )
    result = run_backup(settings, chosen_job(options), part, all_must_be_known=options.path is None)
    nothing = nothing_to_retry(result.part, result.job)
    output.result(session_as_data(result), lambda: [nothing] if nothing else view_session(result))
    if result.status in ("failed", "stopped"):
        raise typer.Exit(ExitCode.FAILED)


def run_backup(
    settings: Settings,
    job: BackupJob,
    part: PartOptions = WHOLE_JOB,
    *,
    all_must_be_known: bool = False,
) -> SessionResult:
    """Run one session to its end and return what it did, also when VMs failed.

    `prepare_prefect` must have been called. What is wrong with the settings, the login or the scope
    is found before the embedded server is waited for. With `all_must_be_known`, one name that
    the cluster does not know is reason enough not to begin: somebody is there to correct it.
    """
    _look_before(settings, job, part, all_must_be_known=all_must_be_known)
    from flows.backup import backup as session_flow
    from jobs import SessionFailed, observed_by

    with flows_ready(), watch_session() as observer, observed_by(observer):
        try:
            return session_flow(
                cluster=cluster_block(settings),
                repository=repository_block(settings),
                workers=workers_block(settings),
                job=job,
                only=tuple(part.only or ()),
                retry_failed=part.retry_failed,
            )
        except SessionFailed as failed:
            return failed.result


def _look_before(
    settings: Settings, job: BackupJob, part: PartOptions, *, all_must_be_known: bool
) -> None:
    from jobs import choose_vms, narrow_to, nothing_to_retry, part_of_job

    workers_block(settings)
    with open_repository(settings) as repository:
        taken = part_of_job(
            repository, job.name, only=part.only or (), retry_failed=part.retry_failed
        )
    if nothing_to_retry(taken, job.name):
        return
    with open_cluster(settings) as client:
        chosen = narrow_to(choose_vms(client, job.scope), taken, job.name)
    if all_must_be_known and chosen.errors:
        raise chosen.errors[0]
