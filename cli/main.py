"""The command `ahvault`: puts the commands together, and ends the process with the right code."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Sequence
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

PROTECT, RESTORE, UPKEEP, OPERATE, TRY = (
    "Protect",
    "Restore",
    "Repository upkeep",
    "Operate",
    "Try without a cluster",
)
"""Headings of `ahvault --help`, in the order in which their first commands are added."""


_ENDINGS = (signal.SIGTERM, signal.SIGHUP)


def _add(name: str, function: Callable[..., None], examples: str, under: str) -> None:
    app.command(name, epilog=examples, rich_help_panel=under)(function)


_add("vms", vms.vms, vms.EXAMPLES, PROTECT)
_add("plan", plan.plan, plan.EXAMPLES, PROTECT)
_add("backup", backup.backup, backup.EXAMPLES, PROTECT)
_add("serve", serve.serve, serve.EXAMPLES, PROTECT)
_add("stop", stop.stop, stop.EXAMPLES, PROTECT)
_add("status", status.status, status.EXAMPLES, PROTECT)
_add("points", points.points, points.EXAMPLES, RESTORE)
_add("restore", restore.restore, restore.EXAMPLES, RESTORE)
_add("export", export.export, export.EXAMPLES, RESTORE)
_add("verify", verify.verify, verify.EXAMPLES, UPKEEP)
_add("repair", repair.repair, repair.EXAMPLES, UPKEEP)
_add("retention", retention.retention, retention.EXAMPLES, UPKEEP)
_add("forget", forget.forget, forget.FORGET_EXAMPLES, UPKEEP)
_add("undelete", forget.undelete, forget.UNDELETE_EXAMPLES, UPKEEP)
_add("hold", forget.hold, forget.HOLD_EXAMPLES, UPKEEP)
_add("release", forget.release, forget.RELEASE_EXAMPLES, UPKEEP)
_add("collect", collect.collect, collect.EXAMPLES, UPKEEP)
_add("give-up", give_up.give_up, give_up.EXAMPLES, UPKEEP)
_add("doctor", doctor.doctor, doctor.EXAMPLES, OPERATE)
_add("sessions", sessions.sessions, sessions.EXAMPLES, OPERATE)
_add("metrics", metrics.metrics, metrics.EXAMPLES, OPERATE)
_add("clean", clean.clean, clean.EXAMPLES, OPERATE)
_add("blocks", blocks.blocks, blocks.EXAMPLES, OPERATE)
_add("demo", demo.demo, demo.EXAMPLES, TRY)
_add("simulator", simulator.simulator, simulator.EXAMPLES, TRY)
app.add_typer(repo.app, name="repo", rich_help_panel=UPKEEP)
app.add_typer(session.app, name="session", rich_help_panel=OPERATE)
app.add_typer(notifications.app, name="notifications", rich_help_panel=OPERATE)
app.add_typer(throttle.app, name="throttle", rich_help_panel=OPERATE)
app.add_typer(workers.app, name="workers", rich_help_panel=OPERATE)
app.add_typer(scale.app, name="scale", rich_help_panel=OPERATE)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        sys.stdout.write(f"ahvault {version('ahvault')}\n")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Agentless, image-level backup of Nutanix AHV virtual machines."""
    del version


def main() -> NoReturn:
    """Entry point of the command `ahvault`."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Carry out one command line and return its exit code; raises nothing.

    SIGTERM, and the end of its terminal (SIGHUP, unless `nohup` has it ignored), end the command as
    Ctrl-C does: everything it has open is closed on the way out.
    """
    as_json, debug = "--json" in arguments, "--debug" in arguments
    if {"--verbose", "-v"} & set(arguments):
        _show_log()
    heard = [each for each in _ENDINGS if signal.getsignal(each) is not signal.SIG_IGN]
    previous = {each: signal.signal(each, _leave) for each in heard}
    try:
        code = app(args=list(arguments), prog_name="ahvault", standalone_mode=False)
    except typer.Abort:
        code = ExitCode.INTERRUPTED
    except SystemExit as stop:
        code = stop.code
    except Exception as error:  # noqa: BLE001 - the one place where every error becomes a sentence
        code = report_failure(error, as_json=as_json, debug=debug)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
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
