"""Restore of one VM: a new VM beside whatever exists, filled from a restore point."""

from __future__ import annotations

from contextlib import ExitStack, closing

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from blocks import AhvCluster, BackupRepository, BackupWorkers
from flows.hooks import release_what_is_left
from jobs import (
    Observers,
    RestoreResult,
    VmStory,
    current_observer,
    open_session,
    restore_result,
    told_to_the_end,
)
from tasks import (
    VERSION,
    PrefectLimits,
    RunLog,
    SharedSlots,
    cause_first,
    choose_target,
    clean_up_leftovers,
    create_restored_vm,
    filled_disks,
    heeding_cancel,
    power_on_vm,
    prepare_workers,
    progress_artifact,
    queue_check_of,
    working_in,
    working_on,
)


@flow(
    name="restore-vm",
    version=VERSION,
    flow_run_name="restore {vm_name}",
    task_runner=ThreadPoolTaskRunner(max_workers=4),  # type: ignore[arg-type]
    persist_result=False,
    on_crashed=[release_what_is_left],
    on_cancellation=[release_what_is_left],
)
@cause_first
def restore_vm(
    cluster: AhvCluster,
    repository: BackupRepository,
    workers: BackupWorkers,
    point_id: str,
    vm_name: str,
    container: str | None = None,
    power_on: bool = False,
    allow_damaged: bool = False,
) -> RestoreResult:
    """Re-create a VM from a restore point under a new name. No existing VM is touched.

    Raises `RestoreRefused` before anything is created when the request cannot be carried out.

    Args:
        cluster: The cluster that the VM goes to.
        repository: Where the restore point is kept.
        workers: The VMs that move the data.
        point_id: Id of the restore point.
        vm_name: Name of the new VM.
        container: Storage container for all disks; by default each disk's own.
        power_on: Whether to start the VM when it is there.
        allow_damaged: Whether to go on where stored data is damaged: what cannot be read is zeros
            in the new VM, and the result names the disks and byte ranges. Otherwise the restore
            fails.
    """
    with ExitStack() as stack:
        cancelled = stack.enter_context(heeding_cancel())
        client = stack.enter_context(cluster.client())
        store = stack.enter_context(repository.open())
        point = store.point(point_id)
        session = stack.enter_context(
            open_session(
                client=client,
                repository=store,
                workers=workers.workers,
                job_name="restore",
                observer=Observers(current_observer(), RunLog()),
                shared_limits=stack.enter_context(closing(PrefectLimits())),
                slots=SharedSlots(),
                queue_check=queue_check_of(repository=repository, cluster=cluster),
            )
        )
        session.throttle.require_encryption()
        cancelled.then(session.stop.set)
        stack.enter_context(working_in(session, repository=repository, cluster=cluster))
        story = VmStory.begin(point.vm_id, vm_name, clock=session.clock, observer=session.observer)
        stack.enter_context(told_to_the_end(story))
        stack.enter_context(working_on(story))
        stack.enter_context(progress_artifact(vm_name))
        target = choose_target(point, vm_name, container)
        clean_up_leftovers()
        prepare_workers()
        with filled_disks(point, target, allow_damaged=allow_damaged) as disks:
            vm_id = create_restored_vm(point, target, disks)
        if power_on:
            power_on_vm(vm_id)
        return restore_result(story, point, vm_id=vm_id, is_on=power_on)
