"""The command `ahvault`: puts the commands together, and ends the process with the right code."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, NoReturn

import typer

from cli import (
    backup,
    blocks,
    clean,
    collect,
    demo,
    doctor,
    export,
    forget,
    give_up,
    metrics,
    notifications,
    plan,
    points,
    repair,
    repo,
    restore,
    retention,
    scale,
    serve,
    session,
    sessions,
    simulator,
    status,
    stop,
    throttle,
    verify,
    vms,
    workers,
)
from cli.exit_codes import ExitCode, exit_code_help
from cli.failures import report_failure
from cli.output import say

app = typer.Typer(
    name="ahvault",
    help="Agentless, image-level backup of Nutanix AHV virtual machines.",
    epilog=f"Exit codes:\n\n{exit_code_help()}",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo", epilog=demo.EXAMPLES)(demo.demo)
app.command("doctor", epilog=doctor.EXAMPLES)(doctor.doctor)
app.command("vms", epilog=vms.EXAMPLES)(vms.vms)
app.command("plan", epilog=plan.EXAMPLES)(plan.plan)
app.command("backup", epilog=backup.EXAMPLES)(backup.backup)
app.command("stop", epilog=stop.EXAMPLES)(stop.stop)
app.command("points", epilog=points.EXAMPLES)(points.points)
app.command("serve", epilog=serve.EXAMPLES)(serve.serve)
app.command("blocks", epilog=blocks.EXAMPLES)(blocks.blocks)
app.command("sessions", epilog=sessions.EXAMPLES)(sessions.sessions)
app.command("status", epilog=status.EXAMPLES)(status.status)
app.command("metrics", epilog=metrics.EXAMPLES)(metrics.metrics)
app.command("clean", epilog=clean.EXAMPLES)(clean.clean)
app.command("restore", epilog=restore.EXAMPLES)(restore.restore)
app.command("export", epilog=export.EXAMPLES)(export.export)
app.command("verify", epilog=verify.EXAMPLES)(verify.verify)
app.command("repair", epilog=repair.EXAMPLES)(repair.repair)
app.command("retention", epilog=retention.EXAMPLES)(retention.retention)
app.command("forget", epilog=forget.FORGET_EXAMPLES)(forget.forget)
app.command("undelete", epilog=forget.UNDELETE_EXAMPLES)(forget.undelete)
app.command("hold", epilog=forget.HOLD_EXAMPLES)(forget.hold)
app.command("release", epilog=forget.RELEASE_EXAMPLES)(forget.release)
app.command("collect", epilog=collect.EXAMPLES)(collect.collect)
app.add_typer(notifications.app, name="notifications")
app.add_typer(session.app, name="session")
app.command("give-up", epilog=give_up.EXAMPLES)(give_up.give_up)
app.add_typer(repo.app, name="repo")
app.add_typer(throttle.app, name="throttle")
app.add_typer(workers.app, name="workers")
app.add_typer(scale.app, name="scale")
app.command("simulator", epilog=simulator.EXAMPLES)(simulator.simulator)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        sys.stdout.write(f"ahvault {version('ahvault')}\n")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Agentless, image-level backup of Nutanix AHV virtual machines."""
    del version


def main() -> NoReturn:
    """Entry point of the command `ahvault`."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Carry out one command line and return its exit code; raises nothing.

    SIGTERM ends the command as Ctrl-C does: everything it has open is closed on the way out.
    """
    as_json, debug = "--json" in arguments, "--debug" in arguments
    if {"--verbose", "-v"} & set(arguments):
        _show_log()
    previous = signal.signal(signal.SIGTERM, _leave)
    try:
        code = app(args=list(arguments), prog_name="ahvault", standalone_mode=False)
    except typer.Abort:
        code = ExitCode.INTERRUPTED
    except SystemExit as stop:
        code = stop.code
    except Exception as error:  # noqa: BLE001 - the one place where every error becomes a sentence
        code = report_failure(error, as_json=as_json, debug=debug)
    finally:
        signal.signal(signal.SIGTERM, previous)
    if code == ExitCode.TERMINATED:
        say("ahvault: terminated.")
    if code == ExitCode.INTERRUPTED:
        say("ahvault: interrupted.")
    return int(code or ExitCode.OK)


def _show_log() -> None:
    """Our own packages' log on stderr. Prefect shows its own, where a command uses it."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    for package in ("repository", "nutanix", "jobs"):
        logging.getLogger(package).setLevel(logging.INFO)
        logging.getLogger(package).addHandler(handler)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    raise SystemExit(int(ExitCode.TERMINATED))
