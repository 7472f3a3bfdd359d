"""The backup session: one flow run is one session of one job (design section 3)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from contextvars import copy_context
from threading import Lock

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from blocks import AhvCluster, BackupRepository, BackupWorkers
from jobs import (
    BackupJob,
    BackupSession,
    Observers,
    SessionFailed,
    SessionResult,
    VmResult,
    VmStory,
    VmTarget,
    current_observer,
    open_backup_session,
)
from tasks import (
    RunLog,
    abandon_snapshot,
    apply_retention,
    clean_up_leftovers,
    commit_point,
    current_story,
    find_reference,
    move_disks,
    plan_reads,
    prepare_workers,
    progress_artifact,
    report_session,
    select_vms,
    settle_snapshot,
    take_snapshot,
    working_in,
    working_on,
)

log = logging.getLogger(__name__)

_one_at_a_time = Lock()
"""Held while a subflow is created. Prefect's SQLite server answers 503 to one of two subflows that
are created at the same moment, and its client then waits two seconds or more before it asks again."""


@flow(name="backup", flow_run_name="backup {job.name}", persist_result=False)
def backup(
    cluster: AhvCluster,
    repository: BackupRepository,
    workers: BackupWorkers,
    job: BackupJob = BackupJob(),  # noqa: B008 - frozen, and Prefect shows it as the form's default
) -> SessionResult:
    """Back up the VMs of a job: one restore point per VM, incremental where the cluster allows.

    A VM that fails does not fail the others (S10). Returns what was done; raises `SessionFailed`,
    which carries the same, when any VM has no new restore point.

    Args:
        cluster: The cluster that runs the VMs.
        repository: Where restore points are kept.
        workers: The VMs that move the data.
        job: What is protected, and how.
    """
    with ExitStack() as stack:
        session = stack.enter_context(
            open_backup_session(
                client=stack.enter_context(cluster.client()),
                repository=stack.enter_context(repository.open()),
                workers=workers.workers,
                job=job,
                observer=Observers(current_observer(), RunLog()),
            )
        )
        stack.enter_context(working_in(session))
        cleaned = clean_up_leftovers()
        vms = select_vms(prepare_workers())
        retention = None
        try:
            run_vms(session, vms)
            retention = apply_retention()
        finally:
            result = report_session(cleaned, retention)
    if result.status == "failed":
        raise SessionFailed(result)
    return result


@flow(
    name="backup-vm",
    flow_run_name="{vm_name}",
    task_runner=ThreadPoolTaskRunner(max_workers=4),  # type: ignore[arg-type]
    persist_result=False,
)
def backup_vm(vm_id: str, vm_name: str) -> str:
    """Make one restore point of one VM; returns its id. Part of a session, never started alone.

    Args:
        vm_id: The VM's id on the cluster.
        vm_name: The VM's name, for people.
    """
    current_story().on_running()
    with progress_artifact(vm_name), ExitStack() as held:
        snapshot = take_snapshot(vm_id)
        held.callback(abandon_snapshot, snapshot)
        reference = find_reference(snapshot)
        plans = plan_reads(snapshot, reference)
        records = move_disks(snapshot, reference, plans)
        point = commit_point(snapshot, reference, records)
        held.pop_all()
    settle_snapshot(snapshot, reference)
    return point.id


def run_vms(session: BackupSession, vms: list[VmTarget]) -> None:
    """Run every VM as its own subflow, a few at a time; results collect in the session.

    On an interrupt the transfers are told to stop and the VMs' own cleanup is waited for, also when
    the operator is impatient: released too early, a volume group would be deleted under a reader.
    """
    pool = ThreadPoolExecutor(max_workers=session.job.parallel_vms, thread_name_prefix="vm")
    futures = [pool.submit(copy_context().run, run_vm, session, vm) for vm in vms]
    try:
        # Woken every second: a signal that another thread received is handled only when the main
        # thread runs, and a wait without end would hold it back until the last VM is done.
        while wait(futures, timeout=1.0).not_done:
            pass
        for future in futures:
            future.result()
    except BaseException:
        session.stop.set()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        _wait_patiently(futures)
        session.finish_unstarted(vms)


def _wait_patiently(futures: Sequence[Future[VmResult]]) -> None:
    """Wait for all that run, whatever further interrupts come."""
    while any(future.running() for future in futures):
        try:
            wait(futures, timeout=1.0)
        except KeyboardInterrupt:
            log.warning("Still cleaning up; a moment more")


def run_vm(session: BackupSession, vm: VmTarget) -> VmResult:
    """One VM of the session; its failure becomes its result and goes no further (S10)."""
    with ExitStack() as creating:
        creating.enter_context(_one_at_a_time)
        story = VmStory.begin(vm.vm_id, vm.vm_name, clock=session.clock, observer=session.observer)
        story.on_running = creating.close
        with working_on(story):
            try:
                backup_vm(vm.vm_id, vm.vm_name)
            except Exception as error:  # noqa: BLE001 - whatever it was, the other VMs go on
                return session.finish(story, error)
            return session.finish(story)
