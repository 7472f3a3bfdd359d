"""`ahvault repo`: the repository as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from cli.config import load_settings, require_repository_url
from cli.options import CommonOptions, RepositoryOptions, with_options
from cli.output import open_output

app = typer.Typer(help="Make and look after a repository.", no_args_is_help=True)

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
        typer.Argument(help="Where; by default the configured repository.", metavar="[URL]"),
    ] = None,
    compression_level: Annotated[
        int | None,
        typer.Option(min=1, max=19, help="zstd level for all that is stored there."),
    ] = None,
) -> None:
    """Make an empty repository in a directory or at an fsspec URL.

    The place must be empty or not exist. Nothing that is there already is ever touched.
    """
    settings = load_settings(common, repository)
    output = open_output(as_json=common.as_json)
    facts = make_repository(
        require_repository_url(settings) if url is None else url,
        storage_options=settings.repository.storage_options,
        compression_level=compression_level,
    )
    output.result(facts, lambda: [f"Made repository {facts['id']} at {facts['url']}"])


def make_repository(
    url: str, *, storage_options: Mapping[str, Any], compression_level: int | None
) -> dict[str, str]:
    """Make a repository and return its id and URL. Raises `RepositoryError`."""
    import repository as engine

    options = engine.RepositoryOptions()
    if compression_level is not None:
        options = engine.RepositoryOptions(compression_level=compression_level)
    with engine.Repository.create(url, storage_options=storage_options, options=options) as made:
        return {"id": made.id, "url": made.url}
