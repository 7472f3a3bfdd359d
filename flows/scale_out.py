"""Preparing a Prefect server for many machines: pools, queues, deployments, and the watch over runs.

Everything here can be done again at any time: what is there is brought up to date, nothing is doubled.
`prefect.yaml` describes the same deployments for `prefect deploy`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from prefect.automations import Automation
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.deployments.runner import RunnerDeployment
from prefect.events import (
    ChangeFlowRunState,
    EventTrigger,
    Posture,
    ResourceSpecification,
)
from prefect.exceptions import ObjectAlreadyExists
from prefect.types.entrypoint import EntrypointType
from prefect.workers.process import ProcessWorker

from flows.deployments import TAG, UPKEEP, describe_deployments
from flows.mover import move_vm
from jobs import ScheduledJob, WorkerSpec
from tasks import MOVERS_POOL

CONTROL_POOL = "ahvault"
ZOMBIES = "ahvault: runs without a heartbeat have crashed"
HEARTBEAT_S = 30
RUN_SETTINGS = {
    # Prefect's own 180 s would have every run of more than a minute and a half called crashed.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),
    "PREFECT_LOGGING_EXTRA_LOGGERS": "repository,nutanix,jobs,tasks",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}
"""Set in the process of every run by the deployment, so that no machine has to know of them."""


def prepare_server(
    connections: dict[str, Any], jobs: Sequence[ScheduledJob], workers: Iterable[WorkerSpec]
) -> dict[str, list[str]]:
    """Make or renew everything that many machines need on the server; returns names, by kind.

    `connections` are parameters that point to the saved blocks. Raises Prefect's errors.
    """
    queues = [spec.queue for spec in workers if spec.queue is not None]
    with get_client(sync_client=True) as client:
        for pool in (CONTROL_POOL, MOVERS_POOL):
            _make_pool(client, pool)
        for queue in queues:
            _make_queue(client, queue)
    for deployment in describe_deployments(connections, jobs):
        _apply(deployment, CONTROL_POOL)
    _apply(_describe_mover(), MOVERS_POOL)
    _watch_heartbeats()
    return {
        "pools": [CONTROL_POOL, MOVERS_POOL],
        "queues": queues,
        "deployments": [
            *(f"backup/{job.name}" for job in jobs),
            "restore-vm/restore-vm",
            *(f"{each.flow.name}/{each.flow.name}" for each in UPKEEP),
            "move-vm/mover",
        ],
        "automations": [ZOMBIES],
    }


def prepare_queue(queue: str) -> None:
    """Make what the Prefect worker of one queue needs on the server, so that it can be found polling.

    A Prefect worker makes a pool that is missing, but waits for ever on a queue that is. Raises
    Prefect's errors.
    """
    with get_client(sync_client=True) as client:
        _make_pool(client, MOVERS_POOL)
        _make_queue(client, queue)
    _apply(_describe_mover(), MOVERS_POOL)


def _make_pool(client: SyncPrefectClient, name: str) -> None:
    template = ProcessWorker.get_default_base_job_template()
    pool = WorkPoolCreate(name=name, type="process", base_job_template=template)
    client.create_work_pool(pool, overwrite=True)


def _make_queue(client: SyncPrefectClient, name: str) -> None:
    try:
        client.create_work_queue(name, work_pool_name=MOVERS_POOL)
    except ObjectAlreadyExists:
        return


def _apply(deployment: RunnerDeployment, pool: str) -> None:
    deployment.work_pool_name = pool
    deployment.job_variables = {"env": RUN_SETTINGS}
    deployment.apply()


def _describe_mover() -> RunnerDeployment:
    return RunnerDeployment.from_flow(
        move_vm,
        "mover",
        description="A VM's transfer, on the worker that its disks are attached to. Part of a session.",
        tags=[TAG, "mover"],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


def _watch_heartbeats() -> None:
    """A run that shows no heartbeat for three periods is crashed: nothing else tells of a lost host.

    No more than that hangs on it: under load it also fires for runs that have ended, which the server
    then refuses (`prefect-notes §2.3`).
    """
    wanted = Automation(
        name=ZOMBIES,
        description="Set by ahvault. A lost machine shows itself only by its silence.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=3 * HEARTBEAT_S),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message="no heartbeat")],
    )
    try:
        found: Any = Automation.read(name=ZOMBIES)
    except ValueError:
        wanted.create()
        return
    wanted.id = found.id
    wanted.update()
