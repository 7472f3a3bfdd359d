"""Running the real command, in this process or as a child."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cli.main import run
from cli.prefect_server import bound_socket, spawn_server, stop_server, wait_until_healthy
from repository import (
    DiskSpec,
    Extent,
    ExtentKind,
    FileSource,
    PointDraft,
    Repository,
    WriteSession,
)
from simulator import Simulator

SERVER_START_S_MAX = 90.0


@dataclass(frozen=True)
class Ended:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout; fails the test if there is anything else."""
        return json.loads(self.out)


Ahvault = Callable[..., Ended]


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the settings of whoever runs it; each runs in a directory of its own."""
    for variable in [name for name in os.environ if name.startswith("AHVAULT_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config-home"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data-home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def ahvault(capfd: pytest.CaptureFixture[str]) -> Ahvault:
    """Run a command line in this process, through the same function as the real command."""

    def invoke(*arguments: str) -> Ended:
        capfd.readouterr()
        code = run(arguments)
        captured = capfd.readouterr()
        return Ended(code, captured.out, captured.err)

    return invoke


@pytest.fixture
def ahvault_process() -> Callable[..., subprocess.Popen[str]]:
    """Start the real command as a child process."""

    def start(
        arguments: Sequence[str], preexec_fn: Callable[[], None] | None = None
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", "from cli.main import main; main()", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=preexec_fn,  # noqa: PLW1509 - no test holds a lock while it starts one
        )

    return start


@dataclass(frozen=True)
class Stored:
    """A real repository with restore points, and the bytes that were stored in it."""

    path: Path
    images: dict[str, bytes]
    """By `VM label`, as of the VM's newest restore point."""


def _image(seed: int) -> bytes:
    """Three chunks and a bit: text, zeros, noise, a short end."""
    text = b"".join(b"%d line %06d\n" % (seed, number) for number in range(90_000))[: 1024 * 1024]
    noise = random.Random(seed).randbytes(1024 * 1024)
    return text + bytes(1024 * 1024) + noise + b"end"


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    """Two VMs: db01 with two disks and two restore points, web01 with one of each."""
    images = {"db01 scsi.0": _image(1), "db01 scsi.1": _image(2), "web01 scsi.0": _image(3)}
    path = tmp_path / "store"
    with Repository.create(str(path)) as repository:
        with repository.write_session("session-1") as session:
            older = {**images, "db01 scsi.0": images["db01 scsi.0"][:-3] + b"old"}
            _commit(session, tmp_path, "db01", older, hour=8)
            _commit(session, tmp_path, "web01", images, hour=8)
        with repository.write_session("session-2") as session:
            _commit(session, tmp_path, "db01", images, hour=9)
    return Stored(path, images)


def _commit(
    session: WriteSession, folder: Path, vm: str, images: dict[str, bytes], *, hour: int
) -> None:
    records = []
    for name, image in images.items():
        vm_name, label = name.split()
        if vm_name != vm:
            continue
        file = folder / "source.img"
        file.write_bytes(image)
        with FileSource(file) as source:
            spec = DiskSpec(disk_id=f"id-of-{vm}-{label}", size_bytes=len(image), label=label)
            whole = [Extent(0, len(image), ExtentKind.DATA)]
            records.append(session.write_disk(spec, source, whole, None, read_method="all"))
    session.commit(
        PointDraft(
            vm_id=f"id-of-{vm}",
            vm_name=vm,
            job="test",
            session_id="s",
            session_started_at=datetime(2026, 11, 23, hour, tzinfo=UTC),
            created_at=datetime(2026, 11, 23, hour, tzinfo=UTC),
            consistency="crash",
            disks=tuple(records),
        )
    )


@pytest.fixture(scope="module")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server of the module's own: every command would wait for an embedded one."""
    home = tmp_path_factory.mktemp("prefect-server")
    with bound_socket("127.0.0.1", 0) as bound:
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/api"
        settings = {
            "PREFECT_HOME": str(home),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_UI_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        child = spawn_server(bound, settings, is_silent=True)
    try:
        wait_until_healthy(child, url, SERVER_START_S_MAX)
        yield url
    finally:
        stop_server(child)


@pytest.fixture
def cluster() -> Iterator[Simulator]:
    """A small simulated cluster for one test."""
    with Simulator(size=0.05) as simulator:
        yield simulator


@pytest.fixture
def store(
    cluster: Simulator, prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """An empty repository, and settings for it, the cluster and the server."""
    path = tmp_path / "store"
    Repository.create(str(path)).close()
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    monkeypatch.setenv("AHVAULT_REPOSITORY_URL", str(path))
    monkeypatch.setenv("AHVAULT_CLUSTER_URL", cluster.pc_url)
    monkeypatch.setenv("AHVAULT_CLUSTER_USERNAME", cluster.username)
    monkeypatch.setenv("AHVAULT_CLUSTER_PASSWORD", cluster.password)
    monkeypatch.setenv("AHVAULT_CLUSTER_CA_FILE", str(cluster.ca_file))
    port = cluster.pe_url.rpartition(":")[2]
    monkeypatch.setenv("AHVAULT_CLUSTER_PRISM_ELEMENT_PORT", port)
    workers = ",".join(f"{each.name}={each.device_root}" for each in cluster.workers)
    monkeypatch.setenv("AHVAULT_WORKERS", workers)
    return path


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def ended(ahvault_process: Start) -> Callable[..., tuple[int, str, str]]:
    """Run the real command to its end: exit code, stdout, stderr."""

    def invoke(*arguments: str) -> tuple[int, str, str]:
        child = ahvault_process(arguments)
        out, err = child.communicate(timeout=120)
        return child.returncode, out, err

    return invoke
