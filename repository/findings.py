"""What verification reports: findings that name the object, the restore points and the ranges."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Iterable
from dataclasses import dataclass

from repository.errors import InvalidInput
from repository.extents import Extent


class VerifyLevel(enum.IntEnum):
    """How deep to look; each level includes those below it."""

    RECORDS = 0
    """Every record, report, map and segment reads back as written; maps add up to root hashes."""
    PRESENCE = 1
    """Every pack that a restore point needs exists and has its size (listings only)."""
    STORED = 2
    """Every pack's stored bytes are those written (reads all, needs no key)."""
    CONTENT = 3
    """Every chunk decodes to the bytes its id names, at the place the maps name."""


class FindingKind(enum.StrEnum):
    """What is wrong with an object."""

    DAMAGED = "damaged"
    MISSING = "missing"
    WRONG_SIZE = "wrong-size"
    WRONG_CONTENT = "wrong-content"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Concerned:
    """Part of a restore point that a finding touches; no extents means all of it."""

    point_id: str
    vm_name: str
    disk_id: str | None = None
    extents: tuple[Extent, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong with one stored object."""

    key: str
    kind: FindingKind
    detail: str
    concerned: tuple[Concerned, ...] = ()
    level: VerifyLevel = VerifyLevel.RECORDS
    """How deep one must look to see it, hence to see it mended."""


@dataclass(frozen=True, slots=True)
class OpenFinding:
    """A finding that no verification has seen mended yet."""

    finding: Finding
    first_seen_at: dt.datetime
    last_seen_at: dt.datetime


@dataclass(frozen=True, slots=True)
class VerifyBudget:
    """How much of the packs one verification may read, and how old a proof may be.

    Records, maps and listings are looked at whole every time; the budget is for the packs. At
    least one pack is read if any is due, so that even the smallest budget gets round.
    """

    level: VerifyLevel = VerifyLevel.CONTENT
    """STORED or CONTENT: how deep packs are looked at."""
    every_days: float = 30.0
    """A pack is due again when its last proof is older than this; above 0."""
    max_bytes: int | None = None
    """Stored bytes of packs to read at most; None for no limit."""
    max_duration_s: float | None = None
    """No pack is begun after so long a time, counted from the start; None for no limit."""

    def __post_init__(self) -> None:
        if self.level < VerifyLevel.STORED:
            raise InvalidInput(
                f"level {self.level.name.lower()}", "reads no packs: nothing to limit"
            )
        if self.every_days <= 0:
            raise InvalidInput(f"every {self.every_days} days", "is no time at all")
        if (self.max_bytes or 0) < 0 or (self.max_duration_s or 0) < 0:
            raise InvalidInput("verify budget", "is below zero")


@dataclass(frozen=True, slots=True)
class VerifyCoverage:
    """How much of what is stored has been proven lately. Packs under quarantine are left out."""

    level: VerifyLevel
    every_days: float
    pack_count: int
    stored_bytes: int
    covered_pack_count: int
    """Packs found sound at this level within `every_days`."""
    covered_bytes: int
    oldest_age_s: float
    """Age of the oldest last proof; a pack never proven counts from when it was first seen."""
    open_finding_count: int
    damaged_point_count: int
    """Restore points that open findings concern."""

    @property
    def covered_share(self) -> float:
        """Share of the stored bytes that is covered, 0 to 1; 1 if nothing is stored."""
        return self.covered_bytes / self.stored_bytes if self.stored_bytes else 1.0


@dataclass(frozen=True, slots=True)
class VerifyProgress:
    """How far a verification has come."""

    objects_done: int
    objects_total: int
    bytes_done: int
    bytes_total: int


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The result of a verification; `is_clean` is the one thing a script has to look at."""

    level: VerifyLevel
    findings: tuple[Finding, ...]
    """What this verification found."""
    points_checked: int
    disks_checked: int
    objects_checked: int
    packs_checked: int
    chunks_checked: int
    bytes_checked: int
    still_open: tuple[OpenFinding, ...] = ()
    """Findings of earlier verifications that this one did not see mended (H6)."""
    mended: tuple[OpenFinding, ...] = ()
    """Findings of earlier verifications that are no more."""
    coverage: VerifyCoverage | None = None
    """Only for a verification with a budget."""

    @property
    def is_clean(self) -> bool:
        """Whether nothing is known to be wrong, by this or any earlier verification."""
        return not self.findings and not self.still_open


def damaged_points(findings: Iterable[Finding]) -> frozenset[str]:
    """Ids of the restore points that these findings concern."""
    return frozenset(part.point_id for finding in findings for part in finding.concerned)
