"""Steps before and around the VMs: leftovers, workers, scope."""

from __future__ import annotations

from jobs import VmTarget, choose_vms, find_leftovers, remember_job, remove_leftovers
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
    """The VMs of the job's scope, in the job's order; workers are never backed up (E4, W15)."""
    session = current_backup()
    chosen = choose_vms(
        session.client,
        session.job.scope,
        never=worker_ids,
        disk_rules=session.job.disk_rules,
    )
    session.take(chosen)
    remember_job(session.repository.live, session.job, vms=chosen.targets, clock=session.clock)
    return list(chosen.targets)
