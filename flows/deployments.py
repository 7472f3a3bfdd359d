"""Our flows as deployments of one process: what `ahvault serve` offers in the Prefect UI.

A deployment is a job. `prefect.yaml` describes the same for a work pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType

from blocks import AhvCluster, BackupRepository, BackupWorkers
from flows.backup import backup
from flows.restore import restore_vm
from jobs import JobInvalid, ScheduledJob

BLOCK_NAME = "main"
TAG = "ahvault"


def save_connections(
    cluster: AhvCluster, repository: BackupRepository, workers: BackupWorkers
) -> dict[str, Any]:
    """Save the three blocks under the name `main`, and return the parameters that point to them.

    Saved again at every start, so that the settings file stays the one place to edit.
    """
    blocks = {"cluster": cluster, "repository": repository, "workers": workers}
    return {
        name: {"$ref": {"block_document_id": str(block.save(BLOCK_NAME, overwrite=True))}}
        for name, block in blocks.items()
    }


def describe_deployments(
    connections: dict[str, Any], jobs: Sequence[ScheduledJob]
) -> list[RunnerDeployment]:
    """One deployment per job, and one to restore a VM. Raises `JobInvalid` for a bad schedule.

    Entry points are module paths: a file path would put `flows/` first on the path of imports,
    and hide our packages behind the files in it.
    """
    deployments = [_deploy_job(connections, job) for job in jobs]
    restore = RunnerDeployment.from_flow(
        restore_vm,
        "restore-vm",
        description="Re-create one VM from a restore point, under a new name.",
        tags=[TAG, "restore"],
        parameters=connections,
        enforce_parameter_schema=False,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    return [*deployments, restore]


def _deploy_job(connections: dict[str, Any], job: ScheduledJob) -> RunnerDeployment:
    schedule = None
    if job.schedule is not None:
        try:
            CronSchedule(cron=job.schedule, timezone=job.time_zone)
        except ValueError as error:
            raise JobInvalid(
                f"{job.name}: schedule", f"{job.schedule!r} is no cron line"
            ) from error
        schedule = Cron(job.schedule, timezone=job.time_zone)
    return RunnerDeployment.from_flow(
        backup,
        job.name,
        description=f"Backs up {job.scope.describe()}.",
        tags=[TAG, "backup"],
        parameters={**connections, "job": job.job().model_dump(mode="json")},
        schedule=schedule,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
