"""Restore points: the records that make them exist, and their listing.

A restore point is one commit record, written last and never changed. Records carry everything that
a restore needs besides the packs: which map objects describe each disk, and the root hash that the
maps must add up to. Their stored form is in docs/repository-format.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from repository.counters import TransferFigures

Identifier = Annotated[str, StringConstraints(min_length=1, max_length=200)]
HexDigest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Record(BaseModel):
    # Members of a later version are ignored: what a reader must know is said by features.
    model_config = ConfigDict(frozen=True, extra="ignore")


class ObjectRef(_Record):
    """A stored object and what its bytes must be."""

    key: str
    size_bytes: int = Field(ge=0)
    sha256: HexDigest
    """Over the stored bytes, so sealed ones too."""


class DiskSpec(_Record):
    """Which disk is about to be written."""

    disk_id: Identifier
    """The cluster's id of the disk; unique within the VM and stable between sessions."""
    size_bytes: int = Field(ge=0)
    label: str = ""
    """What people call it, for example `scsi.0`."""


class DiskRecord(_Record):
    """One disk of a restore point. Serialisable: transfer and commit may be different processes."""

    disk_id: Identifier
    label: str
    size_bytes: int = Field(ge=0)
    chunk_size_bytes: int = Field(gt=0)
    maps: tuple[ObjectRef, ...]
    """Base first, then deltas; a later one wins."""
    root: HexDigest
    """Root hash over the ids of all chunks (docs/repository-format.md, Root hash)."""
    read_method: str
    """How the extents were found: the layer above decides the words."""
    read_reason: str = ""
    """Why it was not the cheapest method; empty if it was."""
    source_facts: dict[str, Any] = Field(default_factory=dict)
    gc_generation: int = Field(default=0, ge=0)
    """The newest generation of collection when the session that wrote it began."""
    figures: TransferFigures = TransferFigures()


class CopyOrigin(_Record):
    """The restore point, in the repository where a backup made it, that another is a copy of."""

    repository_id: Identifier
    point_id: Identifier


class PointDraft(_Record):
    """What the caller says of a restore point about to be committed."""

    vm_id: Identifier
    vm_name: str
    job: str
    session_id: Identifier
    session_started_at: AwareDatetime
    """When the session began: retention counts days from here (T3). Stored as UTC."""
    created_at: AwareDatetime
    """The moment the data is from (that of the snapshot), not of the commit; stored as UTC."""
    consistency: str
    """The level reached, for example `crash` or `application`."""
    disks: tuple[DiskRecord, ...]
    vm_config: dict[str, Any] = Field(default_factory=dict)
    source: dict[str, Any] = Field(default_factory=dict)
    """Opaque to the engine; names the recovery point it came from (N8)."""
    previous_point_id: str | None = None
    copied_from: CopyOrigin | None = None
    """None for a restore point that a backup made here."""


class RestorePoint(PointDraft):
    """A committed restore point, complete by itself."""

    id: Identifier
    key: str
    """The commit record's object name."""
    committed_at: AwareDatetime
    gc_generation: int = Field(ge=0)
    """The newest generation of collection that the writer had seen."""

    @property
    def provisioned_bytes(self) -> int:
        """Sum of the disks' sizes."""
        return sum(disk.size_bytes for disk in self.disks)

    @property
    def read_bytes(self) -> int:
        """Bytes read from the source for this point."""
        return sum(disk.figures.read_bytes for disk in self.disks)

    @property
    def stored_bytes(self) -> int:
        """Bytes that this point added to the store, maps excluded."""
        return sum(disk.figures.stored_bytes for disk in self.disks)

    def disk(self, disk_id: str) -> DiskRecord | None:
        """The record of one disk, or None."""
        return next((disk for disk in self.disks if disk.disk_id == disk_id), None)


@dataclass(frozen=True, slots=True)
class DamagedRecord:
    """A record that cannot be read; it never hides the others."""

    key: str
    detail: str


@dataclass(frozen=True, slots=True)
class PointListing:
    """All restore points asked for, oldest first, and the records that could not be read."""

    points: list[RestorePoint]
    damaged: list[DamagedRecord]

    def newest(self) -> RestorePoint | None:
        """The newest by the moment of its data, or None."""
        return self.points[-1] if self.points else None
