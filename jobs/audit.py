"""Change tracking is believed only as far as samples confirm it (`peers-and-format §7.10`).

On every incremental a few chunks that the cluster calls unchanged are read all the same and compared
with what the last restore point holds. One that differs means that the whole disk is read, with an
alarm: a wrong change list must never become a wrong restore point.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from repository import Extent

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
