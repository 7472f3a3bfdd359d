"""Where a transfer's time went (M5): the load of each stage, and the stage that held the others up."""

from __future__ import annotations

from collections.abc import Sequence

from repository import TransferFigures

SOURCE, WORKER, TARGET, THROTTLING = "source", "worker", "target", "throttling"


def stage_loads(
    figures: Sequence[TransferFigures], *, transfer_s: float, core_count: int
) -> dict[str, int]:
    """Percent of the transfer time in which each stage was busy, over all disks of a VM.

    `source` waits for the attached disks, `target` for the store, `throttling` for a limit;
    `worker` is time on the cores, of which there are `core_count`. Stages overlap, so the numbers
    do not add up to 100. Empty when nothing was transferred.
    """
    if transfer_s <= 0 or not any(each.read_bytes for each in figures):
        return {}
    seconds = {
        SOURCE: sum(each.read_s for each in figures),
        WORKER: sum(each.compute_s for each in figures) / max(1, core_count),
        TARGET: sum(each.upload_s for each in figures),
        THROTTLING: sum(each.throttled_s for each in figures),
    }
    return {stage: min(100, round(100 * busy_s / transfer_s)) for stage, busy_s in seconds.items()}


def bottleneck(loads: dict[str, int]) -> str | None:
    """The busiest stage; `None` when nothing was transferred. A limit that holds wins a tie (Q11)."""
    if not loads:
        return None
    return max(loads, key=lambda stage: (loads[stage], stage == THROTTLING))
