"""A sample of the storm of `tests/storm` on Prefect's real engine: runs, states, retries and hooks included."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect.tasks import Task

from simulator import Simulator
from tests.storm.weather import draw
from tests.storm.world import SETTINGS, World, impatient

pytestmark = [pytest.mark.prefect, pytest.mark.xdist_group("prefect"), pytest.mark.long]


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Steps are tried again as often as ever, but after a moment."""
    for name, module in list(sys.modules.items()):
        if name.startswith("tasks."):
            for step in vars(module).values():
                if isinstance(step, Task):
                    monkeypatch.setattr(step, "retry_delay_seconds", 0.01)
    with impatient():
        yield


def test_twenty_sessions_in_bad_weather_on_prefect(
    tmp_path: Path, hurried: None, count: Callable[[str, int], None]
) -> None:
    """No wrong restore point, no leftover, no mute failure, with Prefect's own engine around every step."""
    with Simulator(size=0.02, settings=SETTINGS) as simulator:
        world = World(simulator, tmp_path)
        for seed in range(2000, 2020):
            world.run(draw(seed))
    for name, number in sorted(world.outcomes.items()):
        count(f"storm on Prefect: {name.strip()}", number)
    assert world.outcomes["sessions made"] > 5
