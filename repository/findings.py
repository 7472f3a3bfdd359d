"""What verification reports: findings that name the object, the restore points and the ranges."""

from __future__ import annotations

import enum
from dataclasses import dataclass

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
    points_checked: int
    disks_checked: int
    objects_checked: int
    packs_checked: int
    chunks_checked: int
    bytes_checked: int

    @property
    def is_clean(self) -> bool:
        return not self.findings
