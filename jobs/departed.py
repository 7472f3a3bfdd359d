"""References that nothing will build on: their VM has left the job, or the job runs no more (N9).

Why none that a living job needs is ever judged departed:

- The judge is the job's own record (`jobs.known_jobs`) with the job's own limit of days. A VM that the
  job's last session took is in the job, however often it has failed since.
- A VM has left when a session that chose its VMs after the VM's newest restore point did not choose it.
- A job is gone when it was retired, or has neither chosen VMs nor made a restore point for the limit,
  and for twice its RPO where it has one, so that a monthly job outlives its pauses. One that has a
  living session is not gone, whatever its record says: that session has not written it yet.
- The days count from the later of the VM's newest restore point and the proof that it left.
- What cannot be read proves nothing. Cost of a mistake: one full read, never a restore point.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta

from jobs.known_jobs import KnownJob, known_jobs
from jobs.leases import living_jobs
from jobs.model import BackupJob
from repository import Clock, Repository, RestorePoint

DEFAULT_DAYS = int(BackupJob.model_fields["departed_days"].default)


@dataclass(frozen=True, slots=True)
class Departed:
    """A restore point whose recovery point is waste, and why."""

    point: RestorePoint
    why: str


def find_departed(
    repository: Repository, newest: Sequence[RestorePoint], clock: Clock
) -> list[Departed]:
    """Those of the newest points, one per VM and job, whose references nothing will build on.

    Leases are read first: a session that begins afterwards has not taken anything yet.
    Raises `RepositoryError`.
    """
    living = living_jobs(repository.live, clock)
    known = known_jobs(repository.live)
    return list(judge_departed(newest, known, living, clock.now()))


def judge_departed(
    newest: Sequence[RestorePoint],
    known: Mapping[str, KnownJob],
    living: Set[str],
    now: datetime,
) -> Iterator[Departed]:
    """The rule itself, over facts."""
    last_made = _last_made(newest)
    for point in newest:
        job = known.get(point.job)
        found = _left(point, job) or _gone(point.job, job, last_made[point.job], living)
        if found is None:
            continue
        since, days, why = found
        since = max(since, point.session_started_at)
        if now - since >= days:
            yield Departed(point, f"{why}, and that was {(now - since).days} days ago")


def _last_made(points: Sequence[RestorePoint]) -> dict[str, datetime]:
    """When each job last began a session that made a restore point."""
    last: dict[str, datetime] = {}
    for point in points:
        last[point.job] = max(
            last.get(point.job, point.session_started_at), point.session_started_at
        )
    return last


def _left(point: RestorePoint, job: KnownJob | None) -> tuple[datetime, timedelta, str] | None:
    """Since when, and for how long it must have been so, when the VM has left its job."""
    if job is None or job.chosen_at is None or point.vm_id in job.vms:
        return None
    if job.chosen_at <= point.session_started_at:
        return None
    why = f"reference of {point.vm_name}, which job {point.job} does not take any more"
    return point.session_started_at, timedelta(days=_days(job)), why


def _gone(
    name: str, job: KnownJob | None, last_made: datetime, living: Set[str]
) -> tuple[datetime, timedelta, str] | None:
    """The same when the whole job is gone."""
    if name in living:
        return None
    if job is not None and job.retired_at is not None:
        return job.retired_at, timedelta(days=_days(job)), f"reference of job {name}, now retired"
    last = max(last_made, job.chosen_at) if job is not None and job.chosen_at else last_made
    patience = timedelta(days=_days(job))
    if job is not None and job.rpo_hours is not None:
        patience = max(patience, 2 * timedelta(hours=job.rpo_hours))
    return last, patience, f"reference of job {name}, which has not run since"


def _days(job: KnownJob | None) -> int:
    value = job.definition.get("departed_days") if job is not None else None
    return value if isinstance(value, int) and value > 0 else DEFAULT_DAYS
