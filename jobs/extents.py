"""Which bytes of a disk are read, and why: changed -> allocated -> all (B1-B7).

The ladder is tried per disk (B3). Every rung but the first stores its reason. A rung fails by
exception only: a partial region list never reaches this module (`nutanix` refuses to return one).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

from nutanix import ChangedRegions, NutanixError, RegionsUnusable
from repository import Extent, ExtentKind

log = logging.getLogger(__name__)


class ReadMethod(StrEnum):
    """How the bytes to read were found."""

    CHANGED = "changed"
    """Regions that differ between the reference and the new recovery point."""
    ALLOCATED = "allocated"
    """Everything allocated; with a base, unchanged chunks are recognised by digest (B2)."""
    ALL = "all"
    """The whole disk, because the cluster could not say what is allocated."""


class ReadCause(StrEnum):
    """Why a disk was read by the method it was (B7). The value is stored with the restore point."""

    CHANGED_REGIONS = "changed-regions"
    FIRST_RUN = "first-run"
    NEW_DISK = "new-disk"
    REPLACED_DISK = "replaced-disk"
    VM_REVERTED = "vm-reverted"
    VM_MOVED = "vm-moved"
    VM_RECREATED = "vm-recreated"
    REFERENCE_GONE = "reference-gone"
    REFERENCE_UNKNOWN = "reference-unknown"
    REGIONS_REFUSED = "regions-refused"
    BASE_DAMAGED = "base-damaged"
    TRACKING_WRONG = "tracking-wrong"
    AUDIT_DUE = "audit-due"

    @property
    def text(self) -> str:
        """The same for the operator."""
        return _TEXTS[self]


_TEXTS = {
    ReadCause.CHANGED_REGIONS: "changed regions since the last restore point",
    ReadCause.FIRST_RUN: "first run of this VM in this job",
    ReadCause.NEW_DISK: "disk was added since the last restore point",
    ReadCause.REPLACED_DISK: "another disk has taken its place since the last restore point",
    ReadCause.VM_REVERTED: "the VM was reverted or restored in place since the last restore point",
    ReadCause.VM_MOVED: "the VM has moved to another cluster since the last restore point",
    ReadCause.VM_RECREATED: "the VM was made again, under a new id, since the last restore point",
    ReadCause.REFERENCE_GONE: "the reference recovery point is no longer on the cluster",
    ReadCause.REFERENCE_UNKNOWN: "the last restore point does not name a recovery point of this disk",
    ReadCause.REGIONS_REFUSED: "changed regions could not be had",
    ReadCause.BASE_DAMAGED: "the last restore point cannot be built on",
    ReadCause.TRACKING_WRONG: "the cluster's change list was wrong",
    ReadCause.AUDIT_DUE: "a full read is due, to prove the change lists since the last one",
}

_USUAL = (
    ReadCause.FIRST_RUN,
    ReadCause.NEW_DISK,
    ReadCause.REPLACED_DISK,
    ReadCause.AUDIT_DUE,
)

ATTEMPTS_MAX = 3
"""A list that breaks its own rules may be whole the next time (B table); after that it is refused."""


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """What to read of one disk. `extents` say what may differ from the base, or from all zeros."""

    method: ReadMethod
    cause: ReadCause
    reason: str
    """The cause in words, with what is known beyond it."""
    extents: tuple[Extent, ...]
    size_bytes: int
    claimed: tuple[Extent, ...] | None = None
    """In a full-read audit: what the change list named, to be held against what was found."""

    @property
    def is_downgrade(self) -> bool:
        """Whether more is read than the run should have needed; never silent (B7)."""
        expected = self.method is ReadMethod.ALLOCATED and self.cause in _USUAL
        return self.method is not ReadMethod.CHANGED and not expected

    @property
    def to_read_bytes(self) -> int:
        """Bytes of the data extents: what the transfer will read, before alignment to chunks."""
        data = (extent for extent in self.extents if extent.kind is ExtentKind.DATA)
        return sum(extent.end_bytes - extent.start_bytes for extent in data)


def plan_disk(
    *,
    size_bytes: int,
    base_size_bytes: int | None,
    no_reference: ReadCause | None,
    changed: Callable[[], ChangedRegions],
    allocated: Callable[[], ChangedRegions],
) -> DiskPlan:
    """Climb down the ladder for one disk.

    `changed` and `allocated` ask the cluster and raise `NutanixError` when it has no answer;
    `changed` is called only when `no_reference` is `None`. `base_size_bytes` is the size of the disk
    at the last restore point, `None` without one.
    """
    if no_reference is not None or base_size_bytes is None:
        cause = no_reference or ReadCause.FIRST_RUN
        return plan_allocated(size_bytes, cause, cause.text, allocated)
    cause = ReadCause.CHANGED_REGIONS
    try:
        regions = _asked_again(changed)
    except NutanixError as error:
        cause = ReadCause.REGIONS_REFUSED
        return plan_allocated(size_bytes, cause, f"{cause.text}: {error}", allocated)
    extents = changed_extents(regions, size_bytes=size_bytes, base_size_bytes=base_size_bytes)
    return DiskPlan(ReadMethod.CHANGED, cause, cause.text, extents, size_bytes)


def plan_allocated(
    size_bytes: int, cause: ReadCause, reason: str, allocated: Callable[[], ChangedRegions]
) -> DiskPlan:
    """Everything allocated; the whole disk when the cluster cannot say what is (B6)."""
    try:
        regions = _asked_again(allocated)
    except NutanixError as error:
        return read_all(size_bytes, cause, f"{reason}; allocated regions could not be had: {error}")
    extents = allocated_extents(regions, size_bytes=size_bytes)
    return DiskPlan(ReadMethod.ALLOCATED, cause, reason, extents, size_bytes)


def _asked_again(question: Callable[[], ChangedRegions]) -> ChangedRegions:
    """The answer, asked for again while it breaks its own rules; a partial one is never used (B5)."""
    for _ in range(ATTEMPTS_MAX - 1):
        try:
            return question()
        except RegionsUnusable as error:
            log.info("Asking again: %s", error)
    return question()


def read_all(size_bytes: int, cause: ReadCause, reason: str) -> DiskPlan:
    """The plan that trusts nothing: every byte is read, and compared by digest where there is a base."""
    everything = (Extent(0, size_bytes, ExtentKind.DATA),) if size_bytes else ()
    return DiskPlan(ReadMethod.ALL, cause, reason, everything, size_bytes)


def changed_extents(
    regions: ChangedRegions, *, size_bytes: int, base_size_bytes: int
) -> tuple[Extent, ...]:
    """What may differ from the base: the regions, and all of a grown tail that they do not cover.

    A range that is not listed is unchanged (`nutanix-v4 §15.2`), but only as far as the base went:
    whether a grown tail counts as changed is not documented, so its silence is not trusted. Nor is
    it beyond the size that the answer itself names.
    """
    told_bytes = min(base_size_bytes, regions.size_bytes)
    extents = _clip(regions, size_bytes)
    if size_bytes > told_bytes:
        tail = _fill_gaps(extents, start_bytes=told_bytes, end_bytes=size_bytes)
        extents = _in_order([*extents, *tail])
    return tuple(extents)


def allocated_extents(regions: ChangedRegions, *, size_bytes: int) -> tuple[Extent, ...]:
    """The whole disk, told apart into data and zeros; a gap in the answer is read (`nutanix-v4 §15.2`).

    Complete on purpose: with a base, a range freed since then must become zeros, not be inherited.
    """
    extents = _clip(regions, size_bytes)
    gaps = _fill_gaps(extents, start_bytes=0, end_bytes=size_bytes)
    return tuple(_in_order([*extents, *gaps]))


def with_more_read(extents: Sequence[Extent], more: Sequence[Extent]) -> tuple[Extent, ...]:
    """The extents, and every byte of `more` that none of them covers as data to be read.

    Both sorted and not overlapping, and so is the result.
    """
    merged, position = list(extents), 0
    for extent in more:
        while position < len(extents) and extents[position].end_bytes <= extent.start_bytes:
            position += 1
        merged += _fill_gaps(
            islice(extents, position, None),
            start_bytes=extent.start_bytes,
            end_bytes=extent.end_bytes,
        )
    return tuple(_in_order(merged))


def _in_order(extents: list[Extent]) -> list[Extent]:
    return sorted(extents, key=lambda extent: extent.start_bytes)


def _clip(regions: ChangedRegions, size_bytes: int) -> list[Extent]:
    clipped: list[Extent] = []
    for region in regions.regions:
        start_bytes = region.offset_bytes
        end_bytes = min(region.offset_bytes + region.length_bytes, size_bytes)
        if start_bytes < end_bytes:
            kind = ExtentKind.ZERO if region.is_zeroed else ExtentKind.DATA
            clipped.append(Extent(start_bytes, end_bytes, kind))
    return clipped


def _fill_gaps(extents: Iterable[Extent], *, start_bytes: int, end_bytes: int) -> list[Extent]:
    """Data extents for every byte of `[start, end)` that no extent covers."""
    gaps: list[Extent] = []
    reached = start_bytes
    for extent in extents:
        if extent.end_bytes <= reached:
            continue
        if extent.start_bytes > reached:
            gaps.append(Extent(reached, min(extent.start_bytes, end_bytes), ExtentKind.DATA))
        reached = extent.end_bytes
        if reached >= end_bytes:
            break
    if reached < end_bytes:
        gaps.append(Extent(reached, end_bytes, ExtentKind.DATA))
    return gaps
