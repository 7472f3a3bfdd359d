"""The retention policy of a job: the settings an operator makes, checked."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, model_validator

from repository.gfs import GfsPolicy


class RetentionPolicy(BaseModel):
    """How long the restore points of a job stay. A point stays if any of the rules keeps it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep_days: Annotated[
        int | None,
        Field(
            ge=1,
            le=36_500,
            title="Keep days",
            description="Keep restore points whose session began at most this many calendar days "
            "ago; days without backups count. Empty: no rule by days.",
        ),
    ] = 7
    keep_last: Annotated[
        int | None,
        Field(
            ge=1,
            le=100_000,
            title="Keep last",
            description="Keep this many newest restore points of each VM, besides those kept as "
            "weekly, monthly or yearly. Empty: no rule by count.",
        ),
    ] = None
    minimum_kept: Annotated[
        int,
        Field(
            ge=1,
            le=1000,
            title="Minimum kept",
            description="The newest restore points of a VM that stay whatever the other rules say.",
        ),
    ] = 3
    gfs: Annotated[
        GfsPolicy,
        Field(
            title="Long-term retention",
            description="Single restore points of a week, month or year that stay longer.",
        ),
    ] = GfsPolicy()
    departed_after_days: Annotated[
        int | None,
        Field(
            ge=1,
            le=36_500,
            title="Days until a departed VM's points go",
            description="Drop the restore points of a VM that no session has tried to back up for "
            "more than this many days (7 or more is wise). Points held, or kept as weekly, monthly "
            "or yearly, stay. Empty: a departed VM keeps its newest points for ever.",
        ),
    ] = None
    drop_percent_max: Annotated[
        int,
        Field(
            ge=1,
            le=100,
            title="Most that may go at once, percent",
            description="Refuse, unless forced, to drop more than this share of a VM's restore "
            "points at once, or to take more than this share of a job's VMs as departed. One may "
            "always go.",
        ),
    ] = 50
    time_zone: Annotated[
        ZoneInfo,
        Field(
            title="Time zone",
            description="Time zone whose calendar days count, for example Europe/Berlin.",
        ),
    ] = ZoneInfo("UTC")

    @model_validator(mode="after")
    def _has_a_short_term_rule(self) -> Self:
        if self.keep_days is None and self.keep_last is None:
            raise ValueError(
                "set keep_days or keep_last: without either, a new restore point would be dropped "
                f"as soon as {self.minimum_kept} newer ones exist"
            )
        return self

    def day_of(self, moment: datetime) -> date:
        """The calendar day of an aware moment in the policy's time zone."""
        return moment.astimezone(self.time_zone).date()

    def droppable(self, count: int) -> int:
        """How many of `count` may go at once without being forced."""
        return max(1, count * self.drop_percent_max // 100)
