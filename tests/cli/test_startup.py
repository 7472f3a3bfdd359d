"""The command line answers at once: nothing heavy is imported before a command needs it."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("prefect", "simulator", "pyarrow", "httpx", "fsspec", "repository", "nutanix", "jobs")


def test_importing_main_imports_nothing_heavy() -> None:
    """A fresh interpreter that imports `cli.main` holds neither an engine nor Prefect."""
    code = f"import cli.main, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["backup", "--help"], ["export", "--nothing"]])
def test_help_and_mistakes_are_quick(arguments: list[str]) -> None:
    """Help, and the refusal of a wrong option, take well under half a second of CPU time."""
    code = (
        "import sys, time\n"
        "from cli.main import run\n"
        "run(sys.argv[1:])\n"
        "print(time.process_time(), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert float(done.stderr.split()[-1]) < 0.5
