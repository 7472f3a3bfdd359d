"""The page about the simulator says what the program does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from simulator.api.admin import ACTIONS
from simulator.faults import AnyFault, parse_plan

PAGE = (Path(__file__).parents[2] / "docs/simulator.md").read_text()


def test_the_example_of_a_fault_plan_is_one() -> None:
    """The JSON on the page is taken as it stands."""
    found = re.search(r'^    (\{"seed".*?\]\})$', PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    assert len(parse_plan(json.loads(found[1])).faults) == 3


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
