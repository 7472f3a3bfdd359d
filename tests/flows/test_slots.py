"""Worker slots that several processes share: counted once, never exceeded, never lost with a killed holder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_HOME

from cli.metrics import slot_metrics
from flows.backup import backup
from jobs import BackupJob, NullObserver, Scope, limit_name, observed_by, worker_of_limit
from simulator import Simulator
from tasks import SharedSlots
from tasks.slots import free_expired_leases

pytestmark = [pytest.mark.prefect, pytest.mark.xdist_group("prefect")]

SCRIPT = Path(__file__).parent / "slot_holder.py"

StartHolder = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start_holder() -> Iterator[StartHolder]:
    """Start a process that holds slots; all of them are gone at the end of the test."""
    started: list[subprocess.Popen[str]] = []

    def start(
        vm_id: str, limit: int, count: int, name: str = "worker", **environment: str
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), vm_id, name, str(limit), str(count)],
            env={**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value()), **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def answer(process: subprocess.Popen[str]) -> tuple[int, int]:
    """How many slots the process got, and how many it saw free afterwards."""
    assert process.stdout is not None
    held, free = process.stdout.readline().split()
    return int(held), int(free)


def test_a_slot_is_counted_over_processes(start_holder: StartHolder) -> None:
    """W3: another process holds two of three slots: one is left for us, the fourth is refused, and what is given back is free."""
    key = str(uuid.uuid4())
    other = start_holder(key, 3, 2)
    assert answer(other) == (2, 1)
    slots = SharedSlots()
    slots.open(key, "worker", 3)
    assert slots.free([key]) == {key: 1}
    mine = slots.take(key)
    assert mine is not None
    assert slots.take(key) is None
    assert slots.free([key]) == {key: 0}
    mine.give_back()
    mine.give_back()
    assert slots.free([key]) == {key: 1}
    other.communicate("\n", timeout=60)
    assert slots.free([key]) == {key: 3}
    slots.open(key, "worker", 1)
    assert slots.free([key]) == {key: 1}


def test_a_killed_holder_does_not_keep_its_slots(start_holder: StartHolder) -> None:
    """W3: after kill -9 the leases run out, and whoever finds the worker full frees them, each once."""
    _free_what_others_left()
    key = str(uuid.uuid4())
    other = start_holder(key, 2, 2)
    assert answer(other) == (2, 0)
    other.send_signal(signal.SIGKILL)
    other.wait()
    slots = SharedSlots()
    slots.open(key, "worker", 2)
    free_expired_leases()
    assert slots.free([key]) == {key: 0}  # Not yet: it could still be alive.
    _let_a_minute_pass()
    assert free_expired_leases() == 2
    assert free_expired_leases() == 0
    assert slots.free([key]) == {key: 2}


def _free_what_others_left() -> None:
    """Sessions of other tests that were killed on this server: their leases are not to be counted."""
    if (PREFECT_HOME.value() / "concurrency_leases" / "expirations.json").exists():
        _let_a_minute_pass()
        free_expired_leases()


def _let_a_minute_pass() -> None:
    """Make every lease a minute older, in the files that Prefect keeps them in."""
    folder = PREFECT_HOME.value() / "concurrency_leases"
    earlier = timedelta(minutes=2)
    index_path = folder / "expirations.json"
    index = json.loads(index_path.read_text())
    for lease_id, expiration in index.items():
        path = folder / f"{lease_id}.json"
        lease = json.loads(path.read_text())
        index[lease_id] = lease["expiration"] = (
            datetime.fromisoformat(expiration) - earlier
        ).isoformat()
        path.write_text(json.dumps(lease))
    index_path.write_text(json.dumps(index))


def test_a_lease_that_was_lost_is_taken_anew(start_holder: StartHolder) -> None:
    """W3: a transfer whose lease ran out while the server was away keeps its slot as soon as it can have it again."""
    _free_what_others_left()
    key = str(uuid.uuid4())
    slots = SharedSlots()
    slots.open(key, "worker", 1)
    assert slots.take(key) is not None
    (hold,) = slots._held
    before = hold.lease_id
    _let_a_minute_pass()
    assert free_expired_leases() == 1
    assert slots.free([key]) == {key: 1}
    slots._renew(hold)
    assert hold.lease_id != before
    assert slots.free([key]) == {key: 0}
    slots.close()
    assert slots.free([key]) == {key: 1}


class Watching(NullObserver):
    """Keeps what was told, and lets the slots go when a VM says that it waits."""

    def __init__(self, when_waiting: Callable[[], Any]) -> None:
        self.told: list[str] = []
        self.when_waiting = when_waiting

    def step(self, vm_id: str, text: str) -> None:
        self.told.append(text)
        if text.startswith("waiting for a free slot"):
            self.when_waiting()


def test_a_session_waits_for_the_slots_of_other_sessions(
    site: Any, simulator: Simulator, start_holder: StartHolder
) -> None:
    """W3, W7: with every slot of both workers taken by other processes a session waits, says so, and goes on when they end."""
    _free_what_others_left()
    ids = {each.name: simulator.vm_id(each.name) for each in simulator.workers}
    holders = [start_holder(vm_id, 4, 4, name) for name, vm_id in ids.items()]
    assert [answer(each) for each in holders] == [(4, 0), (4, 0)]
    watching = Watching(lambda: [each.communicate("\n", timeout=60) for each in holders])
    with observed_by(watching):
        result = backup(
            site.cluster, site.repository, site.workers, BackupJob(scope=Scope(vms=("web01",)))
        )
    assert result.status == "success"
    assert len([each for each in watching.told if each.startswith("waiting for a free slot")]) == 1
    shared = SharedSlots()
    for name, vm_id in ids.items():
        shared.open(vm_id, name, 4)
    assert shared.free(list(ids.values())) == dict.fromkeys(ids.values(), 4)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_processes_with_embedded_servers_share_slots_and_survive_a_kill(
    start_holder: StartHolder, tmp_path: Path
) -> None:
    """W3: each process has an embedded server of its own over one PREFECT_HOME: they see each other's slots, and those of a killed one are free within two minutes."""
    from cli.local_prefect import _SETTINGS

    home = {"PREFECT_HOME": str(tmp_path), **_SETTINGS}
    environment = {"PREFECT_API_URL": "", **home}
    key = str(uuid.uuid4())
    first = start_holder(key, 3, 2, **environment)
    assert answer(first) == (2, 1)
    second = start_holder(key, 3, 2, **environment)
    assert answer(second) == (1, 0)
    first.send_signal(signal.SIGKILL)
    first.wait()
    deadline_s = time.monotonic() + 300
    freed = 0
    while freed == 0:
        assert time.monotonic() < deadline_s
        third = start_holder(key, 3, 1, **environment)
        freed, _ = answer(third)
    print("freed after the kill:", datetime.now(UTC))


def test_metrics_count_the_slots_of_every_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the server counts them, past its page of limits; two workers of one name stay apart, and what is no worker's is left out."""
    monkeypatch.setattr("cli.metrics.LIMITS_PAGE", 2)
    keys = [str(uuid.uuid4()) for _ in range(5)]
    slots = SharedSlots()
    for limit, key in enumerate(keys, start=1):
        slots.open(key, "worker 7", limit)
    held = slots.take(keys[3])
    assert held is not None
    limits, used = slot_metrics(str(PREFECT_API_URL.value()))
    for limit, key in enumerate(keys, start=1):
        assert dict(limits.samples)["worker-7", key[:8]] == limit
        assert dict(used.samples)["worker-7", key[:8]] == (key == keys[3])
    held.give_back()
    _, used = slot_metrics(str(PREFECT_API_URL.value()))
    assert dict(used.samples)["worker-7", keys[3][:8]] == 0
    assert slot_metrics(None) == []
    assert slot_metrics("http://127.0.0.1:9/api") == []


def test_a_limit_tells_which_worker_it_is_for() -> None:
    """A name with hyphens comes back whole; other limits are nobody's."""
    key = str(uuid.uuid4())
    assert worker_of_limit(limit_name("esx-2.backup worker", key)) == (
        "esx-2.backup-worker",
        key[:8],
    )
    for other in ("ahvault-worker-", "ahvault-rule-x", "tag:ahvault-worker-a-12345678", "x"):
        assert worker_of_limit(other) is None
