"""`ahvault notifications`: who is told when a session fails, warns, or backups are late."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from cli.config import load_settings
from cli.errors import BlockUnknown, ConfigInvalid
from cli.options import CommonOptions, with_options
from cli.output import open_output
from cli.remote_prefect import require_server

if TYPE_CHECKING:
    from uuid import UUID

INSTALL_EXAMPLES = """Examples:

- `ahvault notifications install --webhook https://chat.example.com/hooks/42`
- `ahvault notifications install --block slack-webhook/ops --on failure --on late`
"""
REMOVE_EXAMPLES = """Examples:

- `ahvault notifications remove`
"""

DEFAULT_KINDS = ("failure", "warning", "late")

app = typer.Typer(
    help="Tell somebody when a session fails, warns, or backups are late.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@with_options
def install(
    common: CommonOptions,
    block: Annotated[
        str | None,
        typer.Option(
            help="A notification block of the Prefect server: mail, chat and others are set up there.",
            metavar="TYPE/NAME",
        ),
    ] = None,
    webhook: Annotated[
        str | None,
        typer.Option(help="Or a URL that subject and body are posted to as JSON.", metavar="URL"),
    ] = None,
    on: Annotated[
        list[str] | None,
        typer.Option(
            help="What is told: failure, warning, late, success; may be repeated. "
            "By default the first three.",
            metavar="KIND",
        ),
    ] = None,
) -> None:
    """Make the Prefect server at PREFECT_API_URL send notifications, one per session.

    Installing again replaces what was installed before.
    """
    load_settings(common)
    require_server()
    output = open_output(as_json=common.as_json)
    from flows.notifications import NotifyOn, install_notifications

    known = [each.value for each in NotifyOn]
    wanted = list(dict.fromkeys(on or DEFAULT_KINDS))
    for kind in wanted:
        if kind not in known:
            raise typer.BadParameter(f"{kind!r} is none of: {', '.join(known)}.", param_hint="--on")
    names = install_notifications(_block_id(block, webhook), [NotifyOn(kind) for kind in wanted])
    output.result({"installed": names}, lambda: (f"Installed: {name}" for name in names))


@with_options
def remove(common: CommonOptions) -> None:
    """Take our automations off the Prefect server at PREFECT_API_URL."""
    load_settings(common)
    require_server()
    output = open_output(as_json=common.as_json)
    from flows.notifications import remove_notifications

    names = remove_notifications()
    output.result({"removed": names}, lambda: _view_removed(names))


def _view_removed(names: list[str]) -> Iterator[str]:
    yield from (f"Removed: {name}" for name in names)
    if not names:
        yield "No notification of ahvault is installed there."


def _block_id(block: str | None, webhook: str | None) -> UUID:
    from flows.notifications import find_block, save_webhook

    if (block is None) == (webhook is None):
        raise ConfigInvalid("--block, --webhook", "", "give one of them")
    if webhook is not None:
        return save_webhook(webhook)
    found = find_block(str(block))
    if found is None:
        raise BlockUnknown(str(block))
    return found


app.command("install", epilog=INSTALL_EXAMPLES)(install)
app.command("remove", epilog=REMOVE_EXAMPLES)(remove)
