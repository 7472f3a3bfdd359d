"""The process of a Prefect server on SQLite: what would make it stand still."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "garbage_stall.py"


@pytest.mark.parametrize("way", ["here", "apart"])
def test_garbage_whose_connection_waits_does_not_stop_the_server(way: str, tmp_path: Path) -> None:
    """A collector in a thread of its own waits alone. Anywhere else all wait, as the first case shows."""
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), way, str(tmp_path / "some.db")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    stall_s = float(ended.stdout)
    assert stall_s < 1.0 if way == "apart" else stall_s > 2.0
