"""The simulator as a program: one line when ready, a clean stop, and a state that survives both ends."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from simulator import Simulator, StateInUseError

VMS = "/vmm/v4.3/ahv/config/vms"


@contextmanager
def _running(state: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any], httpx.Client]]:
    command = [
        sys.executable,
        "-m",
        "simulator",
        "--port",
        "0",
        "--size",
        "0.05",
        "--state",
        os.path.relpath(state),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                assert process.stderr is not None
                raise AssertionError(process.stderr.read())
            ready = json.loads(line)
            context = ssl.create_default_context(cafile=ready["ca_file"])
            login = (ready["username"], ready["password"])
            with httpx.Client(base_url=ready["pc_url"], verify=context, auth=login) as client:
                yield process, ready, client
        finally:
            process.kill()


def test_it_says_where_it_is_and_stops_on_sigterm(fresh_state: Path) -> None:
    """The ready line has everything a client needs, and SIGTERM ends the process with 0."""
    with _running(fresh_state) as (process, ready, client):
        assert client.get(f"/api{VMS}").status_code == 200
        assert set(ready) == {
            "pc_url",
            "pe_url",
            "username",
            "password",
            "ca_file",
            "admin_url",
            "iscsi_portal",
            "workers",
        }
        assert {w["name"] for w in ready["workers"]} == {"ahvault-worker-1", "ahvault-worker-2"}
        assert all(Path(w["device_root"]).is_dir() for w in ready["workers"])
        assert all(
            Path(p).is_absolute() for p in (ready["ca_file"], ready["workers"][0]["device_root"])
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_actions_work_over_https(fresh_state: Path) -> None:
    """What a story does in Python, another program does over the admin URL; mistakes come back as errors."""
    with _running(fresh_state) as (_process, ready, client):
        body = {"vm": "web01", "path": "/hello", "content_base64": "aGVsbG8="}
        assert client.post(f"{ready['admin_url']}/write_file", json=body).status_code == 200
        files = client.post(f"{ready['admin_url']}/list_files", json={"vm": "web01"}).json()["data"]
        assert files["/hello"]["size_bytes"] == 5
        assert client.post(f"{ready['admin_url']}/write_file", json={"vm": 5}).status_code == 400
        missing = client.post(
            f"{ready['admin_url']}/delete_file", json={"vm": "web01", "path": "/none"}
        )
        assert missing.status_code == 422
        assert client.post(f"{ready['admin_url']}/no_such", json={}).status_code == 404
        nobody = client.post(f"{ready['admin_url']}/describe", json={}, auth=("admin", "wrong"))
        assert nobody.status_code == 401


def test_a_killed_simulator_comes_back_as_it_was(fresh_state: Path) -> None:
    """After SIGKILL in the midst of work: same password, same ids, and every accepted task is done once."""
    with _running(fresh_state) as (process, ready, client):
        vm = client.get(f"/api{VMS}", params={"$filter": "name eq 'web01'"}).json()["data"][0][
            "extId"
        ]
        tasks = []
        for number in range(20):
            body = {"name": f"p{number}", "vmRecoveryPoints": [{"vmExtId": vm}]}
            headers = {"NTNX-Request-Id": f"00000000-0000-4000-8000-{number:012d}"}
            path = "/api/dataprotection/v4.4/config/recovery-points"
            tasks.append(client.post(path, json=body, headers=headers).json()["data"]["extId"])
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
    with _running(fresh_state) as (_process, again, client):
        assert again["password"] == ready["password"]
        for task in tasks:
            _wait(
                lambda task=task: client.get(f"/api/prism/v4.4/config/tasks/{task}").json()["data"]
            )
        points = client.get(
            "/api/dataprotection/v4.4/config/recovery-points", params={"$limit": "100"}
        ).json()["data"]
        names = sorted(p["name"] for p in points if p["name"].startswith("p"))
        assert names == sorted(f"p{n}" for n in range(20))


def _wait(task: Callable[[], dict[str, Any]]) -> None:
    for _ in range(500):
        status = task()["status"]
        if status == "SUCCEEDED":
            return
        assert status != "FAILED"
        time.sleep(0.01)
    raise AssertionError("the task did not end")


def test_time_does_not_run_backwards_over_a_restart(fresh_state: Path) -> None:
    """What was let pass stays passed for the next simulator over the same state."""
    with Simulator(state=fresh_state) as first:
        first.story.advance_clock(10_000)
        before = first.clock.now()
    with Simulator(state=fresh_state) as second:
        assert second.clock.now() >= before


def test_a_state_directory_has_one_simulator(
    fresh_state: Path, open_api: Callable[..., Any]
) -> None:
    """A second simulator on the same state says so and touches nothing."""
    open_api()
    with pytest.raises(StateInUseError, match="Stop it"), Simulator(state=fresh_state):
        pass


def test_a_port_that_is_taken_is_one_sentence(open_api: Callable[..., Any], tmp_path: Path) -> None:
    """The program ends with 1 and one line, without a traceback."""
    port = open_api().simulator.pc_url.rsplit(":", 1)[1]
    command = [
        sys.executable,
        "-m",
        "simulator",
        "--port",
        port,
        "--size",
        "0.01",
        "--state",
        str(tmp_path / "s"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("simulator: ")
    assert len(done.stderr.splitlines()) == 1


def test_without_e2fsprogs_it_names_the_package(tmp_path: Path) -> None:
    """A missing tool is named with the package that has it."""
    code = (
        "import simulator.filesystems as f, shutil\n"
        "f.shutil = type('S', (), {'which': staticmethod(lambda *a, **k: None)})\n"
        "import simulator, pathlib, sys\n"
        f"sys.exit(simulator.serve(port=0, state=pathlib.Path({str(tmp_path)!r})))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "'e2fsprogs'" in done.stderr
    assert "Traceback" not in done.stderr
