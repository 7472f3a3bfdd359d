"""A store that fails in every way that stores do: tried again until it works, nothing committed is lost."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repository import (
    CollectionRefused,
    CollectSettings,
    CollectStage,
    Repository,
    RepositoryError,
    RestorePoint,
    StoreUnavailable,
)
from tests.repository.fault_store import FaultStore

CHUNK = 64 * 1024
MakeDisk = Callable[..., Any]
AT_ONCE = CollectSettings(undelete_hours=0, grace_hours=0)
TRIES_MAX = 200


class Trouble:
    """Decides by a seed when the next operation fails, and how."""

    def __init__(self, store: FaultStore, seed: int) -> None:
        self._store = store
        self._chooser = random.Random(seed)
        self._guard = threading.Lock()
        self._burst_left = 0
        self.count = 0

    def fails(self, share: float) -> bool:
        with self._guard:
            failing = self._chooser.random() < share
            self.count += failing
            return failing

    def before(self, operation: str, key: str) -> None:
        """Fail before anything is done."""
        if self.fails(0.08):
            raise StoreUnavailable(operation, key, "connection refused")

    def unacknowledged(self, operation: str, key: str) -> None:
        """It was done, and the answer is lost."""
        if self.fails(0.08):
            raise StoreUnavailable(operation, key, "connection reset")

    def burst(self, operation: str, key: str) -> None:
        """Several 503 one after another, then peace for a while."""
        if self.fails(0.04):
            self._burst_left = self._chooser.randrange(2, 8)
        with self._guard:
            failing = self._burst_left > 0
            self._burst_left -= failing
        if failing:
            raise StoreUnavailable(operation, key, "503 Slow Down")

    def slow(self, _operation: str, _key: str) -> None:
        """Now and then an answer takes long."""
        if self.fails(0.2):
            time.sleep(0.005)


class TornStore(FaultStore):
    """Writes half of an object under its final name now and then: a store without atomic writes."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.trouble = Trouble(self, 0)
        self.share = 0.0
        self.torn: list[str] = []

    def put_new(self, key: str, *pieces: bytes, pace: Any = None) -> None:
        if self.trouble.fails(self.share):
            whole = b"".join(bytes(piece) for piece in pieces)
            super().put_new(key, whole[: len(whole) // 2], pace=pace)
            self.torn.append(key)
            raise StoreUnavailable("write", key, "connection lost")
        super().put_new(key, *pieces, pace=pace)


def until_done(act: Callable[[], Any]) -> Any:
    """Try again after trouble that passes, as sessions do."""
    for _ in range(TRIES_MAX):
        try:
            return act()
        except RepositoryError as error:
            transient = error.is_transient or isinstance(error, CollectionRefused)
            if not transient and "commit" not in str(error) and "create" not in str(error):
                raise
    pytest.fail("it never worked")


def life(bench: Any, make_disk: MakeDisk) -> dict[str, bytes]:
    """Full and incremental backups, forgetting, collection; returns what must be there."""
    data = bytearray(random.Random(1).randbytes(10 * CHUNK))
    expected: dict[str, bytes] = {}
    first: RestorePoint = until_done(lambda: bench.commit(bench.write(make_disk(data))))
    for change in range(3):
        data[change * CHUNK] ^= 255
        base = first.disks[0]
        point = until_done(lambda base=base: bench.commit(bench.write(make_disk(data), base=base)))
        expected[point.id] = bytes(data)
    end_leases(bench)
    until_done(lambda: bench.repository.forget(first))
    until_done(lambda: bench.repository.collect(AT_ONCE))
    return expected


def end_leases(bench: Any) -> None:
    """A day has passed: leases that tries could not end have run out."""
    live = bench.reopened().live
    for key in live.list("leases").records:
        live.delete("leases", key)


LATER = [pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 40)]


@pytest.mark.parametrize("seed", [0, *LATER])
@pytest.mark.parametrize("kind", ["before", "unacknowledged", "burst", "slow"])
def test_trouble_that_passes_loses_nothing(
    faulty: Any, make_disk: MakeDisk, kind: str, seed: int, count: Callable[[str, int], None]
) -> None:
    """With enough tries everything gets done, every committed point is whole, and collection ends."""
    bench, store = faulty
    trouble = Trouble(store, seed)
    setattr(store, "after" if kind == "unacknowledged" else "plan", getattr(trouble, kind))
    expected = life(bench, make_disk)
    store.plan = store.after = lambda _operation, _key: None
    assert trouble.count
    count(f"store faults survived: {kind}", trouble.count)
    fresh = bench.repository = bench.reopened()
    end_leases(bench)
    for _ in range(3):
        fresh.collect(AT_ONCE)
    assert fresh.verify().is_clean
    listed = {point.id: point for point in fresh.points().points}
    assert expected.keys() <= listed.keys()
    for point_id, data in expected.items():
        assert bench.read(listed[point_id]) == data


@pytest.mark.parametrize("seed", [1, *LATER])
def test_torn_writes_are_known_for_what_they_are(
    bench: Any, make_disk: MakeDisk, seed: int, count: Callable[[str, int], None]
) -> None:
    """Nothing refers to a torn object but a listing; every committed point is whole, and repair and give-up clear the way for collection."""
    store = TornStore(bench.repository._store)
    store.trouble = Trouble(store, seed)
    known = bench.repository
    bench.repository = Repository(store, known._description, known._master_key, known._clock)
    store.share = 0.25
    data = bytearray(random.Random(1).randbytes(10 * CHUNK))
    expected: dict[str, bytes] = {}
    for change in range(4):
        data[change * CHUNK] ^= 255
        point = until_done(lambda: bench.commit(bench.write(make_disk(data))))
        expected[point.id] = bytes(data)
    store.share = 0.0
    count("torn writes survived", len(store.torn))
    assert store.torn
    fresh = bench.repository = bench.reopened()
    listed = {point.id: point for point in fresh.points().points}
    assert expected.keys() <= listed.keys()
    for point_id, content in expected.items():
        assert bench.read(listed[point_id]) == content
    report = fresh.verify()
    assert {finding.key for finding in report.findings} <= set(store.torn)
    concerned = {part.point_id for found in report.findings for part in found.concerned}
    assert not concerned & expected.keys()

    end_leases(bench)
    fresh.repair()
    torn_records = [key for key in store.torn if key.startswith("points/")]
    if torn_records:
        with pytest.raises(CollectionRefused):
            fresh.collect(AT_ONCE)
        fresh.give_up(torn_records, "torn", dry_run=False)
    discard = AT_ONCE.model_copy(update={"discard_quarantined": True})
    for _ in range(3):
        assert fresh.collect(discard).stage in (CollectStage.SWEPT, CollectStage.NOTHING)
    bench.repository = bench.reopened()
    assert bench.repository.verify().is_clean
    left = [key for key in store.torn if Path(bench.url, key).exists()]
    assert left == []
    for point_id, content in expected.items():
        assert bench.read(listed[point_id]) == content
