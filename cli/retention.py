"""`ahvault retention`: which restore points stay, which go, and why."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from cli.config import load_settings
from cli.connections import open_repository
from cli.errors import ConfigInvalid
from cli.exit_codes import ExitCode
from cli.options import CommonOptions, RepositoryOptions, with_options
from cli.output import Column, open_output, say, table
from cli.point_reference import short_ids

if TYPE_CHECKING:
    from rich.console import RenderableType

    from repository import Decision, RetentionPolicy

EXAMPLES = """Examples:

- `ahvault retention --policy nightly.toml --dry-run`
- `ahvault retention --policy nightly.toml --job nightly`
- `ahvault retention --dry-run --json | jq '.decisions[] | select(.verdict == "dropped")'`
"""

_COLUMNS = (
    Column("POINT"),
    Column("VM"),
    Column("JOB"),
    Column("SESSION STARTED (UTC)"),
    Column("VERDICT"),
    Column("WHY", can_wrap=True),
)


@with_options
def retention(
    common: CommonOptions,
    repository: RepositoryOptions,
    policy: Annotated[
        Path | None,
        typer.Option(
            help="TOML file of rules: keep_days, keep_last, minimum_kept, [gfs.weekly] and so on. "
            "By default seven days, and never fewer than three.",
            metavar="FILE",
        ),
    ] = None,
    job: Annotated[
        str | None, typer.Option(help="Only restore points of this job.", metavar="NAME")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would go, and why.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Also drop more of a VM's restore points than looks sane."),
    ] = False,
) -> None:
    """Say for each restore point why it stays or goes, and forget those that go.

    Forgotten restore points can be brought back with `ahvault undelete` until collection takes them.
    """
    from jobs import RetentionResult, carry_out
    from repository import plan_retention

    rules = read_policy(policy)
    settings = load_settings(common, repository)
    output = open_output(as_json=common.as_json)
    with open_repository(settings) as opened:
        facts = [each for each in opened.retention_facts() if job is None or each.job == job]
        plan = plan_retention(facts, rules, now=datetime.now(UTC))
        for refusal in plan.refusals:
            say(f"ahvault: {refusal.sentence}; --force overrides this.")
        done = RetentionResult(job=job or "")
        if not dry_run:
            going = {point.point_id for point in plan.drops(force=force)}
            done = carry_out(opened, job or "", plan, going)
    forgotten = [each.point_id for each in done.forgotten]
    data = {
        "decisions": [_as_data(decision) for decision in plan.decisions],
        "refusals": [refusal.sentence for refusal in plan.refusals],
        "forgotten": forgotten,
        "deferred": list(done.deferred),
    }
    output.result(data, lambda: _view(plan.decisions, forgotten, dry_run=dry_run))
    for point_id in done.deferred:
        output.note(f"ahvault: {point_id} is what a running session builds on; it stays for now.")
    if done.error is not None:
        output.note(f"ahvault: retention ended early: {done.error}")
        raise typer.Exit(ExitCode.REPOSITORY)


def read_policy(path: Path | None) -> RetentionPolicy:
    """The policy in a TOML file, or the default; raises `ConfigInvalid`, or OSError."""
    from repository import RetentionPolicy

    if path is None:
        return RetentionPolicy()
    try:
        return RetentionPolicy.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigInvalid(str(path), "", f"is not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        setting = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise ConfigInvalid(str(path), setting, reason) from error


def _as_data(decision: Decision) -> dict[str, Any]:
    from jobs import utc_text

    return {
        "point_id": decision.point.point_id,
        "vm": decision.point.vm_name,
        "vm_id": decision.point.vm_id,
        "job": decision.point.job,
        "session_started_at": utc_text(decision.point.started_at),
        "verdict": str(decision.verdict),
        "reasons": [
            {
                "rule": str(reason.rule),
                "text": reason.text,
                "until": reason.until.isoformat() if reason.until else None,
            }
            for reason in decision.reasons
        ],
    }


def _view(
    decisions: Sequence[Decision], forgotten: Sequence[str], *, dry_run: bool
) -> Iterator[RenderableType]:
    from jobs import utc_text

    if not decisions:
        yield "There is no restore point to judge."
        return
    ids = short_ids([decision.point.point_id for decision in decisions])
    yield table(
        _COLUMNS,
        (
            (
                ids[decision.point.point_id],
                decision.point.vm_name,
                decision.point.job,
                utc_text(decision.point.started_at),
                str(decision.verdict),
                decision.sentence.partition(": ")[2],
            )
            for decision in decisions
        ),
    )
    yield ""
    dropped = sum(str(decision.verdict) == "dropped" for decision in decisions)
    if dry_run:
        yield f"{dropped} of {len(decisions)} restore points would be forgotten."
    else:
        yield f"{len(forgotten)} of {len(decisions)} restore points were forgotten."
