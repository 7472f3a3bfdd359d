"""Copies to a second repository: same bytes, same identity, only what is missing, through any crash."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from repository import (
    CopyOrigin,
    Extent,
    InvalidInput,
    KeyFile,
    Passphrase,
    Repository,
    RepositoryOptions,
    RestorePoint,
    Stopped,
    StoreError,
    SystemClock,
    VerifyLevel,
    copy_points,
)

KiB = 1024
CHUNK = 64 * KiB
MakeDisk = Callable[..., Any]


def noise(chunks: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(chunks * CHUNK)


def read(repository: Repository, point: RestorePoint, disk_id: str) -> bytes:
    reader = repository.open_disk(point, disk_id)
    data = bytearray(reader.size_bytes)
    reader.read_into(0, memoryview(data))
    return bytes(data)


def run(bench: Any, target: Repository, *points: RestorePoint, **options: Any) -> Any:
    wanted = points or bench.repository.points().points
    return copy_points(bench.repository, target, wanted, session_id=uuid.uuid4().hex, **options)


def stored_bytes(repository: Repository) -> int:
    return sum(info.size_bytes for info in repository._store.list("data/"))


@pytest.fixture
def history(bench: Any, make_disk: MakeDisk) -> list[tuple[RestorePoint, dict[str, bytes]]]:
    """Three states of one VM with two disks: changed, then grown, shrunk and zeroed."""
    first = {"a": noise(20, 1) + bytes(10 * CHUNK), "b": noise(12, 2)}
    second = {"a": first["a"][: 5 * CHUNK] + noise(1, 3) + first["a"][6 * CHUNK :], "b": first["b"]}
    third = {
        "a": second["a"][: 8 * CHUNK]
        + bytes(CHUNK)
        + second["a"][9 * CHUNK :]
        + noise(3, 4)[:-100],
        "b": first["b"][: 7 * CHUNK - 1000],
    }
    found: list[tuple[RestorePoint, dict[str, bytes]]] = []
    for state in (first, second, third):
        previous = found[-1][0] if found else None
        records = [
            bench.write(
                make_disk(data), base=previous.disk(disk_id) if previous else None, disk_id=disk_id
            )
            for disk_id, data in state.items()
        ]
        point = bench.commit(
            *records,
            previous_point_id=previous.id if previous else None,
            vm_config={"memory": 4},
            source={"recovery_point": "rp"},
        )
        found.append((point, state))
    return found


@pytest.fixture
def targets(tmp_path: Path) -> Iterator[Callable[..., Repository]]:
    """Makes second repositories."""
    made: list[Repository] = []

    def make(**options: Any) -> Repository:
        made.append(Repository.create(str(tmp_path / uuid.uuid4().hex), **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(
    params=[
        {"options": RepositoryOptions(chunk_size_bytes=CHUNK, pack_target_bytes=4 * CHUNK)},
        {
            "options": RepositoryOptions(chunk_size_bytes=2 * CHUNK),
            "secret": Passphrase("other key", scrypt_n=2**4),
        },
    ],
    ids=["plain", "encrypted, larger chunks"],
)
def target(request: pytest.FixtureRequest, targets: Callable[..., Repository]) -> Repository:
    return targets(**request.param)


def test_copies_hold_the_bytes_and_the_identity(
    bench: Any, history: Any, target: Repository
) -> None:
    """Every disk of every state reads back; facts stay; copies say what they are copies of."""
    report = run(bench, target)
    assert [each.point.id for each in report.copied] == [point.id for point, _ in history]
    listed = target.points().points
    previous = None
    for copy, (point, state) in zip(listed, history, strict=True):
        for disk_id, data in state.items():
            assert read(target, copy, disk_id) == data
        kept = {"vm_id", "vm_name", "job", "session_id", "session_started_at", "created_at"}
        kept |= {"consistency", "vm_config", "source"}
        for name in kept:
            assert getattr(copy, name) == getattr(point, name)
        assert copy.copied_from == CopyOrigin(repository_id=bench.repository.id, point_id=point.id)
        assert copy.previous_point_id == (previous.id if previous else None)
        assert copy.id != point.id
        previous = copy
    assert target.verify(VerifyLevel.CONTENT).is_clean
    assert all(point.copied_from is None for point in bench.repository.points().points)


def test_a_second_copy_reads_and_stores_only_what_changed(
    bench: Any, history: Any, target: Repository
) -> None:
    """With an earlier state copied, only the differing chunks are read; again, nothing at all."""
    run(bench, target, history[0][0])
    counters = []
    report = run(bench, target, history[1][0], on_disk=lambda _, each: counters.append(each))
    assert len(report.copied) == 1
    assert sum(each.read_bytes for each in counters) <= target.options.chunk_size_bytes
    before = stored_bytes(target)
    again = run(bench, target, history[0][0], history[1][0])
    assert (len(again.copied), len(again.already_there)) == (0, 2)
    assert stored_bytes(target) == before


def test_a_copy_of_a_copy_is_a_copy_of_the_original(
    bench: Any, history: Any, targets: Callable[..., Repository]
) -> None:
    """Through a chain the origin stays, and going round in a circle copies nothing."""
    second, third = targets(), targets(secret=KeyFile(b"k" * 32))
    run(bench, second)
    copy_points(second, third, second.points().points, session_id="chain")
    origins = [point.copied_from.point_id for point in third.points().points if point.copied_from]
    assert origins == [point.id for point, _ in history]
    back = copy_points(third, bench.repository, third.points().points, session_id="circle")
    assert (len(back.copied), len(back.already_there)) == (0, 3)
    direct = run(bench, third)
    assert (len(direct.copied), len(direct.already_there)) == (0, 3)


def test_a_repository_is_not_copied_to_itself(bench: Any, history: Any) -> None:
    """Refused by its id, however it is reached."""
    with pytest.raises(InvalidInput, match="the same repository"):
        run(bench, bench.reopened())


def test_damage_in_one_point_does_not_stop_the_others(
    bench: Any, make_disk: MakeDisk, targets: Callable[..., Repository]
) -> None:
    """The damaged point is reported with the object's name; no copy of it exists; the rest is copied."""
    damaged = bench.commit(bench.write(make_disk(noise(6, 5))), vm_id="vm-bad")
    pack = next(info.key for info in bench.repository._store.list("data/"))
    sound = bench.commit(bench.write(make_disk(noise(6, 6))), vm_id="vm-good")
    path = Path(bench.url) / pack
    spoilt = bytearray(path.read_bytes())
    spoilt[500] ^= 1
    path.write_bytes(spoilt)
    target = targets()
    report = run(bench, target)
    assert [each.point.id for each in report.copied] == [sound.id]
    assert [(each.point.id, each.error.key) for each in report.failed] == [(damaged.id, pack)]
    assert [point.vm_id for point in target.points().points] == ["vm-good"]


def test_a_damaged_base_in_the_target_is_done_without(
    bench: Any, history: Any, targets: Callable[..., Repository]
) -> None:
    """If the earlier copy's map is gone, the next state is copied whole, and is whole."""
    target = targets(options=bench.options)
    run(bench, target, history[0][0])
    for info in list(target._store.list("maps/")):
        target._store.delete(info.key)
    report = run(bench, target, history[1][0])
    assert not report.failed
    for disk_id, data in history[1][1].items():
        assert read(target, report.copied[0].copy, disk_id) == data


def test_stop_ends_a_copy(
    bench: Any, history: Any, targets: Callable[..., Repository], no_thread_left: None
) -> None:
    """Stopped is raised; no thread stays; a later run completes it."""
    target, stop = targets(), threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        run(bench, target, stop=stop)
    assert target.points().points == []
    assert len(run(bench, target).copied) == 3


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    "stride", [8, pytest.param(1, marks=pytest.mark.long)], ids=["sample", "all"]
)
def test_a_crash_at_any_operation_loses_nothing(
    bench: Any,
    history: Any,
    faulty: Any,
    targets: Callable[..., Repository],
    after: bool,
    stride: int,
    count: Callable[[str, int], None],
) -> None:
    """Die before or after each store operation: what is committed is whole, the rerun completes it."""
    kind = type(faulty[1])
    expected = [point.id for point, _ in history]
    crashes = 0
    for operation in range(1, 200, stride):
        made = targets(options=bench.options)
        store = kind(made._store)
        target = Repository(store, made._description, made._master_key, SystemClock())
        store.die_at(operation, after=after)
        try:
            run(bench, target)
        except StoreError:
            crashes += 1
        else:
            break
        finally:
            store.live_again()
        survivor = Repository.open(made.url)
        assert survivor.verify(VerifyLevel.CONTENT).is_clean
        run(bench, survivor)
        listed = survivor.points().points
        assert [point.copied_from.point_id for point in listed if point.copied_from] == expected
        for copy, (_, state) in zip(listed, history, strict=True):
            for disk_id, data in state.items():
                assert read(survivor, copy, disk_id) == data
    count("copy: crash points", crashes)
    assert crashes * stride > 20


COPY = textwrap.dedent("""
    import sys
    from repository import Repository, copy_points
    source, target = Repository.open(sys.argv[1]), Repository.open(sys.argv[2])
    copy_points(source, target, source.points().points, session_id="killed")
""")


def test_a_killed_copy_goes_on(
    bench: Any, make_disk: MakeDisk, targets: Callable[..., Repository]
) -> None:
    """SIGKILL in mid-copy: the next run stores only the rest, by bytes."""
    data = noise(1500, 9)
    bench.commit(bench.write(make_disk(data)))
    target = targets(options=bench.options)
    child = subprocess.Popen([sys.executable, "-c", COPY, bench.url, target.url])
    deadline_s = time.monotonic() + 60
    while stored_bytes(target) < 60 * 4 * CHUNK and time.monotonic() < deadline_s:
        if child.poll() is not None:
            break
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert target.points().points == []
    before = stored_bytes(target)
    counters = []
    run(bench, target, on_disk=lambda _, each: counters.append(each))
    lost_at_most = 16 * bench.options.pack_target_bytes
    assert counters[0].stored_bytes < len(data) * 1.02 - before + lost_at_most
    (point,) = target.points().points
    assert read(target, point, "disk-1") == data


def test_extents_between_states_name_every_difference(bench: Any, make_disk: MakeDisk) -> None:
    """Random pairs of states: overlaying the named extents on the old state gives the new one."""
    chooser = random.Random(11)
    for _ in range(30):
        old = b"".join(
            chooser.choice([bytes(CHUNK), noise(1, chooser.randrange(9))])
            for _ in range(chooser.randrange(1, 12))
        )[: -chooser.randrange(1, 500)]
        new = bytearray(old[: chooser.randrange(1, len(old) + 1)])
        for _ in range(chooser.randrange(4)):
            at = chooser.randrange(len(new))
            new[at : at + 100] = chooser.choice([bytes(100), b"x" * 100])[: len(new) - at]
        new += chooser.choice([b"", bytes(2 * CHUNK), noise(2, 99)])
        points = [bench.commit(bench.write(make_disk(state))) for state in (old, bytes(new))]
        readers = [bench.repository.open_disk(point, "disk-1") for point in points]
        extents: list[Extent] = readers[1].extents_changed_since(readers[0])
        rebuilt = bytearray(old[: len(new)].ljust(len(new), b"\xaa"))
        for extent in extents:
            rebuilt[extent.start_bytes : extent.end_bytes] = new[
                extent.start_bytes : extent.end_bytes
            ]
            if extent.kind == "zero":
                assert not any(new[extent.start_bytes : extent.end_bytes])
        assert rebuilt == new
