"""A worker from `ahvault workers deploy` to a session that it carries: what the user data says is what is run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from prefect.client.orchestration import get_client
from prefect.deployments import run_deployment
from prefect.settings import PREFECT_API_URL, temporary_settings

from jobs import SessionResult
from jobs.marks import repository_prefix
from jobs.moves import Moves
from nutanix import AhvClient, ClusterConnection
from repository import Repository, VerifyLevel
from simulator import Simulator
from tests.folder_server import folder_served
from tests.scale.first_boot import WorkerGuest, build_wheel
from tests.scale.processes import CLIENT_SETTINGS, PrefectServer, ended, prefect_worker, wait_until

pytestmark = [
    pytest.mark.long,
    pytest.mark.prefect,
    pytest.mark.xdist_group("scale"),
    pytest.mark.timeout(600),
]
ROOT = Path(__file__).parents[2]
NAME = "ahvault-worker-9"
SLOW_MBIT_PER_S = 1.0
DATA_BYTES = 16 << 20
"""With what else is on the disk two minutes at that rate: longer than a run may be without a heartbeat."""


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """A cluster that has no worker of ours."""
    with Simulator(size=0.1) as running:
        yield running


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PrefectServer]:
    """A Prefect server that nothing was ever set up on."""
    made = PrefectServer(tmp_path, "127.0.0.1", None)
    with ended(made.child), temporary_settings({PREFECT_API_URL: made.url}):
        made.start()
        yield made


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server with a boot image and our package."""
    folder = tmp_path / "web"
    folder.mkdir()
    (folder / "debian.raw").write_bytes(b"boot" * 1024 + bytes(1 << 20))
    build_wheel(ROOT, folder)
    with folder_served(folder) as url:
        yield url


@pytest.fixture
def operator(simulator: Simulator, tmp_path: Path) -> Callable[..., str]:
    """Runs `ahvault` as an operator does, over an empty repository; returns what it printed."""
    Repository.create(f"file://{tmp_path}/store").close()
    config = tmp_path / "ahvault.toml"
    config.write_text(
        f"[cluster]\nurl = {json.dumps(simulator.pc_url)}\n"
        f"username = {json.dumps(simulator.username)}\npassword = {json.dumps(simulator.password)}\n"
        f"ca_file = {json.dumps(str(simulator.ca_file))}\n"
        f"prism_element_port = {urlsplit(simulator.pe_url).port}\n"
        f"[repository]\nurl = {json.dumps(f'file://{tmp_path}/store')}\n"
    )
    config.chmod(0o600)
    (tmp_path / "nightly.yaml").write_text("name: nightly\nscope: {vms: [web01]}\n")
    known = {name: value for name, value in os.environ.items() if "AHVAULT" not in name}

    def run(*words: str, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", "from cli.main import main; main()", *words],
            env={**known, "PREFECT_HOME": str(tmp_path / "operator"), **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    return run


def test_a_deployed_worker_carries_a_session(
    operator: Callable[..., str],
    simulator: Simulator,
    server: PrefectServer,
    web: str,
    tmp_path: Path,
) -> None:
    """On a new site: deployed with a queue, booted from its own user data, set up, and a long transfer runs there."""
    environment = {"PREFECT_API_URL": server.url, **CLIENT_SETTINGS}
    device_root = simulator.workers[0].device_root.parent / NAME
    with WorkerGuest(simulator, NAME, tmp_path / "guest") as guest:
        wheel = next((tmp_path / "web").glob("*.whl")).name
        # The server is named as the documentation has it: by the option alone.
        operator(
            *("workers", "deploy", NAME, "--subnet", "vlan-10", "--disk-gib", "1", "--slots", "2"),
            *("--image-url", f"{web}/debian.raw", "--package", f"ahvault @ {web}/{wheel}"),
            *("--prefect-url", server.url, "--device-root", str(device_root)),
            *("--boot-timeout-s", "120"),
        )
        assert_valid(guest, tmp_path)
        operator("scale", "setup", "nightly.yaml", **environment)
        simulator.story.write_file("web01", "/srv/new.bin", size_bytes=DATA_BYTES, seed="new")
        control = prefect_worker(
            name="control",
            pool="ahvault",
            queue=None,
            limit=1,
            environment={**environment, "PREFECT_HOME": str(tmp_path / "control")},
            log=tmp_path / "control.log",
        )
        with ended(control):
            control.start()
            result = session(tmp_path)
        assert result.status == "success", result
        assert {vm.worker for vm in result.vms} == {NAME}
        assert_moved_there(guest)
    assert_sound(simulator, tmp_path)


def assert_valid(guest: WorkerGuest, folder: Path) -> None:
    """cloud-init's own validator finds nothing wrong with what the VM was given."""
    assert guest.user_data is not None
    if shutil.which("cloud-init") is None:
        return
    path = folder / "user-data"
    path.write_text(guest.user_data)
    checked = subprocess.run(
        ["cloud-init", "schema", "--config-file", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def session(folder: Path) -> SessionResult:
    """A slow run of the job's deployment, to its end."""
    job = {
        "name": "nightly",
        "scope": {"vms": ["web01"]},
        "limits": {"mbit_per_s": SLOW_MBIT_PER_S},
    }
    run = run_deployment("backup/nightly", parameters={"job": job}, timeout=0, as_subflow=False)

    def is_over() -> bool:
        with get_client(sync_client=True) as client:
            return client.read_flow_run(run.id).state.is_final()

    wait_until("the session is over", is_over, within_s=400, every_s=1.0)
    with Repository.open(f"file://{folder}/store") as repository:
        return SessionResult.model_validate(repository.reports().reports[-1])


def assert_moved_there(guest: WorkerGuest) -> None:
    """One mover ran, long, by the installed package under the guest's service, and was never called dead."""
    with get_client(sync_client=True) as client:
        (mover,) = [each for each in client.read_flow_runs() if each.work_queue_name == NAME]
        states = client.read_flow_run_states(mover.id)
    assert mover.total_run_time.total_seconds() > 95
    assert [each.name for each in states][-2:] == ["Running", "Completed"], states
    said = re.sub(r"\s+", " ", guest.log.read_text())
    assert str(mover.id) in said
    assert said.count("Finished in state Completed()") == 2


def assert_sound(simulator: Simulator, folder: Path) -> None:
    """The restore point verifies, and nothing of the session is on the cluster but the reference."""
    connection = ClusterConnection(
        url=simulator.pc_url,
        username=simulator.username,
        password=simulator.password,
        ca_file=simulator.ca_file,
    )
    with (
        AhvClient(connection) as client,
        Repository.open(f"file://{folder}/store") as repository,
    ):
        (point,) = repository.points().points
        assert repository.verify(VerifyLevel.CONTENT).findings == ()
        assert Moves(repository.live).all() == []
        prefix = repository_prefix(repository.id)
        assert client.volume_groups(name_prefix=prefix) == []
        left = {each.id for each in client.recovery_points(name_prefix=prefix)}
        assert left == {point.source["recovery_point_id"]}
        assert not [vm.name for vm in client.vms() if vm.is_on and "worker" in vm.name]
