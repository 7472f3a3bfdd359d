"""`ahvault stop`: ask a running session to end, on whatever machine it runs (J7)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.config import load_settings
from cli.connections import open_repository
from cli.errors import SessionUnknown
from cli.options import CommonOptions, RepositoryOptions, with_options
from cli.output import open_output

if TYPE_CHECKING:
    from jobs import Lease

EXAMPLES = """Examples:

- `ahvault stop 3f2a9c1d`
- `ahvault stop 3f2a9c1d --at-once`
- `ahvault stop` (lists what is running)
"""


@with_options
def stop(
    common: CommonOptions,
    repository: RepositoryOptions,
    which: Annotated[
        str | None,
        typer.Argument(
            help="The session, by the start of its id; without it those that run are listed.",
            metavar="SESSION",
        ),
    ] = None,
    at_once: Annotated[
        bool,
        typer.Option(
            "--at-once", help="Stop the VMs that run as well; they get no restore point now."
        ),
    ] = False,
) -> None:
    """Let a running session end: VMs that run are finished, queued ones do not start.

    Works through the repository, so the session may run on any machine, with or without a Prefect
    server; it heeds the wish within seconds.
    """
    from jobs import ask_to_stop, running_sessions
    from repository import SystemClock

    settings = load_settings(common, repository)
    output = open_output(as_json=common.as_json)
    clock = SystemClock()
    with open_repository(settings) as opened:
        running = running_sessions(opened.live, clock)
        if which is None:
            listed = [_as_data(lease) for lease in running]
            output.result({"running": listed}, lambda: _view(running))
            return
        lease = _find(running, which)
        ask_to_stop(opened.live, lease.session_id, at_once=at_once, clock=clock)
    told = "its VMs are stopped" if at_once else "running VMs are finished, no further one starts"
    output.result(
        {**_as_data(lease), "at_once": at_once},
        lambda: [f"Session {lease.session_id[:8]} of job {lease.job} was asked to end: {told}."],
    )


def _find(running: Sequence[Lease], which: str) -> Lease:
    found = [lease for lease in running if lease.session_id.startswith(which)]
    if len(found) != 1:
        raise SessionUnknown(which, matches=len(found))
    return found[0]


def _as_data(lease: Lease) -> dict[str, Any]:
    from jobs import utc_text

    return {
        "session_id": lease.session_id,
        "job": lease.job,
        "started_at": utc_text(lease.started_at),
    }


def _view(running: Sequence[Lease]) -> Iterator[str]:
    from jobs import utc_text

    if not running:
        yield "No session is running."
    for lease in running:
        yield f"{lease.session_id[:8]} of job {lease.job}, since {utc_text(lease.started_at)} UTC"
