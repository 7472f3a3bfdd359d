"""Retention carried out: at the end of a session with its job's policy, and daily for every job (T6).

What stays and what goes is decided by `repository.plan_retention`, and nothing is decided here.
Never forced: where the rules would drop suspiciously much of a VM, that VM's points stay, the
others' go (T10), and it is told. Forgetting can be undone until collection has taken the data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict

from jobs.figures import utc_text
from jobs.known_jobs import known_jobs
from repository import (
    Decision,
    PointHeld,
    PointInUse,
    Repository,
    RepositoryError,
    RetentionPlan,
    RetentionPolicy,
    Verdict,
    plan_retention,
)


class ForgottenByRule(BaseModel):
    """One restore point that went, and why."""

    model_config = ConfigDict(frozen=True)

    point_id: str
    vm_name: str
    session_started_at: datetime
    why: str

    def __str__(self) -> str:
        return f"{self.vm_name} of {utc_text(self.session_started_at)}: {self.why}"


class RetentionResult(BaseModel):
    """What retention did with the restore points of one job."""

    model_config = ConfigDict(frozen=True)

    job: str
    judged: int = 0
    """Restore points that were looked at."""
    forgotten: tuple[ForgottenByRule, ...] = ()
    deferred: tuple[str, ...] = ()
    """Ids of restore points that go next time: a running session builds on them."""
    refused: tuple[str, ...] = ()
    """In words: of which VMs nothing was dropped because it looked like too much."""
    error: str | None = None
    """Why retention ended early; what it had forgotten by then stays forgotten."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What somebody should look at."""
        failed = () if self.error is None else (f"retention failed: {self.error}",)
        return (*(f"retention held back: {each}" for each in self.refused), *failed)

    def summary(self) -> str:
        """One line, without the warnings."""
        later = f", {len(self.deferred)} go next time" if self.deferred else ""
        return f"{len(self.forgotten)} of {self.judged} restore points forgotten{later}"


def apply_retention(
    repository: Repository,
    job: str,
    policy: RetentionPolicy,
    *,
    now: datetime,
    attempts: Mapping[str, datetime] | None = None,
    by_session: str | None = None,
) -> RetentionResult:
    """Plan for the points of one job, and forget those that go.

    `by_session` is the session that does it when all its VMs are done; `attempts` as in `plan_retention`: give it only at the end of a session in which every VM
    succeeded (D2). Never raises `RepositoryError`: trouble with retention is a line in the result.
    Idempotent; safe beside sessions, collections and other runs of itself.
    """
    try:
        facts = [fact for fact in repository.retention_facts() if fact.job == job]
        plan = plan_retention(facts, policy, now=now, attempts=attempts)
    except RepositoryError as error:
        return RetentionResult(job=job, error=str(error))
    going = {point.point_id for point in plan.drops_within_limits()}
    return carry_out(repository, job, plan, going, by_session=by_session)


def carry_out(
    repository: Repository,
    job: str,
    plan: RetentionPlan,
    going: Iterable[str],
    *,
    by_session: str | None = None,
) -> RetentionResult:
    """Forget the points of a plan whose ids are in `going`. Raises no `RepositoryError`.

    A point that was put on hold since the plan was made stays; one that a session builds on waits.
    """
    wanted = set(going)
    forgotten: list[ForgottenByRule] = []
    deferred: list[str] = []
    failure = None
    for decision in plan.decisions:
        if decision.point.point_id not in wanted or decision.verdict is not Verdict.DROP:
            continue
        try:
            point = repository.point(decision.point.point_id)
            repository.forget(point, decision.sentence, by_session=by_session)
        except PointInUse:
            deferred.append(decision.point.point_id)
        except PointHeld:
            continue
        except RepositoryError as error:
            failure = str(error)
            break
        else:
            forgotten.append(_told(decision))
    return RetentionResult(
        job=job,
        judged=len(plan.decisions),
        forgotten=tuple(forgotten),
        deferred=tuple(deferred),
        refused=tuple(refusal.sentence for refusal in plan.refusals),
        error=failure,
    )


def apply_known_retention(repository: Repository, *, now: datetime) -> list[RetentionResult]:
    """The daily run: every job that the repository knows, each with its last known policy (D3).

    Jobs without a policy are left alone. Nobody departs here: that takes a session that saw all of
    the job's VMs (D2). Raises `RepositoryError` only when the jobs themselves cannot be listed.
    """
    return [
        apply_retention(repository, name, job.retention, now=now)
        for name, job in sorted(known_jobs(repository.live).items())
        if job.retention is not None
    ]


def session_attempts(
    repository: Repository,
    job: str,
    policy: RetentionPolicy,
    *,
    now: datetime,
    tried: Iterable[str],
) -> dict[str, datetime] | None:
    """When each VM of the job was last tried, for `apply_retention`; None where nobody can depart.

    `tried` are the ids of the VMs of the session that ends now; the others' attempts come from the
    reports of earlier sessions, as far back as the policy looks. Raises `RepositoryError`.
    """
    if policy.departed_after_days is None:
        return None
    since = now - timedelta(days=policy.departed_after_days + 2)
    attempts: dict[str, datetime] = {}
    for report in repository.reports(since=since).reports:
        if report.get("job") == job:
            for vm in report.get("vms", []):
                attempts[vm["vm_id"]] = datetime.fromisoformat(vm["started_at"])
    return {**attempts, **dict.fromkeys(tried, now)}


def _told(decision: Decision) -> ForgottenByRule:
    return ForgottenByRule(
        point_id=decision.point.point_id,
        vm_name=decision.point.vm_name,
        session_started_at=decision.point.started_at,
        why="; ".join(reason.text for reason in decision.reasons),
    )
