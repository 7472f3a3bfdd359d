"""`ahvault serve` for real: a server comes up, a schedule fires, a session runs, and all of it ends."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.exit_codes import ExitCode
from repository import Repository
from simulator import Simulator

STARTED_S_MAX = 150.0
SCHEDULED_S_MAX = 150.0


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_taken_port_and_a_bad_job_are_told_at_once(ahvault, tmp_path: Path, port: int) -> None:
    """Neither waits for a server to come up, and nobody else's server is taken for ours."""
    (tmp_path / "bad.yaml").write_text("scop: {}")
    ended = ahvault("serve", "bad.yaml", "--port", str(port))
    assert ended.code == ExitCode.USAGE
    assert "did you mean scope?" in ended.err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        ended = ahvault("serve", "--port", str(port))
    assert ended.code == ExitCode.USAGE
    assert "cannot be listened on" in ended.err


@pytest.mark.long
def test_a_scheduled_job_runs(
    ahvault_process: Callable[..., object],
    tmp_path: Path,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job due every minute makes its restore point without anybody asking; SIGTERM ends server and all."""
    url = f"file://{tmp_path}/repository"
    Repository.create(url).close()
    (tmp_path / "often.yaml").write_text("schedule: '* * * * *'\nscope: {vms: [web01]}\n")
    with Simulator(size=0.1) as cluster:
        workers = ",".join(f"{each.name}={each.device_root}" for each in cluster.workers)
        for name, value in {
            "CLUSTER_URL": cluster.pc_url,
            "CLUSTER_USERNAME": cluster.username,
            "CLUSTER_PASSWORD": cluster.password,
            "CLUSTER_CA_FILE": str(cluster.ca_file),
            "CLUSTER_PRISM_ELEMENT_PORT": cluster.pe_url.rpartition(":")[2],
            "REPOSITORY_URL": url,
            "WORKERS": workers,
        }.items():
            monkeypatch.setenv(f"AHVAULT_{name}", value)
        child = ahvault_process(["serve", "often.yaml", "--port", str(port), "--json"])
        try:
            ready = json.loads("".join(iter(child.stdout.readline, "}\n")) + "}")
            assert ready["jobs"] == [{"name": "often", "schedule": "* * * * *", "time_zone": "UTC"}]
            deadline_s = time.monotonic() + SCHEDULED_S_MAX
            points: list[object] = []
            while not points and time.monotonic() < deadline_s:
                time.sleep(1)
                with Repository.open(url) as repository:
                    points = list(repository.points().points)
            assert points, "no session ran"
        finally:
            child.send_signal(signal.SIGTERM)
            child.communicate(timeout=120)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
