"""kill -9 of a real writer at random moments: what it said to be committed is there, to the byte."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repository import Repository, RestorePoint, VerifyLevel
from tests.repository import killed_writer

ROOT = Path(__file__).parents[2]
WRITING_S_MAX = 1.2
POINTS_PER_REPOSITORY = 60


def write_and_kill(url: str, first: int, after_s: float) -> list[str]:
    """Let a process write from state `first` on, kill it, return the ids it said were committed."""
    command = [sys.executable, "-m", "tests.repository.killed_writer", url, str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(after_s)
        child.kill()
        said = child.stdout.read()
    assert child.returncode == -9
    return [line for line in said.splitlines() if len(line) == 32]


def restored(repository: Repository, point: RestorePoint) -> bytes:
    reader = repository.open_disk(point, "disk-1")
    data = bytearray(reader.size_bytes)
    reader.read_into(0, memoryview(data))
    return bytes(data)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "kills", [5, pytest.param(200, marks=pytest.mark.long)], ids=["short", "200"]
)
def test_nothing_committed_is_lost(
    tmp_path: Path, bench: Any, kills: int, count: Callable[[str, int], None]
) -> None:
    """After each kill: verify is clean, every point told or listed restores, the next writer goes on."""
    chooser = random.Random(200)
    url, told, points = "", set[str](), []
    committed = 0
    for number in range(kills):
        if not url or len(points) > POINTS_PER_REPOSITORY:
            url, told = str(tmp_path / str(number)), set()
            Repository.create(url, options=bench.options).close()
            points = []
        first = points[-1].source["state"] + 1 if points else 0
        known = len(points)
        told |= set(write_and_kill(url, first, chooser.uniform(0, WRITING_S_MAX)))
        with Repository.open(url) as repository:
            assert repository.verify(VerifyLevel.STORED).is_clean
            points = repository.points().points
            assert told <= {point.id for point in points}
            for point in points[max(0, known - 1) :]:
                assert restored(repository, point) == killed_writer.state(point.source["state"])
        committed += len(points) - known
    with Repository.open(url) as repository:
        assert repository.verify(VerifyLevel.CONTENT).is_clean
    count("kills of a writer", kills)
    count("kills of a writer: points committed, none lost", committed)
    assert committed >= kills // 5
