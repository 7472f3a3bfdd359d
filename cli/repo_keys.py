"""`ahvault repo keys`: which passphrases and key files open an encrypted repository."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.config import load_settings, read_key_file, read_secret_file
from cli.connections import open_repository, open_with_secret
from cli.errors import KeyUnknown
from cli.options import CommonOptions, RepositoryOptions, with_options
from cli.output import Column, open_output, say, table
from cli.passphrases import ask_new_passphrase, can_ask, make_key_file

if TYPE_CHECKING:
    from repository import KeyWrap, Secret

app = typer.Typer(help="List and change what opens an encrypted repository.", no_args_is_help=True)

LIST_EXAMPLES = """Examples:

- `ahvault repo keys list`
"""
ADD_EXAMPLES = """Examples:

- `ahvault repo keys add --label alice`
- `ahvault repo keys add --recovery-key`
- `ahvault repo keys add --new-key-file /etc/ahvault/key --label nightly`
"""
REMOVE_EXAMPLES = """Examples:

- `ahvault repo keys remove 4f1c0b7e`
"""
CHANGE_EXAMPLES = """Examples:

- `ahvault repo keys change`
- `ahvault repo keys change --new-passphrase-file /etc/ahvault/new-passphrase`
"""

_COLUMNS = (Column("ID"), Column("LABEL"), Column("OPENED BY"), Column("CREATED"))
_SHORT_ID_LENGTH = 8


@dataclass(frozen=True, slots=True)
class NewSecretOptions:
    """Where a new secret comes from; a terminal asks if nothing is said."""

    new_passphrase_file: Annotated[
        Path | None,
        typer.Option(help="File whose first line is the new passphrase.", metavar="FILE"),
    ] = None
    new_key_file: Annotated[
        Path | None,
        typer.Option(help="New key file; made if there is none yet.", metavar="FILE"),
    ] = None


@app.callback()
def keys() -> None:
    """List and change what opens an encrypted repository."""


@app.command("list", epilog=LIST_EXAMPLES)
@with_options
def list_keys(common: CommonOptions, repository: RepositoryOptions) -> None:
    """List the passphrases and key files that open the repository, never the secrets themselves."""
    settings = load_settings(common, repository)
    output = open_output(as_json=common.as_json)
    with open_repository(settings) as opened:
        found = opened.secrets()
    data = {"keys": [_as_data(wrap) for wrap in found]}
    output.result(data, lambda: [table(_COLUMNS, (_row(wrap) for wrap in found))])


@app.command("add", epilog=ADD_EXAMPLES)
@with_options
def add(
    common: CommonOptions,
    repository: RepositoryOptions,
    new: NewSecretOptions,
    recovery_key: Annotated[
        bool,
        typer.Option(
            "--recovery-key",
            help="Make a recovery key and show it once, on stderr: print it and lock it away.",
        ),
    ] = False,
    label: Annotated[
        str | None, typer.Option(help="What the list will call it.", metavar="TEXT")
    ] = None,
) -> None:
    """Make one more passphrase, key file or recovery key open the repository."""
    settings = load_settings(common, repository)
    output = open_output(as_json=common.as_json)
    with open_repository(settings) as opened:
        opened.secrets()  # Refuses a repository without encryption before anybody is asked.
        if recovery_key:
            added = _add_recovery_key(opened.add_secret, label or "recovery key")
        else:
            secret, kind = _new_secret(new)
            added = opened.add_secret(secret, label or kind)
    output.result({"id": added}, lambda: [f"Added key {added[:_SHORT_ID_LENGTH]}."])


@app.command("remove", epilog=REMOVE_EXAMPLES)
@with_options
def remove(
    common: CommonOptions,
    repository: RepositoryOptions,
    key: Annotated[
        str, typer.Argument(help="Id, or its start, as `repo keys list` shows it.", metavar="KEY")
    ],
) -> None:
    """Make a key open the repository no more. The last one cannot be removed.

    Who has already read the master key with it can still read a copy of the repository.
    """
    settings = load_settings(common, repository)
    output = open_output(as_json=common.as_json)
    with open_repository(settings) as opened:
        wrap = _find_key(opened.secrets(), key)
        opened.remove_secret(wrap.id)
    output.result({"id": wrap.id}, lambda: [f"Removed key {wrap.id[:8]} ({wrap.label})."])


@app.command("change", epilog=CHANGE_EXAMPLES)
@with_options
def change(common: CommonOptions, repository: RepositoryOptions, new: NewSecretOptions) -> None:
    """Replace the passphrase or key file in use by another; all other keys stay.

    The new one works before the old one stops working, whatever happens in between.
    """
    settings = load_settings(common, repository)
    output = open_output(as_json=common.as_json)
    opened, old = open_with_secret(settings)
    with opened:
        opened.secrets()
        changed = opened.change_secret(old, _new_secret(new)[0]) if old is not None else ""
    output.result({"id": changed}, lambda: [f"Changed; the new key is {changed[:8]}."])


def _add_recovery_key(add_secret: Any, label: str) -> str:
    from repository import KeyFile, recovery_key_text

    secret = KeyFile.generate()
    added: str = add_secret(secret, label)
    say(f"Recovery key, shown this once: {recovery_key_text(secret)}")
    say("Give it wherever a passphrase is asked for. Whoever has it can read the backups.")
    return added


def _new_secret(new: NewSecretOptions) -> tuple[Secret, str]:
    """The new secret and what kind it is; raises `ConfigInvalid` or a usage error."""
    import repository as engine

    if new.new_passphrase_file is not None and new.new_key_file is not None:
        raise typer.BadParameter("give one new secret, not two.", param_hint="--new-key-file")
    if new.new_passphrase_file is not None:
        text = read_secret_file(new.new_passphrase_file, "--new-passphrase-file")
        return engine.Passphrase(text.get_secret_value()), "passphrase"
    if new.new_key_file is not None:
        if not new.new_key_file.exists():
            make_key_file(new.new_key_file)
        content = read_key_file(new.new_key_file, "--new-key-file")
        return engine.read_key_file(content), "key file"
    if not can_ask():
        raise typer.BadParameter(
            "there is no terminal to ask for a new passphrase; name a file.",
            param_hint="--new-passphrase-file",
        )
    return ask_new_passphrase(), "passphrase"


def _find_key(wraps: Sequence[KeyWrap], start: str) -> KeyWrap:
    found = [wrap for wrap in wraps if start and wrap.id.startswith(start)]
    if len(found) != 1:
        raise KeyUnknown(start, [wrap.id[:_SHORT_ID_LENGTH] for wrap in found or wraps])
    return found[0]


def _as_data(wrap: KeyWrap) -> dict[str, str]:
    from jobs import utc_text

    return {
        "id": wrap.id,
        "label": wrap.label,
        "opened_by": wrap.opened_by,
        "created_at": utc_text(wrap.created_at),
    }


def _row(wrap: KeyWrap) -> tuple[str, ...]:
    data = _as_data(wrap)
    return (wrap.id[:_SHORT_ID_LENGTH], data["label"], data["opened_by"], data["created_at"])
