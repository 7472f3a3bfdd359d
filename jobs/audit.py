"""Change tracking is believed only as far as samples confirm it (`peers-and-format §7.10`).

On every incremental a few chunks that the cluster calls unchanged are read all the same and compared
with what the last restore point holds. Once in a while everything allocated is read, and what was
found to differ is held against the change list. Either way, one chunk that differs although the
cluster called it unchanged means that the whole disk is read, with an alarm: a wrong change list
must never become a wrong restore point.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from repository import DiskRecord, DiskSource, Extent, ExtentKind

READ_CAUSE = "read_cause"
"""The fact of a disk record that says why it was read by the method it was (B7)."""
FULLY_READ_AT = "fully_read_at"
"""The fact of a disk record that says when everything allocated of the disk was last read."""

SAMPLES_MIN = 16
SAMPLES_PER_CHUNK = 0.0002
SAMPLED_BYTES_MAX = 256 * 1024 * 1024


def sample_unchanged(
    size_bytes: int, chunk_size_bytes: int, changed: Sequence[Extent], *, seed: str
) -> list[Extent]:
    """Whole chunks outside `changed`, to be compared: half from the disk's start, half from anywhere.

    At least 16 or 0.02 % of the disk's chunks, whichever is more, at most 256 MiB, never more than
    there are. The start is favoured because partition tables, boot code and file system heads lie
    there. The same seed gives the same sample. `changed` must be sorted and not overlap.
    """
    runs = list(_untouched_runs(size_bytes // chunk_size_bytes, chunk_size_bytes, changed))
    untouched = sum(end - start for start, end in runs)
    wanted = max(SAMPLES_MIN, int(size_bytes // chunk_size_bytes * SAMPLES_PER_CHUNK))
    count = min(wanted, max(1, SAMPLED_BYTES_MAX // chunk_size_bytes), untouched)
    first = (count + 1) // 2
    places = [*range(first)]
    if count > first:
        places += random.Random(seed).sample(range(first, untouched), count - first)  # noqa: S311
    chunks = _chunks_at(runs, sorted(places))
    return [Extent(each * chunk_size_bytes, (each + 1) * chunk_size_bytes) for each in chunks]


def sample_zeros(extents: Sequence[Extent], chunk_size_bytes: int, *, seed: str) -> list[Extent]:
    """Whole chunks of the ranges that are said to hold zeros only; as many as of the unchanged ones."""
    zeros = [extent for extent in extents if extent.kind is ExtentKind.ZERO]
    end_bytes = max((extent.end_bytes for extent in zeros), default=0)
    others = [extent for extent in extents if extent.kind is ExtentKind.DATA]
    return sample_unchanged(end_bytes, chunk_size_bytes, others, seed=seed)


def not_zero(source: DiskSource, samples: Sequence[Extent]) -> list[Extent]:
    """Those of the samples, all of one length, that hold anything but zeros. Raises what the source does."""
    if not samples:
        return []
    zeros = bytes(samples[0].length_bytes)
    buffer = memoryview(bytearray(len(zeros)))
    found = []
    for sample in samples:
        source.read_into(sample.start_bytes, buffer)
        if buffer != zeros:
            found.append(sample)
    return found


def fully_read_at(base: DiskRecord | None) -> datetime | None:
    """When everything allocated of the disk was last read; `None` when nobody knows."""
    said = base.source_facts.get(FULLY_READ_AT) if base else None
    return datetime.fromisoformat(str(said)) if said else None


def is_full_read_due(base: DiskRecord, now: datetime, interval_days: int | None) -> bool:
    """Whether the disk's next full read is due. One that was never recorded is due.

    Disks that came into a job on one day would all be due on one day, so each is due up to a quarter
    of the interval earlier, by its id.
    """
    if interval_days is None:
        return False
    last = fully_read_at(base)
    early_days = zlib.crc32(base.disk_id.encode()) % (interval_days // 4 + 1)
    return last is None or now - last >= timedelta(days=interval_days - early_days)


def outside(
    found: Sequence[Extent], claimed: Sequence[Extent], chunk_size_bytes: int
) -> list[Extent]:
    """The chunks that were found to differ and that no claimed extent touches: proof of a wrong list.

    Both sorted and not overlapping; `found` is made of whole chunks.
    """
    size_bytes = found[-1].end_bytes if found else 0
    untouched = [
        Extent(first * chunk_size_bytes, end * chunk_size_bytes)
        for first, end in _untouched_runs(size_bytes // chunk_size_bytes, chunk_size_bytes, claimed)
    ]
    lies, position = [], 0
    for extent in found:
        while position < len(untouched) and untouched[position].end_bytes <= extent.start_bytes:
            position += 1
        for run in untouched[position:]:
            if run.start_bytes >= extent.end_bytes:
                break
            start = max(run.start_bytes, extent.start_bytes)
            lies.append(Extent(start, min(run.end_bytes, extent.end_bytes)))
    return lies


def _untouched_runs(
    chunk_count: int, chunk_size_bytes: int, changed: Sequence[Extent]
) -> Iterator[tuple[int, int]]:
    """Half-open runs of chunk numbers that no extent touches."""
    reached = 0
    for extent in changed:
        first = extent.start_bytes // chunk_size_bytes
        if first > reached:
            yield reached, min(first, chunk_count)
        reached = max(reached, -(-extent.end_bytes // chunk_size_bytes))
    if reached < chunk_count:
        yield reached, chunk_count


def _chunks_at(runs: Sequence[tuple[int, int]], places: Sequence[int]) -> Iterator[int]:
    """Chunk numbers at these ordinals (ascending) of the runs laid end to end."""
    passed, pending = 0, iter(places)
    place = next(pending, None)
    for start, end in runs:
        while place is not None and place < passed + end - start:
            yield start + place - passed
            place = next(pending, None)
        passed += end - start
