"""`ahvault repo`: the repository as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import repo_copy, repo_keys
from cli.config import load_settings, require_repository_url
from cli.connections import repository_secret
from cli.errors import SettingMissing
from cli.options import CommonOptions, RepositoryOptions, with_options
from cli.output import open_output
from cli.passphrases import ask_new_passphrase, can_ask

if TYPE_CHECKING:
    from repository import Secret

app = typer.Typer(help="Make and look after a repository.", no_args_is_help=True)
app.add_typer(repo_keys.app, name="keys")
app.command("copy", epilog=repo_copy.EXAMPLES)(repo_copy.copy)

INIT_EXAMPLES = """Examples:

- `ahvault repo init /srv/backup`
- `ahvault repo init s3://bucket/ahvault`
"""


@app.callback()
def repo() -> None:
    """Make and look after a repository."""


@app.command("init", epilog=INIT_EXAMPLES)
@with_options
def init(
    common: CommonOptions,
    repository: RepositoryOptions,
    url: Annotated[
        str | None,
        typer.Argument(help="Where; by default the configured repository.", metavar="URL"),
    ] = None,
    encrypt: Annotated[
        bool,
        typer.Option(
            "--encrypt",
            help="Insist on encryption: ask for a passphrase, or refuse, unless a secret is configured.",
        ),
    ] = False,
    compression_level: Annotated[
        int | None,
        typer.Option(min=1, max=19, help="zstd level for all that is stored there."),
    ] = None,
) -> None:
    """Make an empty repository in a directory or at an fsspec URL.

    It is encrypted if a passphrase or a key file is configured: without that, nobody will ever read
    it again. Nothing that is there already is touched.
    """
    settings = load_settings(common, repository)
    output = open_output(as_json=common.as_json)
    secret = repository_secret(settings.repository)
    if encrypt and secret is None and can_ask():
        secret = ask_new_passphrase()
    if encrypt and secret is None:
        purpose = "No passphrase and no key file is configured to encrypt with"
        raise SettingMissing("repository", "passphrase_file", purpose)
    facts = make_repository(
        require_repository_url(settings) if url is None else url,
        storage_options=settings.repository.storage_options,
        secret=secret,
        compression_level=compression_level,
    )
    output.result(facts, lambda: _sentences(facts))


def make_repository(
    url: str,
    *,
    storage_options: Mapping[str, Any],
    secret: Secret | None,
    compression_level: int | None,
) -> dict[str, Any]:
    """Make a repository and return its id and URL. Raises `RepositoryError`."""
    import repository as engine

    options = engine.RepositoryOptions()
    if compression_level is not None:
        options = engine.RepositoryOptions(compression_level=compression_level)
    with engine.Repository.create(
        url, storage_options=storage_options, options=options, secret=secret
    ) as made:
        return {
            "id": made.id,
            "url": made.url,
            "is_encrypted": made.is_encrypted,
            "creates_exclusively": made.creates_exclusively(),
        }


def _sentences(facts: Mapping[str, Any]) -> Iterator[str]:
    manner = "encrypted repository" if facts["is_encrypted"] else "repository"
    yield f"Made {manner} {facts['id']} at {facts['url']}"
    if not facts["creates_exclusively"]:
        yield "Its store cannot create objects exclusively: collect from one place only."
