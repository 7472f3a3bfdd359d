"""The vendor's Python SDK, which nobody here wrote, takes the simulator for the real thing."""

from __future__ import annotations

import json
import os
import subprocess
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


@pytest.fixture
def driven(api: Any, sdk_python: Path) -> dict[str, Any]:
    """What the SDK found, driven over backup, restore and everything around them."""
    # The first call meets a 503 and the SDK is expected to try it again, with the same request id.
    fault = {"kind": "status", "status": 503, "match": {"path": "/config/clusters"}, "times": 1}
    api.simulator.story.set_faults({"faults": [fault]})
    ready = json.dumps(dict(api.simulator.describe()))
    done = subprocess.run(
        [sdk_python, _SDK / "drive.py", ready],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_sdk_types_every_answer_and_knows_every_field(api: Any, driven: dict[str, Any]) -> None:
    """Over 80 calls of seven namespaces: no untyped value, no unknown field, no wrong object type, no wrong result."""
    assert driven["problems"] == []
    assert api.simulator.story.struck_faults() == [1]
    assert len(set(driven["calls"])) >= 60
    assert {"Vm", "UefiBoot", "VmDisk", "Task", "ChangedRegion", "VGAttachment"} <= set(
        driven["types"]
    )
