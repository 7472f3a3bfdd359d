"""The backup session: one flow run is one session of one job (design section 3)."""

from __future__ import annotations

from contextlib import ExitStack, closing

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from blocks import AhvCluster, BackupRepository, BackupWorkers
from flows.hooks import release_what_is_left
from flows.vm_queue import run_queue
from jobs import (
    BackupJob,
    BackupSession,
    HookFailed,
    Observers,
    SessionResult,
    VmResult,
    VmStory,
    VmTarget,
    current_observer,
    open_backup_session,
    part_of_job,
)
from tasks import (
    VERSION,
    PrefectLimits,
    RunLog,
    SharedSlots,
    abandon_snapshot,
    apply_retention,
    cause_first,
    clean_up_leftovers,
    commit_point,
    ending,
    find_reference,
    heeding_cancel,
    move_disks,
    name_part,
    plan_reads,
    prepare_workers,
    progress_artifact,
    queue_check_of,
    report_session,
    run_after_hook,
    run_before_hook,
    select_vms,
    settle_snapshot,
    started_by_schedule,
    take_snapshot,
    working_in,
    working_on,
)


@flow(
    name="backup",
    version=VERSION,
    flow_run_name="backup {job.name}",
    persist_result=False,
    on_crashed=[release_what_is_left],
    on_cancellation=[release_what_is_left],
)
@cause_first
def backup(
    cluster: AhvCluster,
    repository: BackupRepository,
    workers: BackupWorkers,
    job: BackupJob = BackupJob(),  # noqa: B008 - frozen, and Prefect shows it as the form's default
    only: tuple[str, ...] = (),
    retry_failed: bool = False,
) -> SessionResult:
    """Back up the VMs of a job: one restore point per VM, incremental where the cluster allows.

    A VM that fails does not fail the others (S10). Returns what was done; raises `SessionFailed`,
    which carries the same, when any VM has failed, or when the session was stopped before any had a
    new restore point. One that was stopped later returns, with the state `Stopped` in Prefect (J7).

    A session of a part of the job (J5) is one of the job like any other: its points, statistics and
    retention are the job's. A retry of a session in which nothing failed does nothing.

    Args:
        cluster: The cluster that runs the VMs.
        repository: Where restore points are kept.
        workers: The VMs that move the data.
        job: What is protected, and how.
        only: VMs of the job's scope, by name or id, that are taken this time. Empty means all of them.
        retry_failed: Whether only those VMs are taken that failed in the job's newest session.
    """
    with ExitStack() as stack:
        cancelled = stack.enter_context(heeding_cancel())
        opened = stack.enter_context(repository.open())
        part = part_of_job(opened, job.name, only=only, retry_failed=retry_failed)
        session = stack.enter_context(
            open_backup_session(
                client=stack.enter_context(cluster.client()),
                repository=opened,
                workers=workers.workers,
                job=job,
                part=part,
                observer=Observers(current_observer(), RunLog()),
                shared_limits=stack.enter_context(closing(PrefectLimits())),
                slots=SharedSlots(),
                queue_check=queue_check_of(repository=repository, cluster=cluster),
            )
        )
        cancelled.then(lambda: session.wind_down("it was cancelled in Prefect", at_once=True))
        stack.enter_context(working_in(session, repository=repository, cluster=cluster))
        name_part()
        if part is not None and not part.vms:
            return ending(session.result(()))
        cleaned = clean_up_leftovers()
        vms = select_vms(prepare_workers())
        retention = None
        try:
            run_vms(session, vms)
            retention = apply_retention()
        finally:
            result = report_session(cleaned, retention)
    return ending(result)


@flow(
    name="backup-vm",
    version=VERSION,
    flow_run_name="{job_name}: {vm_name} {kind}",
    task_runner=ThreadPoolTaskRunner(max_workers=4),  # type: ignore[arg-type]
    persist_result=False,
)
@cause_first
def backup_vm(vm_id: str, vm_name: str, job_name: str, kind: str) -> str:  # noqa: ARG001 - in the run's name
    """Make one restore point of one VM; returns its id. Part of a session, never started alone.

    Args:
        vm_id: The VM's id on the cluster.
        vm_name: The VM's name, for people.
        job_name: The session's job, for people.
        kind: What comes of it, full or incremental, as far as is known before; for people.
    """
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
    """Run every VM as its own subflow, between the job's hooks; results collect in the session."""
    may_retry = session.job.retry.started_by_hand or started_by_schedule()
    try:
        run_before_hook(len(vms))
        run_queue(session, vms, run_vm, may_retry=may_retry)
    except HookFailed as error:
        session.finish_unstarted(vms, error)
    finally:
        session.finish_unstarted(vms)
        run_after_hook(len(vms))


def run_vm(session: BackupSession, vm: VmTarget) -> VmResult:
    """One VM of the session; its failure becomes its result and goes no further (S10)."""
    story = VmStory.begin(vm.vm_id, vm.vm_name, clock=session.clock, observer=session.observer)
    with working_on(story):
        try:
            kind = session.expected_kind(vm.vm_id)
            backup_vm(vm.vm_id, vm.vm_name, session.job.name, kind)
        except Exception as error:  # noqa: BLE001 - whatever it was, the other VMs go on
            return session.finish(story, error)
        return session.finish(story)
