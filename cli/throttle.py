"""`ahvault throttle`: how fast transfers may be, changed while they run."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from cli.config import load_settings
from cli.connections import open_repository
from cli.errors import ConfigInvalid, RuleUnknown
from cli.options import CommonOptions, RepositoryOptions, with_options
from cli.output import open_output
from cli.throttle_view import rule_as_data, rule_sentence, view_limits, view_rules

if TYPE_CHECKING:
    from jobs import ThrottleEngine

app = typer.Typer(
    help="Limit how fast data moves, also in sessions that run.", no_args_is_help=True
)

SET_EXAMPLES = """Examples:

- `ahvault throttle set wan --between 10.0.0.0/8 --and public --limit '100 Mbit/s'`
- `ahvault throttle set office --job nightly --limit '50 Mbit/s' --times 'mon-fri 08:00-18:00' --otherwise '1 Gbit/s' --time-zone Europe/Berlin`
- `ahvault throttle set disks --limit '200 MiB/s'`
- `ahvault throttle set public-addresses --no-encrypt`
"""
LIST_EXAMPLES = """Examples:

- `ahvault throttle list`
"""
SHOW_EXAMPLES = """Examples:

- `ahvault throttle show`
- `ahvault throttle show --job nightly --worker ahvault-worker-1`
"""
REMOVE_EXAMPLES = """Examples:

- `ahvault throttle remove wan`
"""
PLACE_EXAMPLES = """Examples:

- `ahvault throttle place 192.0.2.9`
- `ahvault throttle place --forget`
"""


@app.callback()
def throttle() -> None:
    """Limit how fast data moves, also in sessions that run."""


@dataclass(frozen=True, slots=True)
class RuleOptions:
    """What a rule says."""

    limit: Annotated[
        str | None,
        typer.Option(
            help="Of all transfers under the rule together: 100 Mbit/s, 50 MiB/s.", metavar="RATE"
        ),
    ] = None
    between: Annotated[
        str | None,
        typer.Option(
            help="One end of a path: address, network, range, any, private or public.",
            metavar="RANGE",
        ),
    ] = None
    and_: Annotated[
        str | None, typer.Option("--and", help="Its other end; either way round.", metavar="RANGE")
    ] = None
    job: Annotated[str | None, typer.Option(help="Only what this job moves.", metavar="NAME")] = (
        None
    )
    worker: Annotated[
        str | None, typer.Option(help="Only what moves through this worker.", metavar="VM")
    ] = None
    times: Annotated[
        list[str] | None,
        typer.Option(
            help="When the limit holds, such as 'mon-fri 08:00-18:00'; may be repeated. Always, if not given.",
            metavar="TIMES",
        ),
    ] = None
    otherwise: Annotated[
        str | None,
        typer.Option(help="The limit at all other times; none if not given.", metavar="RATE"),
    ] = None
    time_zone: Annotated[
        str, typer.Option(help="Time zone of the times, such as Europe/Berlin.", metavar="ZONE")
    ] = "UTC"
    restores: Annotated[
        bool, typer.Option("--restores", help="Limit restores and exports too.")
    ] = False
    encrypt: Annotated[
        bool | None,
        typer.Option(
            "--encrypt/--no-encrypt",
            help="Of rule public-addresses: whether data must be encrypted on its way, by transport "
            "or repository. It must, if not given.",
        ),
    ] = None


@app.command("set", epilog=SET_EXAMPLES)
@with_options
def set_rule(
    common: CommonOptions,
    repository: RepositoryOptions,
    name: Annotated[str, typer.Argument(help="Name of the rule.", metavar="NAME")],
    options: RuleOptions,
) -> None:
    """Add a rule, or replace the one of that name; transfers that run keep to it within seconds.

    With `--between` and `--and` it is about a path through the network, with `--job` or `--worker`
    about what these move, with none of them about the repository. What is given must all hold.
    Rule `public-addresses` is built in and about stores at public addresses: it can be given a limit,
    and let data go unencrypted.
    """
    from jobs import RuleBook, parse_rule

    rule = parse_rule(_fields(name, options))
    settings = load_settings(common, repository)
    output = open_output(as_json=common.as_json)
    with open_repository(settings) as opened:
        RuleBook(opened.live).put(rule)
    output.result(rule_as_data(rule), lambda: [rule_sentence(rule)])


def _fields(name: str, options: RuleOptions) -> dict[str, object]:
    """What was given, as the fields of a rule."""
    if (options.between is None) != (options.and_ is None):
        reason = "a path has two ends; give --between and --and"
        raise ConfigInvalid("--between", options.between or "", reason)
    fields: dict[str, object] = {
        "name": name,
        "limit": options.limit,
        "job": options.job,
        "worker": options.worker,
        "times": tuple(options.times or ()),
        "otherwise": options.otherwise,
        "time_zone": options.time_zone,
        "restores": options.restores,
    }
    if options.between is not None:
        fields["between"] = (options.between, options.and_)
    if options.encrypt is not None:
        fields["encrypt"] = options.encrypt
    return fields


@app.command("list", epilog=LIST_EXAMPLES)
@with_options
def list_rules(common: CommonOptions, repository: RepositoryOptions) -> None:
    """List the rules of the repository, and the limit of each at this moment."""
    from jobs import RuleBook

    settings = load_settings(common, repository)
    output = open_output(as_json=common.as_json)
    with open_repository(settings) as opened:
        found = RuleBook(opened.live).read()
    data = {
        "rules": [rule_as_data(rule) for rule in found.all_rules],
        "address": str(found.address) if found.address else None,
    }
    output.result(data, lambda: view_rules(found))


@app.command("show", epilog=SHOW_EXAMPLES)
@with_options
def show(
    common: CommonOptions,
    repository: RepositoryOptions,
    job: Annotated[
        str | None, typer.Option(help="As if this job moved the data.", metavar="NAME")
    ] = None,
    worker: Annotated[
        str | None, typer.Option(help="As if it moved through this worker.", metavar="VM")
    ] = None,
) -> None:
    """Say what would hold a transfer back that started here and now: both ends of its path, and the rules.

    The lowest limit comes first. Run it where the data is moved: the path starts at this machine.
    """
    from jobs import Traffic, open_throttle

    settings = load_settings(common, repository)
    output = open_output(as_json=common.as_json)
    with open_repository(settings) as opened, open_throttle(opened) as engine:
        traffic = Traffic(
            repository_id=opened.id,
            direction="write",
            purpose="backup",
            ends=engine.ends,
            job=job,
            worker=worker,
        )
        limits, refusal = engine.in_force(traffic), _refusal(engine)
    data = {
        "refused": refusal,
        "path": sorted([str(own), str(store)] for own, store in traffic.ends),
        "limits": [
            {"rule": each.rule.name, "limit": str(each.limit), "bytes_s": each.limit.bytes_s}
            for each in limits
        ],
    }
    output.result(data, lambda: view_limits(traffic, limits, refusal))


def _refusal(engine: ThrottleEngine) -> str | None:
    """Why nothing would move at all, if that is so."""
    from jobs import TransferUnencrypted

    try:
        engine.require_encryption()
    except TransferUnencrypted as error:
        return str(error)
    return None


@app.command("remove", epilog=REMOVE_EXAMPLES)
@with_options
def remove(
    common: CommonOptions,
    repository: RepositoryOptions,
    name: Annotated[str, typer.Argument(help="Name of the rule.", metavar="NAME")],
) -> None:
    """Remove a rule; transfers that run are free of it within seconds.

    The built-in rule `public-addresses` can only be adjusted.
    """
    from jobs import RuleBook

    settings = load_settings(common, repository)
    output = open_output(as_json=common.as_json)
    with open_repository(settings) as opened:
        book = RuleBook(opened.live)
        if not book.remove(name):
            raise RuleUnknown(name, [rule.name for rule in book.read().all_rules])
    output.result({"removed": name}, lambda: [f"Removed throttle rule {name}."])


@app.command("place", epilog=PLACE_EXAMPLES)
@with_options
def place(
    common: CommonOptions,
    repository: RepositoryOptions,
    address: Annotated[
        str | None,
        typer.Argument(
            help="IP address of the machine that keeps the repository.", metavar="ADDRESS"
        ),
    ] = None,
    forget: Annotated[
        bool, typer.Option("--forget", help="Go by the repository's URL again.")
    ] = False,
) -> None:
    """Say on which machine the repository lies, where its URL does not: rules about paths go by it.

    Found without help are S3 endpoints, SFTP servers, and NFS or SMB servers mounted at the path.
    """
    from jobs import RuleBook

    if (address is None) == (not forget):
        raise ConfigInvalid("place", address or "", "give either an address or --forget")
    settings = load_settings(common, repository)
    output = open_output(as_json=common.as_json)
    with open_repository(settings) as opened:
        RuleBook(opened.live).place_at(_address(address) if address is not None else None)
    where = f"at {address}" if address is not None else "where its URL says"
    output.result({"address": address}, lambda: [f"The repository lies {where}."])


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise ConfigInvalid("place", text, "is no IP address") from error
