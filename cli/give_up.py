"""`ahvault give-up`: an operator's way past a restore point that collection cannot read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.config import load_settings
from cli.connections import open_repository
from cli.options import CommonOptions, RepositoryOptions, with_options
from cli.output import open_output

if TYPE_CHECKING:
    from repository import GiveUpReport, LostPoint

EXAMPLES = """Examples:

- `ahvault give-up points/4f1c/20261123T201512Z-078bccd4f1c04b7e8d9a0b1c2d3e4f50.json`
- `ahvault give-up 078bccd4f1c04b7e8d9a0b1c2d3e4f50 --yes --reason "disk 3 died"`
"""


@with_options
def give_up(
    common: CommonOptions,
    repository: RepositoryOptions,
    which: Annotated[
        list[str],
        typer.Argument(
            help="Damaged restore points: the whole id, or the name of the commit record.",
            metavar="RECORD",
        ),
    ],
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it; without this it is only said what would be lost.")
    ] = False,
    reason: Annotated[
        str, typer.Option(help="Why; it is kept beside the record.", metavar="TEXT")
    ] = "",
) -> None:
    """Give up restore points whose record or maps cannot be read, so that collection goes on.

    Try to mend first: a good copy of the object, put back under its name, is all it takes. Restore
    points that are whole are refused here, and no other restore point loses anything. Until
    collection has deleted it, `ahvault undelete` takes the word back, if the record reads again.
    """
    settings = load_settings(common, repository)
    output = open_output(as_json=common.as_json)
    with open_repository(settings) as opened:
        report = opened.give_up(which, reason, dry_run=not yes)
    output.result(_as_data(report), lambda: _view(report))


def _as_data(report: GiveUpReport) -> dict[str, Any]:
    data = asdict(report)
    if report.collection is not None:
        data["collection"] = {
            "freed_bytes": report.collection.freed_bytes,
            "object_counts": report.collection.object_counts,
        }
    return data


def _view(report: GiveUpReport) -> Iterator[str]:
    from jobs import human_bytes

    for lost in report.lost:
        yield _describe(lost)
    if report.collection is not None:
        objects = sum((report.collection.object_counts or {}).values())
        yield (
            f"The next collection would delete {objects} objects "
            f"({human_bytes(report.collection.freed_bytes)}), ordinary garbage included."
        )
    else:
        yield f"Collection would still be refused: {report.refusal}"
    if report.is_dry_run:
        yield "Nothing was changed. Run it again with --yes to give up what is named here."
    else:
        yield f"Given up: {len(report.lost)} restore points."


def _describe(lost: LostPoint) -> str:
    made = f" of {lost.made_at}" if lost.made_at else ""
    later = (
        f" {len(lost.later_points)} later restore points follow it and are whole without it."
        if lost.later_points
        else ""
    )
    return (
        f"LOST: restore point {lost.point_id} of VM {lost.vm_id}{made}, for good: {lost.detail}."
        f"{later}"
    )
