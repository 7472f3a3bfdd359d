"""A plan while it is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from repository.collect_points import Points
from repository.store import ObjectInfo


@dataclass(slots=True)
class Draft:
    """A plan before it is published."""

    points: Points
    condemned: dict[str, ObjectInfo] = field(default_factory=dict)
    rewritten_packs: int = 0
    rewritten_bytes: int = 0
    """Read of packs to be rewritten."""
    stored_bytes: int = 0
    """Written in their place."""
    skipped_packs: int = 0
    """Packs that were to be rewritten and cannot be read."""
    quarantined: list[ObjectInfo] = field(default_factory=list)
    """What nothing needs and only its quarantine keeps."""
    discarded: list[ObjectInfo] = field(default_factory=list)
    """What is condemned although it is under quarantine."""

    def condemn(self, infos: Sequence[ObjectInfo]) -> None:
        self.condemned.update({info.key: info for info in infos})
