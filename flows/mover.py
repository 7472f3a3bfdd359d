"""A VM's transfer on the worker that its disks are attached to: one flow run on that worker's queue.

Part of a session, never started by hand. The session has made the volume group and attached it, and
will detach it; this flow only reads or fills the attached disks. It works as long as its grant stands
(`jobs.moves`).
"""

from __future__ import annotations

from contextlib import closing

from prefect import flow
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from blocks import AhvCluster, BackupRepository
from flows.hooks import tell_the_movers_death
from jobs import carrying_out, this_machine
from tasks import VERSION, PrefectLimits, RunLog, carried_by, cause_first, move_all_disks


@flow(
    name="move-vm",
    version=VERSION,
    flow_run_name="{vm_name} on {worker}",
    task_runner=ThreadPoolTaskRunner(max_workers=4),  # type: ignore[arg-type]
    persist_result=False,
    on_crashed=[tell_the_movers_death],
    on_cancellation=[tell_the_movers_death],
)
@cause_first
def move_vm(
    cluster: AhvCluster,
    repository: BackupRepository,
    move_id: str,
    vm_name: str,  # noqa: ARG001 - names the run
    worker: str,  # noqa: ARG001 - names the run
) -> None:
    """Move the disks of one VM that are attached to this machine. Part of a session.

    Raises `MoveWithdrawn` when the session does not want it any more. What the session needs to know
    is delivered beside the repository before this ends.

    Args:
        cluster: Asked only where a disk must be read anew; knows the secret of an iSCSI login.
        repository: Where the plan lies and, for a backup, the data goes.
        move_id: Key of the plan.
        vm_name: The VM's name, for people.
        worker: The worker's name, for people.
    """
    with (
        cluster.client() as client,
        repository.open() as opened,
        closing(PrefectLimits()) as limits,
        carrying_out(
            client,
            opened,
            move_id,
            name=f"run {flow_run.id} on {this_machine()}",
            observer=RunLog(),
            shared_limits=limits,
        ) as mover,
        carried_by(mover),
    ):
        move_all_disks()
        mover.deliver()
