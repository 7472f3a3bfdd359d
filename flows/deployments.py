"""Our flows as deployments of one process: what `ahvault serve` offers in the Prefect UI.

A deployment is a job. `prefect.yaml` describes the same for a work pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefect import Flow
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger, ResourceSpecification
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType

from blocks import AhvCluster, BackupRepository, BackupWorkers
from flows.backup import backup
from flows.maintain import check_rpo, clean_up, collect, retention, verify
from flows.restore import restore_vm
from jobs import JobInvalid, ScheduledJob

BLOCK_NAME = "main"
TAG = "ahvault"
_HOLDING = ("backup", "restore", "mover")
"""Tags of the flows that hold something on a cluster while they run."""


@dataclass(frozen=True, slots=True)
class Upkeep:
    """A maintenance flow, the connections it needs, and when it runs."""

    flow: Flow[..., Any]
    connections: tuple[str, ...]
    cron: str
    description: str


# The same as in prefect.yaml, which a test holds against this.
UPKEEP = (
    Upkeep(
        retention,
        ("repository",),
        "30 0 * * *",
        "Forgets restore points by each job's last known policy; every session does so for its own job.",
    ),
    Upkeep(
        collect,
        ("repository",),
        "0 6 * * *",
        "Frees the space of what no restore point needs any more; one step a day.",
    ),
    Upkeep(
        verify,
        ("repository",),
        "0 8 * * *",
        "Proves every stored byte once in 30 days, a part each day; red as long as damage is open.",
    ),
    Upkeep(
        clean_up,
        ("cluster", "repository"),
        "*/15 * * * *",
        "The janitor: removes from the cluster what dead sessions left there, also when a run crashed.",
    ),
    Upkeep(
        check_rpo,
        ("cluster", "repository", "workers"),
        "20 * * * *",
        "Finds late and missing backups by age; red as long as somebody is late.",
    ),
)


def save_connections(
    cluster: AhvCluster,
    repository: BackupRepository,
    workers: BackupWorkers,
    *,
    name: str = BLOCK_NAME,
) -> dict[str, Any]:
    """Save the three blocks under one name, and return the parameters that point to them.

    `ahvault serve` does so at every start, so that the settings file stays the one place to edit.
    """
    blocks = {"cluster": cluster, "repository": repository, "workers": workers}
    return {
        parameter: {"$ref": {"block_document_id": str(block.save(name, overwrite=True))}}
        for parameter, block in blocks.items()
    }


def describe_deployments(
    connections: dict[str, Any], jobs: Sequence[ScheduledJob], *, with_upkeep: bool = True
) -> list[RunnerDeployment]:
    """One deployment per job, one to restore a VM, and those that keep the repository in shape.

    Raises `JobInvalid` for a bad schedule.

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
    upkeep = [_deploy_upkeep(connections, each) for each in UPKEEP if with_upkeep]
    return [*deployments, restore, *upkeep]


def _deploy_upkeep(connections: dict[str, Any], upkeep: Upkeep) -> RunnerDeployment:
    return RunnerDeployment.from_flow(
        upkeep.flow,
        upkeep.flow.name,
        description=upkeep.description,
        tags=[TAG, "maintenance"],
        parameters={name: connections[name] for name in upkeep.connections},
        schedule=Cron(upkeep.cron, timezone="UTC"),
        triggers=[_on_bad_end()] if upkeep.flow is clean_up else [],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


def _on_bad_end() -> DeploymentEventTrigger:
    """Prefect says that a run which holds things on a cluster crashed or was cancelled.

    It starts the janitor, no more: what that removes, the sessions' own signs of life decide.
    """
    return DeploymentEventTrigger(
        name="ahvault: a run ended badly",
        match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
        match_related=ResourceSpecification(
            {
                "prefect.resource.role": "tag",
                "prefect.resource.id": [f"prefect.tag.{tag}" for tag in _HOLDING],
            }
        ),
        expect={"prefect.flow-run.Crashed", "prefect.flow-run.Cancelled"},
    )


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
