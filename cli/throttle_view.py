"""Throttle rules as text and as plain data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cli.output import Column, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from jobs import LimitInForce, ThrottleRule, ThrottleSettings, Traffic

_COLUMNS = (
    Column("RULE"),
    Column("HOLDS FOR"),
    Column("LIMIT"),
    Column("TIMES", can_wrap=True),
    Column("OTHERWISE"),
    Column("RESTORES"),
    Column("UNENCRYPTED"),
    Column("NOW"),
)
_IN_FORCE_COLUMNS = (Column("LIMIT"), Column("RULE"), Column("HOLDS FOR"))


def rule_as_data(rule: ThrottleRule) -> dict[str, Any]:
    """One rule, and its limit at this moment."""
    now = rule.limit_at(datetime.now(UTC))
    return {**rule.model_dump(mode="json"), "now": str(now) if now else None}


def rule_sentence(rule: ThrottleRule) -> str:
    """One rule in a sentence."""
    now = rule.limit_at(datetime.now(UTC))
    unencrypted = f"; unencrypted data is {_unencrypted(rule)}" if rule.is_built_in else ""
    return (
        f"Throttle rule {rule.name} holds for {rule.subject}; at this moment: "
        f"{now or 'no limit'}{unencrypted}."
    )


def view_rules(found: ThrottleSettings) -> Iterator[RenderableType]:
    """All rules as a table."""
    if found.address:
        yield f"The repository lies at {found.address}."
    now = datetime.now(UTC)
    yield table(
        _COLUMNS,
        (
            (
                rule.name,
                rule.subject,
                rule.limit or "none",
                _times(rule),
                (rule.otherwise or "none") if rule.times else "-",
                "limited" if rule.restores else "free",
                _unencrypted(rule),
                rule.limit_at(now) or "no limit",
            )
            for rule in found.all_rules
        ),
    )


def _unencrypted(rule: ThrottleRule) -> str:
    return "refused" if rule.encrypt else "free"


def _times(rule: ThrottleRule) -> str:
    return f"{', '.join(rule.times)} ({rule.time_zone})" if rule.times else "always"


def view_limits(
    traffic: Traffic, limits: Sequence[LimitInForce], refusal: str | None
) -> Iterator[RenderableType]:
    """What would hold a transfer back, or keep it from moving at all."""
    if refusal:
        yield refusal
    for own, store in sorted(traffic.ends, key=str):
        yield f"From here, {own}, to the repository, {store}."
    if not traffic.ends:
        yield "The repository lies on this machine, or nobody knows where: no rule about a path holds."
    if not limits:
        yield "Nothing would hold a transfer back now."
        return
    yield table(
        _IN_FORCE_COLUMNS, ((each.limit, each.rule.name, each.rule.subject) for each in limits)
    )
