"""What one verification has looked at and found, and so which earlier findings it sees mended.

A finding is mended if the verification looked at its object, as deep as the finding needs, and did
not find it again; or if nothing needs the pack any more and it is deleted or under quarantine.
"""

from __future__ import annotations

from dataclasses import replace

from repository.findings import Finding, FindingKind, VerifyLevel
from repository.layout import PACKS, pack_id_in
from repository.store import ObjectInfo


class Sightings:
    """What one verification saw. Not thread-safe."""

    def __init__(self, level: VerifyLevel, *, is_whole: bool) -> None:
        """`is_whole` says whether it looks at everything, or at what chosen points need."""
        self._level = level
        self._is_whole = is_whole
        self._findings: dict[tuple[str, FindingKind], Finding] = {}
        self.looked_at: set[str] = set()
        """Names of the objects that were read, or were to be read."""
        self.listed: dict[str, ObjectInfo] = {}
        """The packs that there are, by name; empty below PRESENCE."""
        self.quarantined: frozenset[bytes] = frozenset()
        """The packs under quarantine."""

    def add(self, finding: Finding) -> None:
        """Keep the finding; several of one kind on one object become one."""
        known = self._findings.get((finding.key, finding.kind))
        if known is not None:
            new = tuple(part for part in finding.concerned if part not in known.concerned)
            finding = replace(known, concerned=known.concerned + new)
        self._findings[finding.key, finding.kind] = finding

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All that were found, in the order in which they were."""
        return tuple(self._findings.values())

    @property
    def object_count(self) -> int:
        """How many objects that are no packs were looked at."""
        return sum(not _is_pack(key) for key in self.looked_at)

    def is_in_sight(self, needed: set[str], finding: Finding) -> bool:
        """Whether this run would have found it again, so that it must be mended.

        `needed` are the names of the packs that the restore points looked at refer to.
        """
        if finding.level > self._level:
            return self._is_gone(needed, finding)
        if not _is_pack(finding.key):
            return finding.key in self.looked_at or self._is_whole
        if finding.key in self.looked_at:
            return True
        if finding.level <= VerifyLevel.PRESENCE and finding.key in self.listed:
            return self._is_whole or finding.key in needed
        return self._is_gone(needed, finding)

    def _is_gone(self, needed: set[str], finding: Finding) -> bool:
        """Whether nothing needs the pack any more, and it is deleted or under quarantine."""
        if not _is_pack(finding.key) or not self._is_whole or finding.key in needed:
            return False
        if self._level < VerifyLevel.PRESENCE:
            return False
        pack_id = pack_id_in(finding.key)
        return finding.key not in self.listed or pack_id in self.quarantined


def _is_pack(key: str) -> bool:
    return key.startswith(PACKS)
