"""Where a transfer's time went (M5): the load of each stage, and the stage that held the others up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

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


def session_loads(parts: Iterable[tuple[dict[str, int], float]]) -> dict[str, int]:
    """The loads of a session from those of its VMs, each weighted by its transfer time in seconds."""
    weighted: dict[str, float] = {}
    total_s = 0.0
    for loads, transfer_s in parts:
        if not loads:
            continue
        total_s += transfer_s
        for stage, percent in loads.items():
            weighted[stage] = weighted.get(stage, 0.0) + percent * transfer_s
    return {stage: round(each / total_s) for stage, each in weighted.items()} if total_s else {}


def covered_s(spans: Iterable[tuple[datetime, float]]) -> float:
    """Seconds in which at least one of the spans (start, length in seconds) ran.

    The base of a session's rate (M2): the time in which data moved, where several VMs move at once.
    """
    total = timedelta(0)
    reached: datetime | None = None
    for start, length_s in sorted(spans):
        end = start + timedelta(seconds=length_s)
        begin = start if reached is None else max(start, reached)
        total += max(end - begin, timedelta(0))
        reached = end if reached is None else max(reached, end)
    return total.total_seconds()


def describe_loads(loads: dict[str, int]) -> str:
    """`source 96 % > worker 6 % > target 6 % > throttling 0 %; bottleneck: source`, in data's order."""
    chain = " > ".join(f"{stage} {percent} %" for stage, percent in loads.items())
    return f"{chain}; bottleneck: {bottleneck(loads)}"
