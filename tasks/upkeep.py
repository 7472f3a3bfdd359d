"""Steps before and around the VMs: leftovers, workers, scope."""

from __future__ import annotations

from jobs import VmTarget, find_leftovers, remember_job, remove_leftovers, resolve_scope
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
    """The VMs of the job's scope; workers are never backed up (E4, W15)."""
    session = current_backup()
    vms = resolve_scope(session.client, session.job.scope, never=worker_ids)
    remember_job(session.repository.live, session.job, vms=vms, clock=session.clock)
    return vms
