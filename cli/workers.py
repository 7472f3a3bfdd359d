"""`ahvault workers`: the VMs that move data, as they are configured and as they are now."""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import workers_deploy
from cli.config import Settings, WorkerSettings, load_settings
from cli.connections import open_cluster, open_repository, worker_specs
from cli.errors import WorkerUnknown
from cli.options import (
    ClusterOptions,
    CommonOptions,
    RepositoryOptions,
    WorkerOptions,
    with_options,
)
from cli.output import Column, open_output, say, table
from cli.settings_file import add_worker, remove_worker, require_file

if TYPE_CHECKING:
    from rich.console import RenderableType

    from jobs import TrialStep, WorkerReport, WorkerSpec
    from nutanix import AhvClient
    from repository import Repository

app = typer.Typer(help="The VMs that move data.", no_args_is_help=True)

LIST_EXAMPLES = """Examples:

- `ahvault workers list`
- `ahvault workers list --json`
"""
ADD_EXAMPLES = """Examples:

- `ahvault workers add ahvault-worker-1`
- `ahvault workers add ahvault-worker-2 --slots 2`
- `ahvault workers add backup-host --access iscsi`
"""
TEST_EXAMPLES = """Examples:

- `ahvault workers test ahvault-worker-1`
"""
DRAIN_EXAMPLES = """Examples:

- `ahvault workers drain ahvault-worker-1 --reason 'more memory'`
- `ahvault workers drain ahvault-worker-1 --wait`
"""
UNDRAIN_EXAMPLES = """Examples:

- `ahvault workers undrain ahvault-worker-1`
"""
REMOVE_EXAMPLES = """Examples:

- `ahvault workers remove ahvault-worker-1`
"""

WAIT_POLL_S = 2.0

_COLUMNS = (
    Column("WORKER"),
    Column("STATUS"),
    Column("HOST"),
    Column("SLOTS", is_number=True),
    Column("USED", is_number=True),
    Column("SESSIONS", is_number=True),
    Column("NOT USED BECAUSE", can_wrap=True),
)

app.command("deploy", epilog=workers_deploy.EXAMPLES)(workers_deploy.deploy)

Name = Annotated[str, typer.Argument(help="The worker, as the settings call it.", metavar="NAME")]


@app.command("list", epilog=LIST_EXAMPLES)
@with_options
def list_workers(
    common: CommonOptions,
    cluster: ClusterOptions,
    repository: RepositoryOptions,
    workers: WorkerOptions,
) -> None:
    """List the configured workers: what each does now, where, and why it would not be used."""
    settings = load_settings(common, cluster, repository, workers)
    output = open_output(as_json=common.as_json)
    with open_cluster(settings) as client, open_repository(settings) as opened:
        reports = _reports(client, opened, worker_specs(settings))
    output.result(
        {"workers": [{**asdict(each), "is_busy": each.is_busy} for each in reports]},
        lambda: _list_view(reports),
    )


@app.command("add", epilog=ADD_EXAMPLES)
@with_options
def add(
    common: CommonOptions,
    vm: Annotated[
        str, typer.Argument(help="Name of the worker VM on the cluster.", metavar="NAME")
    ],
    access: Annotated[
        str, typer.Option(help="How it reaches disks: direct, iscsi or kernel-iscsi.")
    ] = "direct",
    device_root: Annotated[
        str, typer.Option(help="Directory where its disks appear.", metavar="DIR")
    ] = "/dev",
    slots: Annotated[int, typer.Option(help="How many VMs it moves at once.")] = 4,
    queue: Annotated[
        str | None,
        typer.Option(help="Work queue of the Prefect worker on that VM.", metavar="QUEUE"),
    ] = None,
) -> None:
    """Add a worker to the settings file. Nothing is done on the cluster (W8).

    The file is edited in place; comments stay. The next session uses the worker, if it can: `ahvault
    workers test` says so at once.
    """
    path = require_file(common.config)
    given = {
        "vm": vm,
        "access": access,
        "device_root": device_root,
        "slots": slots,
        "queue": queue,
    }
    fields = {
        name: value for name, value in given.items() if name == "vm" or value != _default(name)
    }
    _require_valid(fields)
    add_worker(path, fields)
    _say_done(common, {"worker": vm, "added_to": str(path)}, f"Worker {vm} added to {path}.")


@app.command("test", epilog=TEST_EXAMPLES)
@with_options
def test(
    common: CommonOptions,
    cluster: ClusterOptions,
    repository: RepositoryOptions,
    workers: WorkerOptions,
    name: Name,
) -> None:
    """Use a worker as a session does: power, self-test, a small disk there and back; then as it was.

    A worker that was off is powered off again. A drained or disabled one can be tested too.
    """
    settings = load_settings(common, cluster, repository, workers)
    output = open_output(as_json=common.as_json)
    spec = _named(settings, name)
    from jobs import TRIAL_JOB, NullObserver, open_session, try_worker

    with (
        open_cluster(settings) as client,
        open_repository(settings) as opened,
        open_session(
            client=client,
            repository=opened,
            workers=[spec.model_copy(update={"enabled": True})],
            job_name=TRIAL_JOB,
            observer=NullObserver(),
            queue_check=workers_deploy.queue_check() if spec.queue else None,
        ) as run,
    ):
        steps = try_worker(run)
    output.result(
        {
            "worker": name,
            "passed": not any(step.error for step in steps),
            "steps": [step.model_dump() for step in steps],
        },
        lambda: _test_view(name, steps),
    )
    if any(step.error for step in steps):
        from cli.exit_codes import ExitCode

        raise SystemExit(ExitCode.NO_WORKER)


@app.command("drain", epilog=DRAIN_EXAMPLES)
@with_options
def drain(
    common: CommonOptions,
    cluster: ClusterOptions,
    repository: RepositoryOptions,
    workers: WorkerOptions,
    name: Name,
    reason: Annotated[str, typer.Option(help="Why, for others to read.", metavar="TEXT")] = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Return only when it moves nothing any more.")
    ] = False,
) -> None:
    """Let a worker take no new VM, also in sessions that run; what it moves it moves to the end."""
    settings = load_settings(common, cluster, repository, workers)
    spec = _named(settings, name)
    from jobs import Drain
    from jobs import drain as drain_worker
    from repository import SystemClock

    with open_cluster(settings) as client, open_repository(settings) as opened:
        (report,) = _reports(client, opened, [spec])
        key = report.vm_id or spec.vm
        record = Drain(vm_id=key, worker=name, since=SystemClock().now(), reason=reason)
        drain_worker(opened.live, record)
        while wait and report.slots_used:
            say(f"Worker {name} still moves {report.slots_used} VM(s) ...")
            time.sleep(WAIT_POLL_S)
            (report,) = _reports(client, opened, [spec])
    _say_done(
        common,
        {"worker": name, "drained": True, "slots_used": report.slots_used},
        f"Worker {name} is drained; it moves {report.slots_used} VM(s) now.",
    )


@app.command("undrain", epilog=UNDRAIN_EXAMPLES)
@with_options
def undrain(
    common: CommonOptions,
    cluster: ClusterOptions,
    repository: RepositoryOptions,
    workers: WorkerOptions,
    name: Name,
) -> None:
    """Let a drained worker take VMs again, also in sessions that run."""
    settings = load_settings(common, cluster, repository, workers)
    spec = _named(settings, name)
    from jobs import undrain as undrain_worker

    with open_cluster(settings) as client, open_repository(settings) as opened:
        (report,) = _reports(client, opened, [spec])
        undrain_worker(opened.live, report.vm_id or spec.vm)
    _say_done(common, {"worker": name, "drained": False}, f"Worker {name} takes VMs again.")


@app.command("remove", epilog=REMOVE_EXAMPLES)
@with_options
def remove(
    common: CommonOptions,
    cluster: ClusterOptions,
    repository: RepositoryOptions,
    name: Name,
) -> None:
    """Take a worker out of the settings file; its VM stays on the cluster, as it is.

    Refused while a session uses it. A drain of it ends.
    """
    settings = load_settings(common, cluster, repository)
    path = require_file(common.config)
    spec = _named(settings, name)
    from jobs import WorkerBusy
    from jobs import undrain as undrain_worker

    with open_cluster(settings) as client, open_repository(settings) as opened:
        (report,) = _reports(client, opened, [spec])
        if report.is_busy:
            use = f"{report.sessions} session(s) use it, and it moves {report.slots_used} VM(s)"
            raise WorkerBusy(name, use)
        if not remove_worker(path, name):
            raise WorkerUnknown(name, [], place=str(path))
        undrain_worker(opened.live, report.vm_id or spec.vm)
    _say_done(
        common,
        {"worker": name, "removed_from": str(path)},
        f"Worker {name} removed from {path}; its VM was not touched.",
    )


def _reports(
    client: AhvClient, repository: Repository, specs: Sequence[WorkerSpec]
) -> list[WorkerReport]:
    from jobs import report_workers
    from repository import SystemClock

    return report_workers(client, repository.live, specs, SystemClock())


def _named(settings: Settings, name: str) -> WorkerSpec:
    """The configured worker of this name; raises `WorkerUnknown`."""
    specs = worker_specs(settings)
    for spec in specs:
        if spec.vm == name:
            return spec
    known = [spec.vm for spec in specs]
    raise WorkerUnknown(name, difflib.get_close_matches(name, known, n=3) or known)


def _default(name: str) -> object:
    value = WorkerSettings.model_fields[name].default
    return str(value) if isinstance(value, Path) else value


def _require_valid(fields: dict[str, object]) -> None:
    """Refuse here what every later command would refuse in the file."""
    from pydantic import ValidationError

    from cli.errors import ConfigInvalid

    try:
        WorkerSettings.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ConfigInvalid(f"--{first['loc'][0]}", "", first["msg"]) from error


def _say_done(common: CommonOptions, data: dict[str, object], text: str) -> None:
    open_output(as_json=common.as_json).result(data, lambda: [text])


def _list_view(reports: Sequence[WorkerReport]) -> Iterator[RenderableType]:
    if not reports:
        yield "No worker is configured. `ahvault workers add NAME` adds one."
        return
    yield table(
        _COLUMNS,
        (
            (
                each.worker,
                each.status,
                each.host or "-",
                each.slots,
                each.slots_used,
                each.sessions,
                each.unusable or "-",
            )
            for each in reports
        ),
    )


def _test_view(name: str, steps: Sequence[TrialStep]) -> Iterator[RenderableType]:
    for step in steps:
        yield f"failed  {step.what}: {step.error}" if step.error else f"ok      {step.what}"
    failed = any(step.error for step in steps)
    yield f"Worker {name} cannot be used." if failed else f"Worker {name} can be used."
