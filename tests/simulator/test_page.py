"""The page about the simulator says what the program does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from simulator import Simulator
from simulator.api.admin import ACTIONS
from simulator.faults import AnyFault, parse_plan

PAGE = (Path(__file__).parents[2] / "docs/simulator.md").read_text()


def test_the_example_of_a_fault_plan_is_one() -> None:
    """The JSON on the page is taken as it stands."""
    found = re.search(r'^    (\{"seed".*?\]\})$', PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    assert len(parse_plan(json.loads(found[1])).faults) == 3


def test_the_first_backup_works_as_it_stands(tmp_path: Path) -> None:
    """A stranger who copies the program from the page reads what the disk holds, with standard Python only."""
    found = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    with Simulator(size=0.02) as simulator:
        (tmp_path / "ready.json").write_text(json.dumps(dict(simulator.describe())))
        done = subprocess.run(
            [sys.executable, "-I", "-c", found[1]], cwd=tmp_path, capture_output=True, text=True,
            check=False, timeout=60,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = re.fullmatch(r"read (\d+) bytes of (\d+)\n", done.stdout)
    assert told is not None
    assert 0 < int(told[1]) < int(told[2])


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_is_named(action: str) -> None:
    """Nobody has to read the code to find an action."""
    assert f"`{action}`" in PAGE


def test_every_kind_of_fault_is_named_with_its_ways() -> None:
    """Kinds, and the words that choose among their variants, all stand on the page."""
    union, _discriminator = get_args(AnyFault)
    for model in get_args(union):
        words = set()
        for name in ("kind", "how", "outcome", "tells", "body"):
            if name in model.model_fields:
                words |= set(get_args(model.model_fields[name].annotation))
        assert all(f"`{word}`" in PAGE for word in words), (model.__name__, words)
