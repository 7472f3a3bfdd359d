"""Sessions and restores in bad weather: never a wrong restore point, never a leftover, never a mute failure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import pytest

from nutanix import AhvClient, AttachedDisk
from simulator import Simulator
from tests.storm.plain_engine import without_engine
from tests.storm.weather import Weather, draw
from tests.storm.world import SETTINGS, World, impatient

CHAIN = 10
"""Sessions over one repository, one after another."""


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    """The cluster of all storms of this process."""
    with Simulator(size=0.02, settings=SETTINGS) as running:
        yield running


@pytest.fixture(autouse=True)
def hurried() -> Iterator[None]:
    """The flows without Prefect's engine, and waits of milliseconds."""
    with without_engine(), impatient():
        yield


def storm(simulator: Simulator, folder: Path, seeds: range) -> Counter[str]:
    """One session after another, each in the weather of its seed."""
    world = World(simulator, folder)
    try:
        for seed in seeds:
            world.run(draw(seed))
    finally:
        simulator.story.set_faults({})
        world.end()
        print(f"seeds {seeds.start} to {seeds.stop - 1}: {dict(world.outcomes)}")
        for message in sorted(world.messages):
            print("   ", message)
    return world.outcomes


def report(outcomes: Counter[str], count: Callable[[str, int], None]) -> None:
    """Into the run's proofs."""
    for name, number in sorted(outcomes.items()):
        count(f"storm: {name.strip()}", number)


def test_a_short_storm(
    simulator: Simulator, tmp_path: Path, count: Callable[[str, int], None]
) -> None:
    """Ten seeds: every restore point holds its recovery point's bytes, nothing stays behind, failures say why."""
    outcomes = storm(simulator, tmp_path, range(CHAIN))
    assert outcomes["sessions made"] > 0
    report(outcomes, count)


@pytest.mark.long
@pytest.mark.parametrize("start", range(1000, 1500, CHAIN))
def test_the_great_storm(
    simulator: Simulator, tmp_path: Path, start: int, count: Callable[[str, int], None]
) -> None:
    """Five hundred sessions of the same, ten to a repository."""
    report(storm(simulator, tmp_path, range(start, start + CHAIN)), count)


def misread(self: AttachedDisk, offset_bytes: int, buffer: bytearray | memoryview) -> None:
    """A worker that reads one bit wrong in everything."""
    READ(self, offset_bytes, buffer)
    memoryview(buffer).cast("B")[-1] ^= 1


def leave_on(self: AhvClient, vm_id: str, action: str, **options: Any) -> bool:
    """A power switch that only ever turns on, and says that it did what it was told."""
    return POWER(self, vm_id, action, **options) if action == "power-on" else True


READ, POWER = AttachedDisk.read_into, AhvClient._power
HARM = {
    "a bit read wrong": (patch.object(AttachedDisk, "read_into", misread), "is wrong"),
    "a volume group that stays": (
        patch.object(AhvClient, "delete_volume_group", lambda *_, **__: None),
        "seed 1",
    ),
    "a recovery point that stays": (
        patch.object(AhvClient, "delete_recovery_point", lambda *_, **__: None),
        "left",
    ),
    "a worker that stays on": (
        patch.object(AhvClient, "_power", leave_on),
        "seed 1",
    ),
    "a mute failure": (
        patch.object(AhvClient, "changed_regions", Mock(side_effect=ValueError("oops"))),
        "ValueError",
    ),
}


@pytest.mark.parametrize("name", list(HARM))
def test_the_accounts_of_the_storm_would_notice(
    simulator: Simulator, tmp_path: Path, name: str
) -> None:
    """Harm of each kind, done on purpose in fair weather, is found by what is looked over after every session."""
    harm, words = HARM[name]
    world = World(simulator, tmp_path)
    fair = Weather(seed=1)
    try:
        world.run(fair)
        with harm, pytest.raises(AssertionError, match=words):
            world.run(fair)
    finally:
        world.clear()
