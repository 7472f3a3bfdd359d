"""`ahvault status`: which VMs have no good restore point that is young enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.config import Settings, load_settings
from cli.connections import open_cluster, open_repository
from cli.errors import JobUnknown
from cli.exit_codes import ExitCode
from cli.options import ClusterOptions, CommonOptions, RepositoryOptions, with_options
from cli.output import Column, open_output, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from jobs import StatusReport, VmProtection, VmTarget
    from repository import Repository

EXAMPLES = """Examples:

- `ahvault status`
- `ahvault status --with-cluster || page-somebody`
- `ahvault status --json | jq '.vms[] | select(.is_breach)'`
- `ahvault status --retire old-job`
"""

_COLUMNS = (
    Column("JOB"),
    Column("VM"),
    Column("STATE"),
    Column("LAST GOOD POINT (UTC)"),
    Column("AGE", is_number=True),
    Column("RPO", is_number=True),
    Column("POINTS", is_number=True),
)


@with_options
def status(
    common: CommonOptions,
    cluster: ClusterOptions,
    repository: RepositoryOptions,
    job: Annotated[
        str | None, typer.Option(help="Only the VMs of this job.", metavar="NAME")
    ] = None,
    rpo_hours: Annotated[
        float | None,
        typer.Option(min=0.01, help="RPO of jobs that have none of their own.", metavar="HOURS"),
    ] = None,
    with_cluster: Annotated[
        bool,
        typer.Option(
            "--with-cluster", help="Ask the cluster for VMs that no session has tried yet, too."
        ),
    ] = False,
    retire: Annotated[
        str | None,
        typer.Option(
            help="Wait for this job no more; its restore points stay. Its next session undoes it.",
            metavar="NAME",
        ),
    ] = None,
) -> None:
    """Judge every VM by the age of its newest good restore point against its job's RPO.

    Ends with exit code 8 if a VM is late, so that any monitoring can use it. Reads the repository
    alone: a session that never started is found as well as one that failed.
    """
    settings = load_settings(common, cluster, repository)
    output = open_output(as_json=common.as_json)
    with open_repository(settings) as opened:
        if retire is not None:
            _retire(opened, retire)
        report = look(opened, settings if with_cluster else None, job_name=job, rpo_hours=rpo_hours)
    output.result(report_as_data(report), lambda: _view(report))
    if report.breaches:
        raise typer.Exit(ExitCode.LATE)


def look(
    repository: Repository,
    cluster_settings: Settings | None,
    *,
    job_name: str | None = None,
    rpo_hours: float | None = None,
) -> StatusReport:
    """The status as of now; with settings, the cluster is asked which VMs the jobs take."""
    from jobs import read_status

    in_scope = {} if cluster_settings is None else _ask_cluster(repository, cluster_settings)
    return read_status(
        repository,
        now=datetime.now(UTC),
        in_scope=in_scope,
        rpo_hours=rpo_hours,
        only_job=job_name,
    )


def report_as_data(report: StatusReport) -> dict[str, Any]:
    """The report as plain data."""
    return {
        "now": report.now.isoformat(),
        "breaches": len(report.breaches),
        "vms": [_row_as_data(vm, report.now) for vm in report.vms],
    }


def _ask_cluster(repository: Repository, settings: Settings) -> Mapping[str, Sequence[VmTarget]]:
    from jobs import vms_in_scope

    with open_cluster(settings) as client:
        return vms_in_scope(client, repository, workers=[each.vm for each in settings.workers])


def _retire(repository: Repository, name: str) -> None:
    from jobs import known_jobs, retire_job
    from repository import SystemClock

    if not retire_job(repository.live, name, clock=SystemClock()):
        raise JobUnknown(name, sorted(known_jobs(repository.live)))


def _row_as_data(vm: VmProtection, now: datetime) -> dict[str, Any]:
    age = vm.age(now)
    return {
        "job": vm.job,
        "vm": vm.vm_name,
        "vm_id": vm.vm_id,
        "state": str(vm.state),
        "is_breach": vm.state.is_breach,
        "last_good_at": vm.last_good_at.isoformat() if vm.last_good_at else None,
        "age_s": round(age.total_seconds()) if age is not None else None,
        "rpo_s": round(vm.rpo.total_seconds()) if vm.rpo is not None else None,
        "points": vm.point_count,
        "damaged_points": vm.damaged_count,
    }


def _view(report: StatusReport) -> Iterator[RenderableType]:
    if not report.vms:
        yield "No job has run yet. `ahvault backup` runs the first session."
        return
    yield table(_COLUMNS, (_row(vm, report.now) for vm in report.vms))
    yield ""
    yield verdict(report)


def verdict(report: StatusReport) -> str:
    """One sentence on all of it; the late VMs by name, the longest waiting first."""
    from jobs import describe_breaches

    judged = [vm for vm in report.vms if vm.rpo is not None and str(vm.state) != "left"]
    if report.breaches:
        return describe_breaches(report)
    if not judged:
        return "No job has an RPO, so nobody is late. Give --rpo-hours, or rpo_hours in the job."
    if len(judged) == 1 == len(report.vms):
        return "The VM has what its RPO asks for."
    states = Counter(str(vm.state) for vm in report.vms)
    if states["good"] == len(report.vms):
        return f"All {len(judged)} VMs have what their RPO asks for."
    return f"Nobody is late: {', '.join(f'{n} {state}' for state, n in states.most_common())}."


def _row(vm: VmProtection, now: datetime) -> tuple[str, ...]:
    from jobs import human_span, utc_text

    age = vm.age(now)
    damaged = f" ({vm.damaged_count} damaged)" if vm.damaged_count else ""
    return (
        vm.job,
        vm.vm_name,
        str(vm.state).upper() if vm.state.is_breach else str(vm.state),
        utc_text(vm.last_good_at) if vm.last_good_at else "-",
        human_span(age) if age is not None else "-",
        human_span(vm.rpo) if vm.rpo is not None else "-",
        f"{vm.point_count}{damaged}",
    )
