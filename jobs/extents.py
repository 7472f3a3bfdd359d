"""Which bytes of a disk are read, and why: changed -> allocated -> all (B1-B7).

The ladder is tried per disk (B3). Every rung but the first stores its reason. A rung fails by
exception only: a partial region list never reaches this module (`nutanix` refuses to return one).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from nutanix import ChangedRegions, NutanixError
from repository import Extent, ExtentKind


class ReadMethod(StrEnum):
    """How the bytes to read were found."""

    CHANGED = "changed"
    """Regions that differ between the reference and the new recovery point."""
    ALLOCATED = "allocated"
    """Everything allocated; with a base, unchanged chunks are recognised by digest (B2)."""
    ALL = "all"
    """The whole disk, because the cluster could not say what is allocated."""


class NoReference(StrEnum):
    """Why changed regions could not be asked for. The text is shown to the operator."""

    FIRST_RUN = "first run of this VM in this job"
    NEW_DISK = "disk was added since the last restore point"
    REFERENCE_GONE = "the reference recovery point is no longer on the cluster"
    REFERENCE_UNKNOWN = "the last restore point does not name a recovery point of this disk"


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """What to read of one disk. `extents` say what may differ from the base, or from all zeros."""

    method: ReadMethod
    reason: str
    extents: tuple[Extent, ...]
    size_bytes: int

    @property
    def is_downgrade(self) -> bool:
        """Whether more is read than the run should have needed; never silent (B7)."""
        usual = (NoReference.FIRST_RUN, NoReference.NEW_DISK)
        expected = self.method is ReadMethod.ALLOCATED and self.reason in usual
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
    no_reference: NoReference | None,
    changed: Callable[[], ChangedRegions],
    allocated: Callable[[], ChangedRegions],
) -> DiskPlan:
    """Climb down the ladder for one disk.

    `changed` and `allocated` ask the cluster and raise `NutanixError` when it has no answer;
    `changed` is called only when `no_reference` is `None`. `base_size_bytes` is the size of the disk
    at the last restore point, `None` without one.
    """
    if no_reference is None and base_size_bytes is not None:
        try:
            regions = changed()
        except NutanixError as error:
            reason = f"changed regions could not be had: {error}"
        else:
            reason = "changed regions since the last restore point"
            extents = changed_extents(
                regions, size_bytes=size_bytes, base_size_bytes=base_size_bytes
            )
            return DiskPlan(ReadMethod.CHANGED, reason, extents, size_bytes)
    else:
        reason = str(no_reference or NoReference.FIRST_RUN)
    try:
        regions = allocated()
    except NutanixError as error:
        reason = f"{reason}; allocated regions could not be had: {error}"
        return read_all(size_bytes, reason)
    extents = allocated_extents(regions, size_bytes=size_bytes)
    return DiskPlan(ReadMethod.ALLOCATED, reason, extents, size_bytes)


def read_all(size_bytes: int, reason: str) -> DiskPlan:
    """The plan that trusts nothing: every byte is read, and compared by digest where there is a base."""
    everything = (Extent(0, size_bytes, ExtentKind.DATA),) if size_bytes else ()
    return DiskPlan(ReadMethod.ALL, reason, everything, size_bytes)


def changed_extents(
    regions: ChangedRegions, *, size_bytes: int, base_size_bytes: int
) -> tuple[Extent, ...]:
    """What may differ from the base: the regions, and all of a grown tail that they do not cover.

    A range that is not listed is unchanged (`nutanix-v4 §15.2`), but only as far as the base went:
    whether a grown tail counts as changed is not documented, so its silence is not trusted.
    """
    extents = _clip(regions, size_bytes)
    if size_bytes > base_size_bytes:
        tail = _fill_gaps(extents, start_bytes=base_size_bytes, end_bytes=size_bytes)
        extents = sorted([*extents, *tail], key=lambda extent: extent.start_bytes)
    return tuple(extents)


def allocated_extents(regions: ChangedRegions, *, size_bytes: int) -> tuple[Extent, ...]:
    """The whole disk, told apart into data and zeros; a gap in the answer is read (`nutanix-v4 §15.2`).

    Complete on purpose: with a base, a range freed since then must become zeros, not be inherited.
    """
    extents = _clip(regions, size_bytes)
    gaps = _fill_gaps(extents, start_bytes=0, end_bytes=size_bytes)
    return tuple(sorted([*extents, *gaps], key=lambda extent: extent.start_bytes))


def _clip(regions: ChangedRegions, size_bytes: int) -> list[Extent]:
    clipped: list[Extent] = []
    for region in regions.regions:
        start_bytes = region.offset_bytes
        end_bytes = min(region.offset_bytes + region.length_bytes, size_bytes)
        if start_bytes < end_bytes:
            kind = ExtentKind.ZERO if region.is_zeroed else ExtentKind.DATA
            clipped.append(Extent(start_bytes, end_bytes, kind))
    return clipped


def _fill_gaps(
    extents: Sequence[Extent] | Iterable[Extent], *, start_bytes: int, end_bytes: int
) -> list[Extent]:
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
