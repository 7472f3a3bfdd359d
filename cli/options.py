"""The options that several commands share, each written once, and the decorator that adds them.

A command names a group (`cluster: ClusterOptions`) as a parameter; `with_options` turns the group's
fields into options of the command. Fields are called as the settings in `ahvault.toml` are, after
their section: `--cluster-url`, `AHVAULT_CLUSTER_URL`, `[cluster] url`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

R = TypeVar("R")

_CLUSTER = "Cluster"
_REPOSITORY = "Repository"
_OUTPUT = "Output and configuration"


@dataclass(frozen=True, slots=True)
class CommonOptions:
    """Options of every command."""

    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="Settings file. Default: $AHVAULT_CONFIG, ./ahvault.toml, then the user's own.",
            rich_help_panel=_OUTPUT,
            metavar="FILE",
        ),
    ] = None
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print the result as one JSON document on stdout.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Show the log on stderr.", rich_help_panel=_OUTPUT),
    ] = False
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=_OUTPUT),
    ] = False


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """How to reach the cluster. Secrets are no options: a process list shows those to everybody."""

    cluster_url: Annotated[
        str | None,
        typer.Option(
            help="Prism Central: https://HOST[:PORT].",
            rich_help_panel=_CLUSTER,
            metavar="URL",
        ),
    ] = None
    cluster_username: Annotated[
        str | None,
        typer.Option(help="User to log in as.", rich_help_panel=_CLUSTER, metavar="NAME"),
    ] = None
    cluster_password_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the password; a variable can hold it too.",
            rich_help_panel=_CLUSTER,
            metavar="FILE",
        ),
    ] = None
    cluster_api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="File that holds an API key, instead of user and password.",
            rich_help_panel=_CLUSTER,
            metavar="FILE",
        ),
    ] = None
    cluster_ca_file: Annotated[
        Path | None,
        typer.Option(
            help="PEM file of the authority that signed the cluster's certificate.",
            rich_help_panel=_CLUSTER,
            metavar="FILE",
        ),
    ] = None
    cluster_verify_tls: Annotated[
        str | None,
        typer.Option(
            help="Whether the cluster's certificate is checked; it is by default.",
            rich_help_panel=_CLUSTER,
            metavar="true|false",
        ),
    ] = None
    cluster_prism_element_port: Annotated[
        int | None,
        typer.Option(
            help="Port of Prism Element, where it is not 9440.",
            rich_help_panel=_CLUSTER,
            metavar="PORT",
        ),
    ] = None
    cluster_iscsi_port: Annotated[
        int | None,
        typer.Option(
            help="Port of the data services address, where it is not 3260.",
            rich_help_panel=_CLUSTER,
            metavar="PORT",
        ),
    ] = None
    cluster_chap_secret_file: Annotated[
        Path | None,
        typer.Option(
            help="File that holds the CHAP secret of iSCSI logins.",
            rich_help_panel=_CLUSTER,
            metavar="FILE",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class RepositoryOptions:
    """Where the restore points are kept."""

    repository_url: Annotated[
        str | None,
        typer.Option(
            help="Directory or fsspec URL, for example /srv/backup or s3://bucket/ahvault.",
            rich_help_panel=_REPOSITORY,
            metavar="URL",
        ),
    ] = None
    repository_passphrase_file: Annotated[
        Path | None,
        typer.Option(
            help="File that holds the passphrase of an encrypted repository.",
            rich_help_panel=_REPOSITORY,
            metavar="FILE",
        ),
    ] = None
    repository_key_file: Annotated[
        Path | None,
        typer.Option(
            help="Key file that opens an encrypted repository, instead of a passphrase.",
            rich_help_panel=_REPOSITORY,
            metavar="FILE",
        ),
    ] = None
    repository_storage_options: Annotated[
        list[str] | None,
        typer.Option(
            "--repository-storage-option",
            help="KEY=VALUE for the store's driver; may be repeated. Secrets belong in the file.",
            rich_help_panel=_REPOSITORY,
            metavar="KEY=VALUE",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """Which VMs may move data."""

    workers: Annotated[
        list[str] | None,
        typer.Option(
            "--worker",
            help="Worker VM, and where its disks appear if not in /dev, or =iscsi; may be repeated.",
            rich_help_panel=_CLUSTER,
            metavar="VM[=ROOT|iscsi]",
        ),
    ] = None


def with_options(command: Callable[..., R]) -> Callable[..., R]:
    """A command whose option groups are spread out into single options, for typer to read."""
    groups: dict[str, type] = {}
    parameters: list[inspect.Parameter] = []
    hints = get_type_hints(command, include_extras=True)
    for parameter in inspect.signature(command).parameters.values():
        annotation = hints[parameter.name]
        if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
            groups[parameter.name] = annotation
            parameters.extend(_fields_as_parameters(annotation))
        else:
            parameters.append(parameter.replace(annotation=annotation))
    parameters.sort(key=lambda parameter: parameter.default is not inspect.Parameter.empty)

    @functools.wraps(command)
    def run(**values: Any) -> R:
        for name, group in groups.items():
            own = {field.name: values.pop(field.name) for field in dataclasses.fields(group)}
            values[name] = group(**own)
        return command(**values)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _fields_as_parameters(group: type) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(group)
    ]
