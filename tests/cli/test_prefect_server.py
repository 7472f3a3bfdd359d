"""Against a real Prefect server: who is told of what, and `prefect deploy --all` as shipped."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from cli.exit_codes import ExitCode
from repository import Repository
from simulator import Simulator

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("cli-server")]

ROOT = Path(__file__).parents[2]
TOLD_S_MAX = 60.0
RUN_S_MAX = 150.0

Ended = Callable[..., tuple[int, str, str]]


class Receiver:
    """A web hook on loopback that keeps what it is sent."""

    def __init__(self) -> None:
        self.messages: list[dict[str, str]] = []
        received = self.messages

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length_bytes = int(self.headers["Content-Length"])
                received.append(json.loads(self.rfile.read(length_bytes)))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"

    def __enter__(self) -> Receiver:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait_for(self, subject: str) -> str:
        """The body of the one message with this subject; fails if there is none, or more than one."""
        deadline_s = time.monotonic() + TOLD_S_MAX
        while time.monotonic() < deadline_s:
            bodies = [each["body"] for each in self.messages if each["subject"] == subject]
            if bodies:
                assert len(bodies) == 1, bodies
                return bodies[0]
            time.sleep(0.2)
        raise AssertionError(f"nobody was told of {subject!r}: {self.messages}")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


def python(code: str) -> None:
    """Run a few lines in a process of their own, whose Prefect settings come from the environment."""
    subprocess.run([sys.executable, "-c", code], check=False, timeout=120, capture_output=True)


def test_a_failure_a_warning_and_late_backups_are_told_once_each(
    ended: Ended, store: Path, cluster: Simulator, receiver: Receiver
) -> None:
    """P1-P3: one message per session, after the last retry, with the cause; late ones by age, once until they recover."""
    code, _, err = ended("notifications", "install", "--webhook", receiver.url)
    assert code == ExitCode.OK, err
    Path("bad.yaml").write_text(
        "scope: {vms: [web01]}\nrpo_hours: 0.00001\n"
        "retry: {times: 1, wait_minutes: 0, started_by_hand: true}\n"
    )
    refusal = {"match": {"method": "POST", "path": "*recovery-points"}, "kind": "status"}
    fault = {**refusal, "status": 400, "group": "INVALID_ARGUMENT"}
    cluster.story.set_faults({"seed": 1, "faults": [fault]})
    assert ended("backup", "--job", "bad.yaml")[0] == ExitCode.FAILED
    cluster.story.set_faults({"seed": 1, "faults": []})
    failed = receiver.wait_for("ahvault: backup bad failed")
    assert failed.startswith("1 of 1 VMs failed: web01")

    Path("odd.yaml").write_text("scope: {vms: [web01], categories: ['Env/None']}\n")
    assert ended("backup", "--job", "odd.yaml")[0] == ExitCode.OK
    warned = receiver.wait_for("ahvault: backup odd warning")
    assert "Env/None" in warned

    check = (
        "from blocks import BackupRepository; from flows.maintain import check_rpo;"
        f"check_rpo(BackupRepository(url={str(store)!r}), return_state=True)"
    )
    python(check)
    late = receiver.wait_for("ahvault: backups late")
    assert late.startswith("1 VM is late: web01 (bad: no good restore point")
    python(check)
    Path("bad.yaml").write_text("scope: {vms: [web01]}\nrpo_hours: 24\n")
    assert ended("backup", "--job", "bad.yaml")[0] == ExitCode.OK
    python(check)
    receiver.wait_for("ahvault: backups recovered")
    assert sorted(each["subject"] for each in receiver.messages) == [
        "ahvault: backup bad failed",
        "ahvault: backup odd warning",
        "ahvault: backups late",
        "ahvault: backups recovered",
    ]
    code, out, _ = ended("notifications", "remove", "--json")
    assert code == ExitCode.OK
    assert len(json.loads(out)["removed"]) == 3


def test_notifications_need_a_server_that_stays_and_a_block_that_exists(
    ended: Ended, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each mistake is one sentence: no such block, no such kind, no target, no server."""
    code, _, err = ended("notifications", "install", "--block", "slack-webhook/nobody")
    assert code == ExitCode.NOT_FOUND
    assert "prefect block ls" in err
    assert ended("notifications", "install")[0] == ExitCode.USAGE
    kinds = ended("notifications", "install", "--webhook", "http://127.0.0.1:1", "--on", "fire")
    assert kinds[0] == ExitCode.USAGE
    monkeypatch.delenv("PREFECT_API_URL")
    code, _, err = ended("notifications", "remove")
    assert code == ExitCode.USAGE
    assert "PREFECT_API_URL: is not set" in err


def prefect(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Prefect's own command."""
    return subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )


def test_the_shipped_deployments_deploy_and_run(
    ended: Ended, store: Path, prefect_server: str, tmp_path: Path
) -> None:
    """The steps of the page in order: blocks, pool, deploy, worker, run; a parameter that does not fit is refused."""
    project = tmp_path / "policy"
    project.mkdir()
    shutil.copy(ROOT / "prefect.yaml", project)
    without_pool = prefect("deploy", "--all", cwd=project)
    assert without_pool.returncode != 0
    assert "work pool 'ahvault' which does not" in " ".join(without_pool.stdout.split())
    assert ended("blocks")[0] == ExitCode.OK
    for name in ("ahvault", "ahvault-movers"):
        pool = prefect("work-pool", "create", name, "--type", "process", cwd=project)
        assert pool.returncode == 0, pool.stderr
    deployed = prefect("deploy", "--all", cwd=project)
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr

    with httpx.Client(base_url=prefect_server, timeout=30) as api:
        found = api.post("/deployments/filter", json={}).json()
        by_name = {each["name"]: each for each in found}
        assert set(by_name) == {
            "nightly",
            "restore-vm",
            "retention",
            "collect",
            "verify",
            "clean-up",
            "check-rpo",
            "mover",
        }
        active = {name for name, each in by_name.items() if _is_scheduled(each)}
        assert active == {"retention", "collect", "verify", "clean-up", "check-rpo"}

        nightly = f"/deployments/{by_name['nightly']['id']}/create_flow_run"
        misfit = api.post(nightly, json={"parameters": {"job": {"scop": {}}}})
        assert misfit.status_code == 409
        worker = _start_worker(project)
        try:
            job = {"name": "nightly", "scope": {"vms": ["web01"]}, "rpo_hours": 24}
            runs = [api.post(nightly, json={"parameters": {"job": job}}).json()["id"]]
            _wait_for(api, runs)
            runs = [
                _start(api, by_name[name]["id"])
                for name in ("check-rpo", "retention", "collect", "verify", "clean-up")
            ]
            _wait_for(api, runs)
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(60)
    with Repository.open(str(store)) as repository:
        assert [point.job for point in repository.points().points] == ["nightly"]


def _start(api: httpx.Client, deployment_id: str) -> str:
    """A busy SQLite answers 503 and has done nothing; Prefect's own clients ask again, too."""
    deadline_s = time.monotonic() + 120
    while True:
        answer = api.post(f"/deployments/{deployment_id}/create_flow_run", json={})
        if answer.is_success:
            return str(answer.json()["id"])
        assert answer.status_code == 503, answer.text
        assert time.monotonic() < deadline_s, answer.text
        time.sleep(0.5)


def _is_scheduled(deployment: dict[str, object]) -> bool:
    schedules = deployment["schedules"]
    assert isinstance(schedules, list)
    return any(each["active"] for each in schedules)


def _start_worker(cwd: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "prefect", "worker", "start", "--pool", "ahvault"],
        cwd=cwd,
        env={**os.environ, "PREFECT_WORKER_QUERY_SECONDS": "2"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _wait_for(api: httpx.Client, run_ids: list[str]) -> None:
    """All of them completed; fails with the message of the one that did not."""
    deadline_s = time.monotonic() + RUN_S_MAX
    for run_id in run_ids:
        while time.monotonic() < deadline_s:
            state = api.get(f"/flow_runs/{run_id}").json()["state"]
            if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                break
            time.sleep(1)
        assert state["type"] == "COMPLETED", state
