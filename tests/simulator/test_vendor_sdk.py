"""The vendor's Python SDK, which nobody here wrote, takes the simulator for the real thing."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_SDK = Path(__file__).parent / "sdk"


@pytest.fixture(scope="session")
def sdk_python(request: pytest.FixtureRequest) -> Path:
    """An interpreter that has the SDK, whose pins must not reach the project's own environment."""
    named = os.environ.get("AHVAULT_SDK_PYTHON")
    path = Path(named) if named else request.config.rootpath / ".venv-sdk/bin/python"
    if not path.exists():
        pytest.skip(
            "no SDK environment: python3 -m venv .venv-sdk && "
            f".venv-sdk/bin/pip install --no-deps -r {_SDK.relative_to(request.config.rootpath)}/requirements.lock"
        )
    return path


@pytest.mark.parametrize("newest_minor", [4, 2])
def test_the_sdk_types_every_answer_and_knows_every_field(
    open_api: Callable[..., Any], sdk_python: Path, newest_minor: int
) -> None:
    """Over 100 calls of seven namespaces: no untyped value, no unknown field, no wrong type, no wrong result.

    On a PC of 4.2 too, to which the SDK steps down by itself. The first call meets a 503, which it tries again.
    """
    api = open_api(newest_minor=newest_minor)
    fault = {"kind": "status", "status": 503, "match": {"path": "/config/clusters"}, "times": 1}
    api.simulator.story.set_faults({"faults": [fault]})
    found = _drive(api, sdk_python)
    assert found["problems"] == []
    assert api.simulator.story.struck_faults() == [1]
    assert len(found["calls"]) >= 100
    assert len(set(found["calls"])) >= 60
    assert {"Vm", "UefiBoot", "VmDisk", "Task", "ChangedRegion"} <= set(found["types"])


def _drive(api: Any, sdk_python: Path) -> dict[str, Any]:
    """What the SDK found over backup, restore and everything around them."""
    ready = json.dumps(dict(api.simulator.describe()))
    command = [sdk_python, _SDK / "drive.py", ready]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
