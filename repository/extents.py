"""Extents, and the plan of chunks that they ask for. Pure: no bytes are read here."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from repository.errors import InvalidInput


class ExtentKind(enum.StrEnum):
    """What is known of an extent."""

    DATA = "data"
    """May hold anything: has to be read."""
    ZERO = "zero"
    """Reads as zeros: need not be read."""


@dataclass(frozen=True, slots=True, order=True)
class Extent:
    """A half-open byte range `[start_bytes, end_bytes)` of one disk, and what is known of it."""

    start_bytes: int
    end_bytes: int
    kind: ExtentKind = ExtentKind.DATA

    @property
    def length_bytes(self) -> int:
        return self.end_bytes - self.start_bytes


class ChunkAction(enum.Enum):
    """What a backup does with a run of chunks; chunks outside all runs are inherited."""

    READ = "read"
    ZERO = "zero"


@dataclass(frozen=True, slots=True)
class ChunkRun:
    """Chunks `[first, first + count)` of one disk that share an action."""

    first: int
    count: int
    action: ChunkAction

    @property
    def end(self) -> int:
        return self.first + self.count


def chunk_count(size_bytes: int, chunk_size_bytes: int) -> int:
    """Chunks of a disk; the last one may be short, so this rounds up."""
    return -(-size_bytes // chunk_size_bytes)


def check_extents(extents: Iterable[Extent], size_bytes: int) -> None:
    """Refuse extents that are empty, unsorted, overlapping or outside the disk (InvalidInput)."""
    position = 0
    for extent in extents:
        if not 0 <= extent.start_bytes < extent.end_bytes <= size_bytes:
            raise InvalidInput(
                f"extent [{extent.start_bytes}, {extent.end_bytes})",
                f"is empty or outside the disk of {size_bytes} bytes",
            )
        if extent.start_bytes < position:
            raise InvalidInput(
                f"extent [{extent.start_bytes}, {extent.end_bytes})",
                f"starts before the end of the one before it, {position}",
            )
        position = extent.end_bytes


def plan_chunks(
    extents: Sequence[Extent],
    size_bytes: int,
    chunk_size_bytes: int,
    *,
    base_size_bytes: int | None,
) -> list[ChunkRun]:
    """Chunk runs to read or to record as zero, sorted; everything else is inherited.

    An extent that ends inside a chunk makes the whole chunk be read: only a chunk that ZERO
    extents cover completely is taken as zero unread. Where the disk is larger than its base, what
    no extent claims is read; and the chunk that holds the base's or the disk's unaligned end is
    read, because its length, and so its id, differs from the base's (B-rules on resize).
    """
    check_extents(extents, size_bytes)
    runs = list(_claims(extents, size_bytes, chunk_size_bytes))
    if base_size_bytes is not None and base_size_bytes != size_bytes:
        runs = _with_resize(runs, base_size_bytes, size_bytes, chunk_size_bytes)
    return list(_merge(runs))


def _claims(
    extents: Sequence[Extent], size_bytes: int, chunk_size_bytes: int
) -> Iterator[ChunkRun]:
    """One run per stretch of chunks that the extents touch, sorted, each chunk once."""
    planned_end = 0  # chunks below are decided
    for start, end, kind in _joined(extents):
        last_end = (
            end if end < size_bytes else chunk_count(end, chunk_size_bytes) * chunk_size_bytes
        )
        first_touched = start // chunk_size_bytes
        end_touched = chunk_count(end, chunk_size_bytes)
        if kind is ExtentKind.DATA:
            first = max(first_touched, planned_end)
            if end_touched > first:
                yield ChunkRun(first, end_touched - first, ChunkAction.READ)
            planned_end = max(planned_end, end_touched)
            continue
        whole_first = max(chunk_count(start, chunk_size_bytes), planned_end)
        whole_end = last_end // chunk_size_bytes
        if first_touched < whole_first and first_touched >= planned_end:
            yield ChunkRun(first_touched, 1, ChunkAction.READ)
        if whole_end > whole_first:
            yield ChunkRun(whole_first, whole_end - whole_first, ChunkAction.ZERO)
        if end_touched > max(whole_end, whole_first):
            yield ChunkRun(end_touched - 1, 1, ChunkAction.READ)
        planned_end = max(planned_end, end_touched)


def _joined(extents: Sequence[Extent]) -> Iterator[tuple[int, int, ExtentKind]]:
    """Extents of one kind that touch, as one."""
    current: tuple[int, int, ExtentKind] | None = None
    for extent in extents:
        if current and current[1] == extent.start_bytes and current[2] is extent.kind:
            current = (current[0], extent.end_bytes, extent.kind)
            continue
        if current:
            yield current
        current = (extent.start_bytes, extent.end_bytes, extent.kind)
    if current:
        yield current


def _with_resize(
    runs: list[ChunkRun], base_size_bytes: int, size_bytes: int, chunk_size_bytes: int
) -> list[ChunkRun]:
    """The runs, completed by what a change of size makes necessary to read."""
    count = chunk_count(size_bytes, chunk_size_bytes)
    shared = min(base_size_bytes, size_bytes)
    first = shared // chunk_size_bytes  # chunk that holds the unaligned end, or the first new one
    boundary_only = size_bytes < base_size_bytes
    end = min(first + 1, count) if boundary_only else count
    if boundary_only and shared % chunk_size_bytes == 0:
        return runs
    return _filled(runs, first, end)


def _filled(runs: list[ChunkRun], first: int, end: int) -> list[ChunkRun]:
    """The runs, with READ runs in every gap of `[first, end)`."""
    filled: list[ChunkRun] = []
    position = first
    for run in runs:
        if run.end > first and run.first < end:
            if run.first > position:
                filled.append(ChunkRun(position, run.first - position, ChunkAction.READ))
            position = max(position, run.end)
        filled.append(run)
    if position < end:
        filled.append(ChunkRun(position, end - position, ChunkAction.READ))
    return sorted(filled, key=lambda run: run.first)


def _merge(runs: Iterable[ChunkRun]) -> Iterator[ChunkRun]:
    """Adjacent runs of one action become one."""
    current: ChunkRun | None = None
    for run in runs:
        if current and current.end == run.first and current.action is run.action:
            current = ChunkRun(current.first, current.count + run.count, run.action)
            continue
        if current:
            yield current
        current = run
    if current:
        yield current
