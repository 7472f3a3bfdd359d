"""The demo's runbook. Every step goes through the same function as the command it shows."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.config import Settings
from cli.demo.site import Site, open_folder, start_site
from cli.errors import DemoFailed
from cli.exit_codes import ExitCode
from cli.output import open_output, say

if TYPE_CHECKING:
    from cli.demo.guests import Guests
    from cli.demo.proofs import Proof, Truth
    from cli.demo.summary import Outcome
    from jobs import SessionResult
    from repository import RestorePoint

EXAMPLES = """Examples:

- `ahvault demo`
- `ahvault demo --keep --dir /tmp/ahvault-demo`
- `ahvault demo --size 0.2`
"""

JOB = "demo"
RESTORED_VM = "db01"
RESTORED_NAME = "db01-restored"
EXPORTED_VM = "files01"
EXPORTED_DISK = "scsi.1"


def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the simulator running and everything in place.")
    ] = False,
    size: Annotated[
        float, typer.Option(min=0.05, max=100, help="Scale of the disks; 1.0 is about 300 MiB.")
    ] = 1.0,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="Empty or new directory to use; by default a temporary one."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON document on stdout.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the log.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Show the main job on a simulated cluster, and prove every restored byte.

    Starts a simulated Nutanix with three VMs, backs them up, lets the guests write, backs them up
    again, verifies, restores one VM and exports one disk, and compares all of it with what the
    recovery points held. Ends with exit code 0 only if every comparison held.
    """
    from cli.demo.summary import outcome_as_data, view_next_steps, view_outcome

    del debug  # Read by `main`, which is the one to show a traceback.
    started_s = time.monotonic()
    output = open_output(as_json=as_json)
    with open_folder(directory) as folder:
        _prepare_server(folder.path, verbose=verbose)
        with start_site(folder, size=size) as site:
            outcome = run_story(site, size=size, started_s=started_s)
            folder.is_kept = keep and outcome.all_held
        output.result(outcome_as_data(outcome), lambda: view_outcome(outcome))
        if folder.is_kept:
            exported = _exported_file(site)
            for line in view_next_steps(site.config_file, site.simulator.pid, exported):
                output.note(line)
    if not outcome.all_held:
        raise typer.Exit(ExitCode.FAILED)


def run_story(site: Site, *, size: float, started_s: float) -> Outcome:
    """Two sessions with life in between, then every way back, compared byte by byte."""
    from cli.demo.guests import keep_busy, meet_guests
    from cli.demo.summary import Outcome
    from cli.repo import make_repository
    from cli.restore import run_restore

    settings = site.settings()
    _show(f"export AHVAULT_CONFIG={site.config_file}")
    _show("ahvault repo init")
    make_repository(str(site.repository), storage_options={}, secret=None, compression_level=None)
    with meet_guests(site, _disk_sizes(settings)) as guests:
        _show(f"ahvault backup --job {JOB}", "the first session reads all that is allocated")
        full, truth = _back_up(settings, guests)
        _tell("the guests work")
        for line in keep_busy(guests, size=size):
            say(f"  {line}")
        _show(f"ahvault backup --job {JOB}", "the second reads what has changed")
        incremental, newer = _back_up(settings, guests)
        _show("ahvault verify")
        _verify(settings)
        _show(f"ahvault restore {RESTORED_VM} --name {RESTORED_NAME}")
        restored = run_restore(
            settings, RESTORED_VM, name=RESTORED_NAME, container=None, power_on=False
        )
        _show(f"ahvault export {EXPORTED_VM} {EXPORTED_DISK} {_exported_file(site)}")
        _export(settings, _exported_file(site))
        _tell("every restored byte is compared with the recovery points")
        proofs = _prove(site, settings, guests, truth | newer)
    return Outcome((full, incremental), restored, tuple(proofs), time.monotonic() - started_s)


def _prepare_server(folder: Path, *, verbose: bool) -> None:
    """Let Prefect's embedded server start while the simulator builds its disks."""
    from cli.local_prefect import prepare_prefect, start_server

    os.environ.setdefault("PREFECT_HOME", str(folder / "prefect"))
    prepare_prefect(verbose=verbose)
    _tell("a simulated Nutanix cluster and Prefect's embedded server start")
    start_server()


def _back_up(settings: Settings, guests: Guests) -> tuple[SessionResult, Truth]:
    """One session, and the digests of what its recovery points hold."""
    from cli.backup import run_backup
    from cli.connections import open_repository
    from cli.demo.proofs import frozen_digests
    from jobs import BackupJob

    result = run_backup(settings, BackupJob(name=JOB))
    if result.status not in ("success", "warning"):
        errors = "; ".join(f"{vm.vm_name}: {vm.error}" for vm in result.vms if vm.error)
        raise DemoFailed("back up", errors or result.status)
    with open_repository(settings) as repository:
        points = [repository.point(vm.point_id) for vm in result.vms if vm.point_id]
        return result, frozen_digests(points, guests)


def _verify(settings: Settings) -> None:
    from cli.connections import open_repository
    from cli.verify import run_verify
    from repository import VerifyLevel

    with open_repository(settings) as repository:
        report = run_verify(repository, VerifyLevel.CONTENT, None)
    if not report.is_clean:
        raise DemoFailed("verify", f"{report.findings[0].key}: {report.findings[0].detail}")
    say(f"  {report.chunks_checked} chunks in {report.packs_checked} packs are what was written")


def _export(settings: Settings, file: Path) -> None:
    from cli.connections import open_repository
    from cli.export import write_image
    from cli.point_reference import find_disk

    with open_repository(settings) as repository:
        point = _newest(repository.points().points, EXPORTED_VM)
        disk = find_disk(point, EXPORTED_DISK)
        write_image(repository, point, disk.disk_id, file)


def _prove(site: Site, settings: Settings, guests: Guests, truth: Truth) -> list[Proof]:
    from cli.connections import open_cluster, open_repository
    from cli.demo.proofs import (
        prove_clean_up,
        prove_export,
        prove_inside,
        prove_points,
        prove_restored_vm,
    )
    from cli.point_reference import find_disk

    image = _exported_file(site)
    with open_repository(settings) as repository, open_cluster(settings) as client:
        points = repository.points().points
        exported = find_disk(_newest(points, EXPORTED_VM), EXPORTED_DISK)
        files = guests.files(EXPORTED_VM, disk=1)
        return [
            *prove_points(repository, truth),
            prove_export(image, exported, guests),
            prove_inside(image.name, image, files),
            *prove_restored_vm(client, guests, _newest(points, RESTORED_VM), RESTORED_NAME),
            prove_clean_up(guests, {point.vm_name for point in points}),
        ]


def _newest(points: list[RestorePoint], vm: str) -> RestorePoint:
    from cli.point_reference import find_point

    return find_point(points, vm)


def _disk_sizes(settings: Settings) -> dict[str, list[int]]:
    from cli.connections import open_cluster

    with open_cluster(settings) as client:
        return {vm.name: [disk.size_bytes for disk in vm.data_disks] for vm in client.vms()}


def _exported_file(site: Site) -> Path:
    return site.folder / f"{EXPORTED_VM}-{EXPORTED_DISK}.raw"


def _show(command: str, remark: str = "") -> None:
    """The command that a user would type for the step that follows."""
    say(f"\n$ {command}" + (f"   # {remark}" if remark else ""))


def _tell(text: str) -> None:
    say(f"\n# {text}")
