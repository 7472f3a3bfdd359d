"""`ahvault forget`, `undelete`, `hold` and `release`: what becomes of single restore points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.config import load_settings
from cli.connections import open_repository
from cli.options import CommonOptions, RepositoryOptions, with_options
from cli.output import Column, open_output, table
from cli.point_reference import describe_point, find_point, short_ids

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType

    from repository import ForgottenPoint, RestorePoint

FORGET_EXAMPLES = """Examples:

- `ahvault forget 078bccd4`
- `ahvault forget db01@2026-11-23T20:15 web01@2026-11-23 --reason "failed upgrade"`
"""
UNDELETE_EXAMPLES = """Examples:

- `ahvault undelete` lists what can be brought back
- `ahvault undelete 078bccd4`
"""
HOLD_EXAMPLES = """Examples:

- `ahvault hold db01 --reason "audit 2026"`
"""
RELEASE_EXAMPLES = """Examples:

- `ahvault release 078bccd4`
"""

_FORGOTTEN_COLUMNS = (
    Column("POINT"),
    Column("VM"),
    Column("TIME (UTC)"),
    Column("FORGOTTEN (UTC)"),
    Column("WHY", can_wrap=True),
)

PointArgument = Annotated[
    str, typer.Argument(help="A restore point: id, VM (its newest) or VM@TIME.", metavar="POINT")
]
ReasonOption = Annotated[
    str, typer.Option(help="Why; it is kept with the restore point.", metavar="TEXT")
]


@with_options
def forget(
    common: CommonOptions,
    repository: RepositoryOptions,
    which: Annotated[
        list[str],
        typer.Argument(help="Restore points: id, VM (its newest) or VM@TIME.", metavar="POINT"),
    ],
    reason: ReasonOption = "",
) -> None:
    """Hide restore points from every listing; collection deletes them later.

    They can be brought back with `ahvault undelete` until then. A held restore point, or one that a
    running session builds on, is refused. Names are all looked up before any is forgotten.
    """
    settings = load_settings(common, repository)
    output = open_output(as_json=common.as_json)
    with open_repository(settings) as opened:
        known = opened.points().points
        chosen = [find_point(known, reference) for reference in which]
        for point in chosen:
            opened.forget(point, reason)
    output.result(
        {"forgotten": [point.id for point in chosen]},
        lambda: [f"Forgot {describe_point(point)}" for point in chosen],
    )


@with_options
def undelete(
    common: CommonOptions,
    repository: RepositoryOptions,
    which: Annotated[
        str | None,
        typer.Argument(
            help="A forgotten restore point: id, VM (its newest) or VM@TIME. None: list them.",
            metavar="POINT",
        ),
    ] = None,
    reason: ReasonOption = "",
) -> None:
    """Bring a forgotten restore point back, or list those that can be."""
    settings = load_settings(common, repository)
    output = open_output(as_json=common.as_json)
    with open_repository(settings) as opened:
        forgotten = opened.forgotten()
        if which is None:
            output.result(_as_data(forgotten), lambda: _view(forgotten))
            return
        point = find_point([each.point for each in forgotten], which)
        opened.undelete(point, reason)
    _told(output_json=common.as_json, verb="restored", text="Brought back", point=point)


@with_options
def hold(
    common: CommonOptions,
    repository: RepositoryOptions,
    which: PointArgument,
    reason: ReasonOption = "",
) -> None:
    """Keep a restore point until it is released, whatever retention says."""
    settings = load_settings(common, repository)
    with open_repository(settings) as opened:
        point = find_point(opened.points().points, which)
        opened.hold(point, reason)
    _told(output_json=common.as_json, verb="held", text="Holding", point=point)


@with_options
def release(
    common: CommonOptions,
    repository: RepositoryOptions,
    which: PointArgument,
    reason: ReasonOption = "",
) -> None:
    """End the hold on a restore point."""
    settings = load_settings(common, repository)
    with open_repository(settings) as opened:
        point = find_point(opened.points().points, which)
        opened.release(point, reason)
    _told(output_json=common.as_json, verb="released", text="Released", point=point)


def _told(*, output_json: bool, verb: str, text: str, point: RestorePoint) -> None:
    output = open_output(as_json=output_json)
    output.result({verb: point.id}, lambda: [f"{text} {describe_point(point)}"])


def _as_data(forgotten: Sequence[ForgottenPoint]) -> dict[str, object]:
    from jobs import utc_text

    return {
        "forgotten": [
            {
                "id": each.point.id,
                "vm": each.point.vm_name,
                "created_at": utc_text(each.point.created_at),
                "forgotten_at": utc_text(each.at),
                "reason": each.reason,
            }
            for each in forgotten
        ]
    }


def _view(forgotten: Sequence[ForgottenPoint]) -> Iterator[RenderableType]:
    from jobs import utc_text

    if not forgotten:
        yield "No restore point is forgotten."
        return
    ids = short_ids([each.point.id for each in forgotten])
    yield table(
        _FORGOTTEN_COLUMNS,
        (
            (
                ids[each.point.id],
                each.point.vm_name,
                utc_text(each.point.created_at),
                utc_text(each.at),
                each.reason,
            )
            for each in forgotten
        ),
    )
