"""`ahvault clean`: what killed sessions left on the cluster, and its removal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from cli.config import load_settings
from cli.connections import open_cluster, open_repository
from cli.options import ClusterOptions, CommonOptions, RepositoryOptions, with_options
from cli.output import Column, open_output, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from jobs import Leftover
    from nutanix import RecoveryPoint

EXAMPLES = """Examples:

- `ahvault clean --dry-run`
- `ahvault clean`
"""

_COLUMNS = (Column("WHAT"), Column("NAME"), Column("WHY IT IS OURS TO REMOVE", can_wrap=True))


@with_options
def clean(
    common: CommonOptions,
    cluster: ClusterOptions,
    repository: RepositoryOptions,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what would be removed, and why.")
    ] = False,
) -> None:
    """Remove what killed sessions left on the cluster.

    Every session does this first, so it is needed only when no session is to run soon. Removes
    nothing but what carries our mark and stands in a record of this repository; what a running
    session uses is left alone. The snapshot of a VM that left its job, or whose job no longer runs,
    goes after the job's `departed_days`.
    """
    settings = load_settings(common, cluster, repository)
    output = open_output(as_json=common.as_json)
    from jobs import find_leftovers, find_unclaimed, remove_leftovers
    from repository import SystemClock

    clock = SystemClock()
    with open_cluster(settings) as client, open_repository(settings) as opened:
        leftovers = find_leftovers(client, opened, cluster_url=client.connection.url, clock=clock)
        removed = [] if dry_run else remove_leftovers(client, opened, leftovers, clock=clock)
        unclaimed = find_unclaimed(client, opened)
    output.result(
        {
            "found": [
                {"kind": each.kind, "name": each.name, "id": each.object_id, "why": each.why}
                for each in leftovers
            ],
            "removed": removed,
            "unclaimed": [
                {
                    "name": each.name,
                    "id": each.id,
                    "expires_at": each.expires_at.isoformat() if each.expires_at else None,
                }
                for each in unclaimed
            ],
        },
        lambda: _view(leftovers, removed, unclaimed, dry_run=dry_run),
    )


def _view(
    leftovers: Sequence[Leftover],
    removed: Sequence[str],
    unclaimed: Sequence[RecoveryPoint],
    *,
    dry_run: bool,
) -> Iterator[RenderableType]:
    for point in unclaimed:
        yield (
            f"Not touched: recovery point {point.name} carries our mark, but no record of this "
            f"repository names it; it {_expiry(point)}."
        )
    if not leftovers:
        yield "Nothing is left on the cluster."
        return
    yield table(_COLUMNS, ((each.kind, each.name, each.why) for each in leftovers))
    yield ""
    yield "Nothing was removed (--dry-run)." if dry_run else f"{len(removed)} removed."


def _expiry(point: RecoveryPoint) -> str:
    from jobs import utc_text

    return f"expires on {utc_text(point.expires_at)}" if point.expires_at else "never expires"
