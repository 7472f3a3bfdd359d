"""How old the newest good restore point of a VM may get, where the job does not say it itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

_FROM = datetime(2024, 1, 1, tzinfo=UTC)
"""Any moment does, since the runs of a year follow; a fixed one gives the same answer every day."""
_RUNS_MAX = 1000
_HORIZON = timedelta(days=400)


def default_rpo_hours(schedule: str, time_zone: str) -> float | None:
    """The RPO that a schedule implies: its longest gap, and a quarter of it (at most 6 h) on top.

    The rest is for the run itself: a nightly job is late in the morning after a night that failed,
    not at the very second in which the next point was due. None for a schedule that never fires
    twice in a year.

    Raises ValueError when `schedule` is no cron line.
    """
    try:
        runs = CronSim(schedule, _FROM.astimezone(ZoneInfo(time_zone)))
    except CronSimError as error:
        raise ValueError(f"{schedule!r} is no cron line: {error}") from error
    moments = [
        moment.astimezone(UTC)
        for moment in islice(runs, _RUNS_MAX)
        if moment.astimezone(UTC) - _FROM < _HORIZON
    ]
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    if not gaps:
        return None
    longest = max(gaps)
    return round((longest + min(longest / 4, timedelta(hours=6))) / timedelta(hours=1), 2)
