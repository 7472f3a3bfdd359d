"""Findings that stay open until a verification sees them mended (H6).

Each is a live record under `live/findings/`, named by a hash of the object's name and of what is
wrong with it. A check that does not look at the object, or not so deep, leaves it open; so a second
check of the same damage can never report success. Like all of `live/` they can be lost without harm
to what is stored: a verification of everything finds the same again.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from repository.extents import Extent, ExtentKind
from repository.findings import Concerned, Finding, FindingKind, OpenFinding, VerifyLevel
from repository.live import LiveRecords
from repository.points import DamagedRecord

KIND = "findings"


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of the findings that were open before a verification."""

    still_open: tuple[OpenFinding, ...]
    mended: tuple[OpenFinding, ...]


class OpenFindings:
    """The open findings of one repository. Thread-safe."""

    def __init__(self, live: LiveRecords) -> None:
        self._live = live

    def all(self) -> list[OpenFinding]:
        """All that can be read, oldest first; raises the store's errors."""
        return self._read()[0]

    def settle(
        self, found: Iterable[Finding], is_in_sight: Callable[[Finding], bool], now: dt.datetime
    ) -> Settled:
        """Record what was found, and close what was in sight and is no more. Durable on return."""
        known, _ = self._read()
        before = {_key_of(each.finding): each for each in known}
        current = {_key_of(finding): finding for finding in found}
        for key, finding in current.items():
            since = before[key].first_seen_at if key in before else now
            self._live.put(KIND, key, _encoded(OpenFinding(finding, since, now)))
        others = [each for key, each in before.items() if key not in current]
        mended = tuple(each for each in others if is_in_sight(each.finding))
        for each in mended:
            self._live.delete(KIND, _key_of(each.finding))
        return Settled(tuple(each for each in others if each not in mended), mended)

    def besides(self, found: Iterable[Finding]) -> tuple[OpenFinding, ...]:
        """What is open besides these, without writing anything."""
        keys = {_key_of(finding) for finding in found}
        return tuple(each for each in self.all() if _key_of(each.finding) not in keys)

    def remove_unreadable(self) -> None:
        """Remove records that cannot be read; for when everything was looked at anew."""
        for damaged in self._read()[1]:
            name = damaged.key.rpartition("/")[2].removesuffix(".json")
            self._live.delete(KIND, name)

    def _read(self) -> tuple[list[OpenFinding], list[DamagedRecord]]:
        listing = self._live.list(KIND)
        found: list[OpenFinding] = []
        damaged = list(listing.damaged)
        for key, record in listing.records.items():
            try:
                found.append(_decoded(record))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                damaged.append(DamagedRecord(key, f"its members cannot be ({error})"))
        found.sort(key=lambda each: (each.first_seen_at, each.finding.key))
        return found, damaged


def _key_of(finding: Finding) -> str:
    return blake3(f"{finding.kind}\n{finding.key}".encode()).hexdigest()[:32]


def concerned_as_data(concerned: Iterable[Concerned]) -> list[dict[str, Any]]:
    """Whom a finding concerns, as it stands in records."""
    return [
        {
            "point_id": part.point_id,
            "vm_name": part.vm_name,
            "disk_id": part.disk_id,
            "ranges": [[extent.start_bytes, extent.end_bytes] for extent in part.extents],
        }
        for part in concerned
    ]


def _encoded(each: OpenFinding) -> dict[str, Any]:
    finding = each.finding
    return {
        "key": finding.key,
        "finding": finding.kind.value,
        "detail": finding.detail,
        "level": finding.level.name.lower(),
        "concerned": concerned_as_data(finding.concerned),
        "first_seen_at": each.first_seen_at.isoformat(),
        "last_seen_at": each.last_seen_at.isoformat(),
    }


def _decoded(record: Mapping[str, Any]) -> OpenFinding:
    concerned = tuple(
        Concerned(
            str(part["point_id"]),
            str(part["vm_name"]),
            part["disk_id"],
            tuple(Extent(start, end, ExtentKind.DATA) for start, end in part["ranges"]),
        )
        for part in record["concerned"]
    )
    finding = Finding(
        str(record["key"]),
        FindingKind(record["finding"]),
        str(record["detail"]),
        concerned,
        VerifyLevel[record["level"].upper()],
    )
    first, last = (
        dt.datetime.fromisoformat(record[name]) for name in ("first_seen_at", "last_seen_at")
    )
    if first.utcoffset() is None or last.utcoffset() is None:
        raise ValueError("a time has no time zone")
    return OpenFinding(finding, first, last)
