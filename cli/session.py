"""`ahvault session show`: one session whole, from the repository alone."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.config import load_settings
from cli.connections import open_repository
from cli.options import CommonOptions, RepositoryOptions, with_options
from cli.output import open_output

SHOW_EXAMPLES = """Examples:

- `ahvault session show` the newest
- `ahvault session show 3f2a9c1d`
- `ahvault session show 3f2a9c1d --disks`
- `ahvault session show --json | jq .loads`
"""

app = typer.Typer(help="Look at one session.", no_args_is_help=True, rich_markup_mode="markdown")


@with_options
def show(
    common: CommonOptions,
    repository: RepositoryOptions,
    which: Annotated[
        str | None,
        typer.Argument(
            help="The session, by the start of its id; the newest by default.", metavar="SESSION"
        ),
    ] = None,
    disks: Annotated[
        bool, typer.Option("--disks", help="Also what was read of every disk, and why.")
    ] = False,
) -> None:
    """Show what a session did, as text that can be pasted into a ticket.

    Reports lie in the repository, so this needs neither a cluster nor a Prefect server.
    """
    from cli.session_report import session_as_data, view_session
    from cli.sessions import find_session

    settings = load_settings(common, repository)
    output = open_output(as_json=common.as_json)
    with open_repository(settings) as opened:
        result = find_session(opened, which)
    output.result(session_as_data(result), lambda: view_session(result, with_disks=disks))


app.command("show", epilog=SHOW_EXAMPLES)(show)
