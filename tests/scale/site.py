"""An installation over many machines, all of it on this one: see docs/scale-out.md."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.deployments import run_deployment
from prefect.settings import PREFECT_API_URL, temporary_settings

from jobs import MovePlan, Moves, SessionResult, find_leftovers, remove_leftovers
from jobs.marks import repository_prefix
from nutanix import AhvClient, ClusterConnection
from repository import Repository, SystemClock, VerifyLevel
from simulator import Crowd, Simulator
from tests.scale.processes import (
    CLIENT_SETTINGS,
    Child,
    Network,
    PrefectServer,
    descendants,
    network,
    postgres,
    postgres_programs,
    prefect_worker,
    wait_until,
)

JOB = "nightly"


@dataclass
class ScaleSite:
    """A running installation. `workers` are the Prefect workers of the worker VMs, in their order."""

    folder: Path
    simulator: Simulator
    network: Network
    server: PrefectServer
    control: Child
    database: str
    workers: list[Child] = field(default_factory=list)

    @property
    def repository_url(self) -> str:
        return f"file://{self.folder}/repository"

    def environment(self, name: str) -> dict[str, str]:
        """What a Prefect worker's service sets."""
        return {
            **CLIENT_SETTINGS,
            "PREFECT_API_URL": self.server.url,
            "PREFECT_HOME": str(self.folder / f"home-{name}"),
        }

    # -- sessions ----------------------------------------------------------------------------------

    def start(self, *vms: str, mbit_per_s: float | None = None, **job: Any) -> UUID:
        """Start a session of the one job there is, as an operator does in the UI; returns its run."""
        parameters = {
            "job": {
                "name": JOB,
                "scope": {"vms": list(vms)},
                "limits": {"mbit_per_s": mbit_per_s},
                **job,
            }
        }
        run: Any = run_deployment(
            f"backup/{JOB}", parameters=parameters, timeout=0, as_subflow=False
        )
        return UUID(str(run.id))

    def state(self, run_id: UUID) -> Any:
        """Prefect's word on a run."""
        with get_client(sync_client=True) as client:
            return client.read_flow_run(run_id).state

    def wait_end(self, run_id: UUID, *, within_s: float) -> Any:
        """Wait until Prefect says that a run is over; returns its last state."""

        def over() -> Any:
            state = self.state(run_id)
            return state if state is not None and state.is_final() else None

        return wait_until(f"run {run_id} is over", over, within_s=within_s, every_s=1.0)

    def log_of(self, run_id: UUID) -> str:
        """What a run said."""
        with get_client(sync_client=True) as client:
            lines = client.read_logs(
                LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id])), limit=200
            )
        return "\n".join(line.message for line in lines)

    def wait_moving(self, *, within_s: float = 120.0) -> tuple[str, int]:
        """Wait until a mover has read something; returns the move and the worker's number."""

        def found() -> tuple[str, int] | None:
            with Repository.open(self.repository_url) as repository:
                moves = Moves(repository.live)
                for move_id in moves.all():
                    sign = moves.sign(move_id)
                    if sign and any(disk.figures.read_bytes for disk in sign.disks):
                        plan = MovePlan.model_validate(moves.plan(move_id))
                        names = [worker.name for worker in self.simulator.workers]
                        return move_id, names.index(plan.worker) + 1
            return None

        found_move: tuple[str, int] = wait_until("a mover reads a disk", found, within_s=within_s)
        return found_move

    def last_report(self) -> SessionResult:
        """The newest session as the repository has it."""
        with Repository.open(self.repository_url) as repository:
            return SessionResult.model_validate(repository.reports().reports[-1])

    # -- processes ---------------------------------------------------------------------------------

    def children_of(self, child: Child) -> list[int]:
        """The flow runs that a Prefect worker has started, as processes."""
        return descendants(child.pid)

    def all_of_worker(self, number: int) -> list[int]:
        """Every process of one worker VM."""
        if self.network.bridge is not None:
            return self.network.processes(number)
        child = self.workers[number - 1]
        return [child.pid, *descendants(child.pid)]

    # -- what must hold in the end ------------------------------------------------------------------

    @contextmanager
    def client(self) -> Iterator[AhvClient]:
        """A client of the simulated cluster."""
        simulator = self.simulator
        with AhvClient(
            ClusterConnection(
                url=simulator.pc_url,
                username=simulator.username,
                password=simulator.password,
                ca_file=simulator.ca_file,
                prism_element_port=urlsplit(simulator.pe_url).port or 9440,
            )
        ) as client:
            yield client

    def clean_up(self) -> list[str]:
        """The reconciler, from this process."""
        clock = SystemClock()
        with self.client() as client, Repository.open(self.repository_url) as repository:
            found = find_leftovers(
                client, repository, cluster_url=client.connection.url, clock=clock
            )
            return remove_leftovers(client, repository, found, clock=clock)

    def left(self) -> list[str]:
        """What carries our mark on the cluster and is no reference, and workers that run."""
        with self.client() as client, Repository.open(self.repository_url) as repository:
            prefix = repository_prefix(repository.id)
            newest = {point.vm_id: point for point in repository.points().points}
            wanted = {point.source["recovery_point_id"] for point in newest.values()}
            return [
                *(each.name for each in client.volume_groups(name_prefix=prefix)),
                *(
                    each.name
                    for each in client.recovery_points(name_prefix=prefix)
                    if each.id not in wanted
                ),
                *(vm.name for vm in client.vms() if vm.is_on and "worker" in vm.name),
            ]

    def taken_slots(self) -> dict[str, int]:
        """Slots of Prefect's limits that somebody holds, throttles aside: those decay."""
        with get_client(sync_client=True) as client:
            limits = client.read_global_concurrency_limits(limit=200, offset=0)
        return {
            each.name: int(each.active_slots)
            for each in limits
            if each.active_slots and not each.slot_decay_per_second
        }

    def assert_sound(self) -> None:
        """Nothing is left after the reconciler, the repository verifies, no slot stays taken."""
        self.clean_up()
        assert self.left() == []
        with Repository.open(self.repository_url) as repository:
            assert repository.verify(VerifyLevel.CONTENT).findings == ()
            assert Moves(repository.live).all() == []
        wait_until("no slot is taken", lambda: not self.taken_slots(), within_s=400, every_s=2.0)

    def assert_next_is_incremental(self, *vms: str) -> float:
        """A session after all that succeeds, reads only what changed, and leaves nothing; its seconds."""
        began_s = time.monotonic()
        state = self.wait_end(self.start(*vms), within_s=300)
        assert state.is_completed(), state
        result = self.last_report()
        assert result.status in ("success", "warning"), result
        assert {vm.kind for vm in result.vms} == {"incremental"}
        assert {disk.read_method for vm in result.vms for disk in vm.disks} == {"changed"}
        assert self.left() == []
        return time.monotonic() - began_s


@contextmanager
def scale_site(
    folder: Path,
    *,
    size: float = 0.4,
    crowd: Crowd | None = None,
    wants_postgres: bool = True,
    jobs: str = "",
) -> Iterator[ScaleSite]:
    """Set everything up, and take it down at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        simulator = stack.enter_context(Simulator(size=size, crowd=crowd))
        net = stack.enter_context(network())
        has_postgres = wants_postgres and postgres_programs() is not None
        url = stack.enter_context(postgres()) if has_postgres else None
        server = PrefectServer(folder, net.host, url)
        stack.callback(server.child.end)
        server.start()
        stack.enter_context(temporary_settings({PREFECT_API_URL: server.url}))
        Repository.create(f"file://{folder}/repository").close()
        site = ScaleSite(
            folder,
            simulator,
            net,
            server,
            control=Child([], {}, folder / "control.log"),
            database="PostgreSQL" if has_postgres else "SQLite",
        )
        set_up(site, jobs)
        site.control = prefect_worker(
            name="control",
            pool="ahvault",
            queue=None,
            limit=4,
            environment=site.environment("control"),
            log=folder / "control.log",
        )
        for number, worker in enumerate(simulator.workers, start=1):
            site.workers.append(
                prefect_worker(
                    name=worker.name,
                    pool="ahvault-movers",
                    queue=f"mover-{number}",
                    limit=4,
                    environment=site.environment(worker.name),
                    log=folder / f"{worker.name}.log",
                    namespace=net.add(number),
                )
            )
        for child in (site.control, *site.workers):
            stack.callback(child.end, within_s=5.0)
            child.start()
        yield site


def set_up(site: ScaleSite, jobs: str = "") -> None:
    """What an operator does: a settings file, and `ahvault scale setup`."""
    config = site.folder / "ahvault.toml"
    config.touch(mode=0o600)
    config.write_text(_settings(site))
    job = site.folder / f"{JOB}.yaml"
    job.write_text(jobs or f"name: {JOB}\nparallel_vms: 2\n")
    subprocess.run(
        [
            *(sys.executable, "-c", "from cli.main import main; main()"),
            *("scale", "setup", str(job), "--config", str(config), "--json"),
        ],
        env={**_clean_environment(), **site.environment("setup")},
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=180,
    )


def _clean_environment() -> dict[str, str]:
    import os

    return {name: value for name, value in os.environ.items() if not name.startswith("AHVAULT_")}


def _settings(site: ScaleSite) -> str:
    simulator = site.simulator
    lines = [
        "[cluster]",
        f"url = {json.dumps(simulator.pc_url)}",
        f"username = {json.dumps(simulator.username)}",
        f"password = {json.dumps(simulator.password)}",
        f"ca_file = {json.dumps(str(simulator.ca_file))}",
        f"prism_element_port = {urlsplit(simulator.pe_url).port}",
        "[repository]",
        f"url = {json.dumps(site.repository_url)}",
    ]
    for number, worker in enumerate(simulator.workers, start=1):
        lines += [
            "[[workers]]",
            f"vm = {json.dumps(worker.name)}",
            f"device_root = {json.dumps(str(worker.device_root))}",
            f'queue = "mover-{number}"',
            "boot_timeout_s = 120",
        ]
    return "\n".join(lines) + "\n"
