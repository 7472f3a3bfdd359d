"""An installation to take pictures of: a simulated cluster, a repository, and `ahvault serve` over both."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from simulator import Simulator

READY_S_MAX = 240.0
RUN_S_MAX = 400.0
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

JOB = """schedule: "0 1 * * *"
time_zone: Europe/Berlin
retention: { keep_days: 14, gfs: { weekly: { keep_weeks: 4 } } }
retry: { times: 0 }
"""


@dataclass(frozen=True)
class Site:
    """What runs, and how to reach it."""

    cluster: Simulator
    ui_url: str
    api: httpx.Client
    environment: Mapping[str, str]

    def deployment(self, name: str) -> str:
        """The id of a deployment; waits for it, since `serve` is ready a moment before they are there."""
        deadline_s = time.monotonic() + READY_S_MAX
        while time.monotonic() < deadline_s:
            found = self.api.post("/deployments/filter", json={}).raise_for_status().json()
            for each in found:
                if each["name"] == name:
                    return str(each["id"])
            time.sleep(0.5)
        raise TimeoutError(f"there is no deployment {name}")

    def start(self, deployment: str, **parameters: Any) -> str:
        """Start a run; returns its id."""
        url = f"/deployments/{self.deployment(deployment)}/create_flow_run"
        answer = self.api.post(url, json={"parameters": parameters}).raise_for_status()
        return str(answer.json()["id"])

    def run(self, deployment: str, **parameters: Any) -> str:
        """Start a run and wait for its end, whatever that is; returns its id."""
        run_id = self.start(deployment, **parameters)
        self.wait_until(run_id, *ENDED)
        return run_id

    def wait_until(self, run_id: str, *types: str) -> None:
        """Wait until the run is in a state of one of these types."""
        deadline_s = time.monotonic() + RUN_S_MAX
        while time.monotonic() < deadline_s:
            if self.api.get(f"/flow_runs/{run_id}").json()["state"]["type"] in types:
                return
            time.sleep(0.5)
        raise TimeoutError(f"run {run_id} is not {' or '.join(types)}")

    def artifact(
        self, key: str, kind: str = "markdown", *, of_run: str | None = None
    ) -> str | None:
        """The id of the newest artifact whose key starts so, of one run or of any; None without one."""
        found = self.api.post("/artifacts/filter", json={"sort": "CREATED_DESC"}).json()
        ids = (
            each["id"]
            for each in found
            if each["type"] == kind
            and each["key"].startswith(key)
            and of_run in (None, each["flow_run_id"])
        )
        return next(ids, None)

    def subrun(self, parent_id: str, name: str) -> str | None:
        """The id of the session's run of a VM, or None while there is none."""
        query = {"flow_runs": {"parent_flow_run_id": {"any_": [parent_id]}}}
        found = self.api.post("/flow_runs/filter", json=query).raise_for_status().json()
        return next((str(each["id"]) for each in found if name in each["name"]), None)

    def ahvault(self, *arguments: str) -> None:
        """Run a command of ahvault's; fails loudly."""
        command = [sys.executable, "-c", "from cli.main import main; main()", *arguments]
        subprocess.run(command, env=self.environment, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def running_site(folder: Path) -> Iterator[Site]:
    """Everything up and ready; all of it ends with the block."""
    with ExitStack() as stack:
        cluster = stack.enter_context(Simulator(size=0.5))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        (folder / "nightly.yaml").write_text(JOB)
        site = Site(
            cluster=cluster,
            ui_url=f"http://127.0.0.1:{port}",
            api=stack.enter_context(
                httpx.Client(base_url=f"http://127.0.0.1:{port}/api", timeout=60)
            ),
            environment=_environment(cluster, folder, port),
        )
        site.ahvault("repo", "init")
        stack.enter_context(_serving(site, folder, port))
        yield site


def _environment(cluster: Simulator, folder: Path, port: int) -> dict[str, str]:
    return {
        **os.environ,
        "XDG_DATA_HOME": str(folder / "data"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "AHVAULT_CLUSTER_URL": cluster.pc_url,
        "AHVAULT_CLUSTER_USERNAME": cluster.username,
        "AHVAULT_CLUSTER_PASSWORD": cluster.password,
        "AHVAULT_CLUSTER_CA_FILE": str(cluster.ca_file),
        "AHVAULT_CLUSTER_PRISM_ELEMENT_PORT": cluster.pe_url.rpartition(":")[2],
        "AHVAULT_REPOSITORY_URL": str(folder / "store"),
        "AHVAULT_WORKERS": ",".join(f"{each.name}={each.device_root}" for each in cluster.workers),
    }


@contextmanager
def _serving(site: Site, folder: Path, port: int) -> Iterator[None]:
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from cli.main import main; main()",
            "serve",
            "nightly.yaml",
            "--port",
            str(port),
        ],
        cwd=folder,
        env={name: value for name, value in site.environment.items() if name != "PREFECT_API_URL"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith("Ctrl-C"):
                break
        else:
            raise RuntimeError("ahvault serve ended before it was ready")
        yield
    finally:
        child.send_signal(signal.SIGINT)
        child.wait(120)
