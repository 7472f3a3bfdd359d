"""Steps before, around and after the VMs: leftovers, workers, scope, retention."""

from __future__ import annotations

import jobs
from jobs import (
    RetentionResult,
    VmTarget,
    choose_vms,
    find_leftovers,
    narrow_to,
    remember_job,
    remove_leftovers,
    session_attempts,
)
from repository import RepositoryError
from tasks.context import current_backup, current_session
from tasks.policy import step


@step("clean-up-leftovers")
def clean_up_leftovers() -> list[str]:
    """Remove what killed sessions left on the cluster; returns what was removed, in words."""
    run = current_session()
    leftovers = find_leftovers(
        run.client, run.repository, cluster_url=run.client.connection.url, clock=run.clock
    )
    return remove_leftovers(run.client, run.repository, leftovers, clock=run.clock)


@step("prepare-workers")
def prepare_workers() -> list[str]:
    """Find, power on and test the workers; returns the ids of their VMs."""
    return current_session().workers.prepare()


@step("select-vms")
def select_vms(worker_ids: list[str]) -> list[VmTarget]:
    """The VMs of the job's scope, or the session's part of it, in the job's order; workers are never
    backed up (E4, W15).
    """
    session = current_backup()
    chosen = choose_vms(
        session.client,
        session.job.scope,
        never=worker_ids,
        disk_rules=session.job.disk_rules,
    )
    taken = narrow_to(chosen, session.part, session.job.name)
    session.take(taken)
    remember_job(session.repository.live, session.job, vms=chosen.targets, clock=session.clock)
    return list(taken.targets)


@step("apply-retention")
def apply_retention() -> RetentionResult | None:
    """Forget what the job's policy keeps no longer, if every VM has its new restore point (T6, D2).

    Trouble here is a warning of the session, never its failure. None when nothing was to be done.
    """
    session = current_backup()
    policy = session.job.retention
    if policy is None or any(vm.status in ("failed", "stopped") for vm in session.results):
        return None
    now, tried = session.clock.now(), [vm.vm_id for vm in session.results]
    try:
        # A session that did not take all of the job's VMs cannot say of any that it has departed.
        attempts = (
            session_attempts(session.repository, session.job.name, policy, now=now, tried=tried)
            if session.part is None
            else None
        )
        result = jobs.apply_retention(
            session.repository,
            session.job.name,
            policy,
            now=now,
            attempts=attempts,
            by_session=session.session_id,
        )
    except RepositoryError as error:
        result = RetentionResult(job=session.job.name, error=str(error))
    session.warnings.extend(result.warnings)
    return result
