"""How well protected every VM is, by the age of its newest good restore point against the job's RPO.

Not by failed runs: a run that never started, was killed, or left a VM out fails nobody, and the VM
is unprotected all the same. Pure functions over facts; `read_status` gathers them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import ValidationError

from jobs.errors import JobError
from jobs.figures import human_span
from jobs.known_jobs import KnownJob, known_jobs
from jobs.scope import VmTarget, choose_vms
from jobs.selection import Scope
from nutanix import AhvClient, NotFound, VmAmbiguous
from repository import Repository, RestorePoint

log = logging.getLogger(__name__)

CLOCK_SKEW = timedelta(hours=1)
"""How far the cluster's clock may run ahead of ours."""

_NAMED_MAX = 10
"""So many late VMs are named in a message; a cluster that was away for a day would fill a page."""


class Protection(StrEnum):
    """The verdict on one VM of one job."""

    GOOD = "good"
    LATE = "late"
    """Its newest good restore point is older than the RPO: breach."""
    MISSING = "missing"
    """It was taken into the job longer ago than the RPO and has no good restore point: breach."""
    NEW = "new"
    """It has no restore point yet, and is not due."""
    UNJUDGED = "unjudged"
    """The job has no RPO."""
    LEFT = "left"
    """It has restore points, but the job does not take it any more, or is retired."""

    @property
    def is_breach(self) -> bool:
        """Whether somebody should do something now."""
        return self in (Protection.LATE, Protection.MISSING)


@dataclass(frozen=True, slots=True)
class VmProtection:
    """One VM of one job. Without a VM (`vm_id` is None) the row is of a job that never ran."""

    job: str
    vm_id: str | None
    vm_name: str
    state: Protection
    last_good_at: datetime | None
    """The moment whose data the newest good restore point holds."""
    point_count: int
    damaged_count: int
    """Restore points with open findings; they do not count as good."""
    rpo: timedelta | None
    waiting_since: datetime | None
    """What the RPO is counted from: the last good point, or when the VM was first to be backed up."""

    def age(self, now: datetime) -> timedelta | None:
        """Time since the last good point, or None without one."""
        return None if self.last_good_at is None else now - self.last_good_at


@dataclass(frozen=True, slots=True)
class StatusReport:
    """Every VM of every job, by job and VM name."""

    now: datetime
    vms: tuple[VmProtection, ...]

    @property
    def breaches(self) -> tuple[VmProtection, ...]:
        """The VMs that are late or missing, the longest waiting first."""
        late = [vm for vm in self.vms if vm.state.is_breach]
        return tuple(sorted(late, key=lambda vm: vm.waiting_since or self.now))


@dataclass(frozen=True, slots=True)
class _Points:
    """What the repository holds of one VM of one job."""

    vm_name: str
    last_good_at: datetime | None
    count: int
    damaged_count: int


def read_status(
    repository: Repository,
    *,
    now: datetime,
    in_scope: Mapping[str, Sequence[VmTarget]] | None = None,
    rpo_hours: float | None = None,
    only_job: str | None = None,
) -> StatusReport:
    """Gather the facts and judge them. Needs neither a cluster nor a Prefect server.

    `in_scope` is, by job, which VMs its scope holds on the cluster now (`vms_in_scope`): with it,
    VMs are found that no session has ever tried. `rpo_hours` is for jobs that have none. Raises
    `RepositoryError`.
    """
    report = judge(
        jobs=known_jobs(repository.live),
        points=repository.points().points,
        damaged={fact.point_id for fact in repository.retention_facts() if fact.is_damaged},
        now=now,
        in_scope=in_scope or {},
        rpo_hours=rpo_hours,
    )
    if only_job is None:
        return report
    return StatusReport(now, tuple(vm for vm in report.vms if vm.job == only_job))


def vms_in_scope(
    client: AhvClient, repository: Repository, *, workers: Iterable[str]
) -> dict[str, Sequence[VmTarget]]:
    """Which VMs the scope of every known job holds on the cluster now; `workers` by name or id.

    A job whose scope cannot be resolved any more is left out: its last session's VMs stay expected.
    Raises `NutanixError` when the cluster does not answer.
    """
    never = [client.find_vm(worker).id for worker in workers]
    found: dict[str, Sequence[VmTarget]] = {}
    for name, job in known_jobs(repository.live).items():
        if job.retired_at is not None:
            continue
        try:
            scope = Scope.model_validate(job.definition.get("scope", {}))
            found[name] = choose_vms(client, scope, never=never).targets
        except (ValidationError, NotFound, VmAmbiguous, JobError) as error:
            log.warning("The scope of job %s cannot be resolved: %s", name, error)
    return found


def describe_breaches(report: StatusReport) -> str:
    """One sentence that names the late VMs, the longest waiting first; for messages and alerts."""
    late = report.breaches
    named = ", ".join(_describe(vm, report.now) for vm in late[:_NAMED_MAX])
    more = f" and {len(late) - _NAMED_MAX} more" if len(late) > _NAMED_MAX else ""
    verb = "VM is late" if len(late) == 1 else "VMs are late"
    return f"{len(late)} {verb}: {named}{more}."


def _describe(vm: VmProtection, now: datetime) -> str:
    age = vm.age(now)
    rpo = f", RPO {human_span(vm.rpo)}" if vm.rpo is not None else ""
    told = f"{human_span(age)} old" if age is not None else "no good restore point"
    return f"{vm.vm_name} ({vm.job}: {told}{rpo})"


def judge(
    *,
    jobs: Mapping[str, KnownJob],
    points: Iterable[RestorePoint],
    damaged: set[str],
    now: datetime,
    in_scope: Mapping[str, Sequence[VmTarget]],
    rpo_hours: float | None,
) -> StatusReport:
    """The verdict on every VM that a job takes, or that has restore points of one."""
    # A date in the future is a wrong clock's: it would hide a late VM until then.
    held = _by_vm(points, damaged, latest=now + CLOCK_SKEW)
    rows: list[VmProtection] = []
    for job_name in sorted({*jobs, *(job for job, _ in held)}):
        own = {vm_id: facts for (job, vm_id), facts in held.items() if job == job_name}
        rows += _judge_job(job_name, jobs.get(job_name), own, in_scope, now, rpo_hours)
    rows.sort(key=lambda vm: (vm.job, vm.vm_name, vm.vm_id or ""))
    return StatusReport(now, tuple(rows))


def _judge_job(
    name: str,
    job: KnownJob | None,
    held: Mapping[str, _Points],
    in_scope: Mapping[str, Sequence[VmTarget]],
    now: datetime,
    rpo_hours: float | None,
) -> Iterator[VmProtection]:
    hours = job.rpo_hours if job and job.rpo_hours is not None else rpo_hours
    rpo = None if hours is None else timedelta(hours=hours)
    expected = _expected(job, in_scope.get(name, ()))
    for vm_id in {**expected, **held}:
        facts = held.get(vm_id) or _Points(expected[vm_id][0], None, 0, 0)
        # Points of a job of which nothing is known are judged as if it went on.
        is_expected = vm_id in expected or (job is None)
        since = expected[vm_id][1] if vm_id in expected else None
        yield _judge_vm(name, vm_id, facts, rpo=rpo, now=now, since=since, is_expected=is_expected)
    if not held and not expected and job is not None and job.retired_at is None:
        nothing = _Points("(no session yet)", None, 0, 0)
        yield _judge_vm(name, None, nothing, rpo=rpo, now=now, since=job.since, is_expected=True)


def _expected(
    job: KnownJob | None, in_scope: Sequence[VmTarget]
) -> dict[str, tuple[str, datetime]]:
    """Name, and since when a backup is waited for, of every VM that the job is to protect, by id."""
    if job is None or job.retired_at is not None:
        return {}
    known = {vm_id: (vm.name, vm.since) for vm_id, vm in job.vms.items()}
    if not in_scope:
        return known
    # The cluster's answer is newer than the last session's: what it does not name has left, and
    # what that session did not find has come after it.
    came_after = job.chosen_at or job.since
    return {vm.vm_id: known.get(vm.vm_id, (vm.vm_name, came_after)) for vm in in_scope}


def _judge_vm(
    job: str,
    vm_id: str | None,
    facts: _Points,
    *,
    rpo: timedelta | None,
    now: datetime,
    since: datetime | None,
    is_expected: bool,
) -> VmProtection:
    waiting_since = facts.last_good_at or since
    return VmProtection(
        job=job,
        vm_id=vm_id,
        vm_name=facts.vm_name,
        state=_state(facts, rpo, now, waiting_since, is_expected=is_expected),
        last_good_at=facts.last_good_at,
        point_count=facts.count,
        damaged_count=facts.damaged_count,
        rpo=rpo,
        waiting_since=waiting_since,
    )


def _state(
    facts: _Points,
    rpo: timedelta | None,
    now: datetime,
    waiting_since: datetime | None,
    *,
    is_expected: bool,
) -> Protection:
    if not is_expected:
        return Protection.LEFT
    if rpo is None:
        return Protection.UNJUDGED if facts.count else Protection.NEW
    if facts.last_good_at is not None:
        return Protection.GOOD if now - facts.last_good_at <= rpo else Protection.LATE
    is_due = waiting_since is None or now - waiting_since > rpo
    return Protection.MISSING if is_due else Protection.NEW


def _by_vm(
    points: Iterable[RestorePoint], damaged: set[str], *, latest: datetime
) -> dict[tuple[str, str], _Points]:
    """By job and VM id; the name is that of the newest point."""
    found: dict[tuple[str, str], _Points] = {}
    for point in sorted(points, key=lambda each: each.created_at):
        key = (point.job, point.vm_id)
        old = found.get(key) or _Points(point.vm_name, None, 0, 0)
        is_damaged, is_misdated = point.id in damaged, point.created_at > latest
        found[key] = _Points(
            vm_name=point.vm_name,
            last_good_at=old.last_good_at if is_damaged or is_misdated else point.created_at,
            count=old.count + 1,
            damaged_count=old.damaged_count + is_damaged,
        )
    return found
