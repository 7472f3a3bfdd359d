"""How collection goes about it: what an operator can set, and what is right without being asked."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from repository.units import MiB


class CollectSettings(BaseModel):
    """How collection goes about it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    undelete_hours: float = Field(
        default=7 * 24,
        ge=0,
        description="How long a forgotten restore point can be brought back before a plan drops it.",
    )
    grace_hours: float = Field(
        default=48,
        ge=0,
        description="How long a plan rests before its sweep. Less than 24: only while no session "
        "at all is running.",
    )
    rewrite_dead_percent: int = Field(
        default=25,
        ge=1,
        le=100,
        description="Packs with a larger share of dead bytes are rewritten.",
    )
    rewrite_bytes_max: int = Field(
        default=8192 * MiB, ge=0, description="Read no more than this to rewrite packs in one run."
    )
    discard_quarantined: bool = Field(
        default=False,
        description="The operator's word that what is under quarantine, and needed by no restore "
        "point, may go. Without it nothing under quarantine is ever deleted.",
    )
    is_only_collector: bool = Field(
        default=False,
        description="The operator's word that nobody else collects at the same time, for stores "
        "that cannot create objects exclusively.",
    )
