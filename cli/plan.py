"""`ahvault plan`: what a run of a job would do. Changes nothing anywhere."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.config import load_settings
from cli.connections import open_cluster, open_repository, worker_specs
from cli.exit_codes import ExitCode
from cli.job_choice import JobOptions, chosen_job
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

    from jobs import BackupJob, PlannedVm, SessionPlan
    from repository import Repository

EXAMPLES = """Examples:

- `ahvault plan nightly.yaml`
- `ahvault plan nightly` (a job that has run or been served before)
- `ahvault plan nightly.yaml --json | jq -r '.vms[] | select(.problem) | .vm_name'`
"""

_DISKS = (
    Column("VM"),
    Column("DISK"),
    Column("SIZE", is_number=True),
    Column("METHOD"),
    Column("TO READ", is_number=True),
    Column("WHY, AND WHAT THE AMOUNT RESTS ON", can_wrap=True),
)
_VMS = (
    Column("VM"),
    Column("KIND"),
    Column("CONSISTENCY"),
    Column("WORKER"),
    Column("WHY THIS WORKER", can_wrap=True),
)


@with_options
def plan(
    common: CommonOptions,
    cluster: ClusterOptions,
    repository: RepositoryOptions,
    workers: WorkerOptions,
    job: Annotated[
        str,
        typer.Argument(
            help="A job as a YAML file, or the name of one that the repository knows.",
            metavar="JOB",
        ),
    ],
) -> None:
    """Preview a run of a job: VMs, disks, what would be read and why, workers, and what retention drops.

    Looks at the cluster and the repository as a session does, and changes nothing: no snapshot, no
    power, no record. So what has changed since the last snapshot is estimated, and it says from what.
    Ends with 1 when a VM would not get its restore point.
    """
    from jobs import plan_session
    from repository import SystemClock

    options = JobOptions(job=job)
    settings = load_settings(common, cluster, repository, workers)
    output = open_output(as_json=common.as_json)
    specs = worker_specs(settings)
    with open_repository(settings) as opened:
        definition = chosen_job(options) if options.path else _known_job(opened, job)
        with open_cluster(settings) as client:
            planned = plan_session(client, opened, specs, definition, clock=SystemClock())
    output.result(_as_data(planned), lambda: _view(planned))
    if not planned.is_sound:
        raise typer.Exit(ExitCode.FAILED)


def _known_job(repository: Repository, name: str) -> BackupJob:
    """A job as its last session ran it. Raises `JobInvalid` with the near name."""
    from jobs import JobInvalid, known_jobs, parse_job

    known = known_jobs(repository.live)
    if name in known:
        return parse_job(known[name].definition, place=f"the record of job {name}").job()
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else "; name a job file, such as nightly.yaml"
    raise JobInvalid(name, f"the repository knows no job of this name{hint}")


def _as_data(planned: SessionPlan) -> dict[str, Any]:
    data = planned.model_dump(mode="json")
    for vm, shown in zip(planned.vms, data["vms"], strict=True):
        shown["size_bytes"] = vm.size_bytes
        shown["expected_bytes"] = vm.expected_bytes
    return {**data, "is_sound": planned.is_sound}


def _view(planned: SessionPlan) -> Iterator[RenderableType]:
    from jobs import human_bytes

    going = [vm for vm in planned.vms if vm.problem is None]
    size, amount = sum(vm.size_bytes for vm in going), sum(vm.expected_bytes for vm in going)
    is_bound = any(disk.is_bound for vm in going for disk in vm.disks)
    yield (
        f"Job {planned.job}: {len(planned.vms)} VMs, {planned.parallel_vms} at a time; of "
        f"{human_bytes(size)} {'at most' if is_bound else 'about'} {human_bytes(amount)} would be "
        "read. Nothing was changed."
    )
    yield from (f"Warning: {text}" for text in planned.warnings)
    if planned.left_out:
        yield f"Left out: {'; '.join(planned.left_out)}"
    if going:
        yield ""
        yield table(_DISKS, (row for vm in going for row in _disk_rows(vm)))
        yield ""
        yield table(_VMS, (_vm_row(vm) for vm in going))
    yield from _remarks(planned)
    yield from _view_retention(planned)


def _disk_rows(vm: PlannedVm) -> Iterator[tuple[str, ...]]:
    from jobs import human_bytes

    for disk in vm.disks:
        yield (
            vm.vm_name,
            disk.label,
            human_bytes(disk.size_bytes),
            disk.method,
            human_bytes(disk.expected_bytes),
            f"{disk.reason}; {disk.basis.value}",
        )


def _vm_row(vm: PlannedVm) -> tuple[str, ...]:
    return (
        vm.vm_name,
        vm.kind or "-",
        vm.consistency or "-",
        vm.worker or "-",
        vm.worker_reason or "-",
    )


def _remarks(planned: SessionPlan) -> Iterator[RenderableType]:
    remarks = [f"{vm.vm_name}: would fail: {vm.problem}" for vm in planned.vms if vm.problem]
    remarks += [f"{vm.vm_name}: warning: {text}" for vm in planned.vms for text in vm.warnings]
    remarks += [
        f"{vm.vm_name}: not in the restore point: {text}"
        for vm in planned.vms
        for text in vm.left_out
    ]
    if remarks:
        yield ""
        yield from remarks


def _view_retention(planned: SessionPlan) -> Iterator[RenderableType]:
    yield ""
    if not planned.retention_drops:
        yield "Retention would forget no restore point."
    else:
        yield f"Retention would forget {len(planned.retention_drops)} restore points:"
        yield from (f"  {each}" for each in planned.retention_drops)
    yield from (f"Retention would hold back: {text}" for text in planned.retention_refused)
