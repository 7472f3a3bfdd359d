"""Prefect's embedded server as a command's own process: it outlives what ends the command, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from cli.exit_codes import ExitCode
from repository import Repository, VerifyLevel
from simulator import Simulator
from tests.cli.test_session_commands import Start, start_transfer

pytestmark = [pytest.mark.prefect, pytest.mark.xdist_group("cli-embedded")]

GONE_S_MAX = 20.0
CLEANED_UP_S_MAX = 60.0


@pytest.fixture
def without_server(store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The repository of a command that nobody gave a Prefect server."""
    monkeypatch.delenv("PREFECT_API_URL")
    return store


def start_in_own_group(
    ahvault_process: Start, folder: Path
) -> tuple[subprocess.Popen[str], list[int]]:
    """A slow backup, in a process group of its own, whose disks are being read; and its children."""
    child = start_transfer(ahvault_process, folder, preexec_fn=os.setsid)
    return child, children(child.pid)


def children(pid: int) -> list[int]:
    """The processes that any of the process's threads started."""
    found = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(each) for line in found for each in line]


def still_there(pids: Sequence[int]) -> list[int]:
    """Those of the processes that have not ended in a while."""
    deadline_s = time.monotonic() + GONE_S_MAX
    while (left := [pid for pid in pids if runs(pid)]) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return left


def runs(pid: int) -> bool:
    """Whether there is such a process and it has not ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, ExitCode.TERMINATED),
        pytest.param(signal.SIGHUP, ExitCode.TERMINATED, marks=pytest.mark.long),
        pytest.param(signal.SIGINT, ExitCode.INTERRUPTED, marks=pytest.mark.long),
    ],
)
def test_a_signal_to_the_whole_group_leaves_the_server_for_the_clean_up(
    ahvault_process: Start,
    without_server: Path,
    cluster: Simulator,
    tmp_path: Path,
    number: int,
    code: ExitCode,
) -> None:
    """As systemd, `timeout` and a terminal send it: the session cleans up in its usual time and takes its server along."""
    child, others = start_in_own_group(ahvault_process, tmp_path)
    assert others
    started_s = time.monotonic()
    os.killpg(child.pid, number)
    _, err = child.communicate(timeout=120)
    assert child.returncode == code, err
    assert "Traceback" not in err
    assert time.monotonic() - started_s < CLEANED_UP_S_MAX
    assert still_there(others) == []
    found = cluster.story.describe()
    assert [name for name in found["volume_groups"].values() if name.startswith("ahvault")] == []
    assert [name for name in found["recovery_points"].values() if name.startswith("ahvault")] == []
    with Repository.open(str(without_server)) as repository:
        assert repository.points().points == []
        assert repository.verify(VerifyLevel.CONTENT).is_clean


def test_a_killed_command_takes_its_server_along(
    ahvault_process: Start, without_server: Path, tmp_path: Path
) -> None:
    """Also `kill -9`, after which the command can do nothing more, leaves no server behind."""
    child, others = start_in_own_group(ahvault_process, tmp_path)
    assert others
    child.kill()
    child.communicate(timeout=60)
    assert still_there(others) == []
