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
def test_help_and_mistakes_import_nothing_heavy(arguments: list[str]) -> None:
    """Help, and the refusal of a wrong option, come before any engine is imported: they answer at once."""
    code = (
        "import sys\n"
        "from cli.main import run\n"
        "run(sys.argv[1:])\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr.splitlines()[-1] == "[]"
