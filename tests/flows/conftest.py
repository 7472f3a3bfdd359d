"""Flows run for real: Prefect's own server, a simulated cluster, a repository in a directory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest
from prefect.settings import (
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_HOME,
    PREFECT_LOGGING_TO_API_ENABLED,
    PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE,
    get_current_settings,
    temporary_settings,
)

from blocks import AhvCluster, BackupRepository, BackupWorkers
from cli.local_prefect import spawn_embedded
from jobs import WorkerSpec
from repository import Repository
from simulator import Simulator


@pytest.fixture(scope="session", autouse=True)
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One embedded server, as commands start it, for all tests of flows; a heartbeat would add a second to every flow."""
    from prefect.server.api.server import SubprocessASGIServer  # Seconds: only where it is used.
    from prefect.testing.utilities import prefect_test_harness

    with (
        patch.object(
            SubprocessASGIServer,
            "_run_uvicorn_command",
            lambda server: spawn_embedded(
                get_current_settings().to_environment_variables(exclude_unset=True), server.port
            )[0],
        ),
        temporary_settings(
            {
                PREFECT_HOME: tmp_path_factory.mktemp("prefect-home"),
                PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE: (
                    "prefect.server.concurrency.lease_storage.filesystem"
                ),
            }
        ),
        prefect_test_harness(server_startup_timeout=120),
        temporary_settings(
            {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_LOGGING_TO_API_ENABLED: False}
        ),
    ):
        yield


@pytest.fixture(scope="session")
def simulator() -> Iterator[Simulator]:
    """A small Nutanix, shared by all tests of flows."""
    with Simulator(size=0.1) as running:
        yield running


@dataclass(frozen=True)
class Site:
    """The three blocks of one installation."""

    cluster: AhvCluster
    repository: BackupRepository
    workers: BackupWorkers


@pytest.fixture
def site(simulator: Simulator, tmp_path: Path) -> Site:
    """An installation with an empty repository."""
    url = f"file://{tmp_path}/repository"
    Repository.create(url).close()
    return Site(
        cluster=AhvCluster(
            url=simulator.pc_url,
            username=simulator.username,
            password=simulator.password,
            ca_file=str(simulator.ca_file),
            prism_element_port=int(simulator.pe_url.rpartition(":")[2]),
        ),
        repository=BackupRepository(url=url),
        workers=BackupWorkers(
            workers=[
                WorkerSpec(vm=each.name, device_root=str(each.device_root))
                for each in simulator.workers
            ]
        ),
    )
