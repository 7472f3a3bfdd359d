"""When something goes wrong: nothing hangs, nothing committed is lost, the next run goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from repository import (
    CommitFailed,
    DamagedObject,
    Extent,
    NotARepository,
    Repository,
    RepositoryExists,
    Stopped,
    StoreFull,
    StoreUnavailable,
    SystemClock,
    TransferCounters,
    UnsupportedFormat,
)
from repository.records import encode_open_record

CHUNK = 64 * 1024
MakeDisk = Callable[..., Any]


def noise(chunks: int, seed: int = 3) -> bytes:
    return random.Random(seed).randbytes(chunks * CHUNK)


def packs_of(bench: Any) -> list[Path]:
    return sorted(path for path in (Path(bench.url) / "data").rglob("*") if path.is_file())


class FailingDisk:
    """A source that fails from an offset on."""

    def __init__(self, disk: Any, fails_from: int) -> None:
        self._disk = disk
        self._fails_from = fails_from
        self.size_bytes = disk.size_bytes

    def read_into(self, offset_bytes: int, buffer: memoryview) -> None:
        if offset_bytes + len(buffer) > self._fails_from:
            raise OSError(5, "Input/output error")
        self._disk.read_into(offset_bytes, buffer)


def test_source_errors_reach_the_caller(
    bench: Any, make_disk: MakeDisk, no_thread_left: None
) -> None:
    """What the source raises is raised as it is, all threads end, and a second try reuses the first."""
    disk = make_disk(noise(600))
    with pytest.raises(OSError, match="Input/output"):
        bench.write(FailingDisk(disk, 500 * CHUNK))
    stored_before = sum(path.stat().st_size for path in packs_of(bench))
    assert stored_before > 200 * CHUNK
    counters = TransferCounters()
    record = bench.write(disk, counters=counters)
    assert counters.stored_bytes < disk.size_bytes - stored_before + 20 * CHUNK
    assert bench.read(bench.commit(record)) == disk.data


def test_full_store_is_typed_and_harmless(
    faulty: Any, make_disk: MakeDisk, no_thread_left: None
) -> None:
    """A store that fills up in mid-transfer raises StoreFull; what was committed stays as it was."""
    bench, store = faulty
    disk = make_disk(noise(40))
    point = bench.commit(bench.write(disk))
    puts = []

    def fill_up(operation: str, key: str) -> None:
        if operation == "put_new":
            puts.append(key)
            if len(puts) > 3:
                raise StoreFull("write", key, "No space left on device")

    store.plan = fill_up
    with pytest.raises(StoreFull, match="free space"):
        bench.write(make_disk(noise(40, seed=4)))
    store.plan = lambda _operation, _key: None
    assert bench.repository.verify().is_clean
    assert bench.read(point) == disk.data
    assert bench.write(make_disk(noise(40, seed=4)))


def test_a_record_never_names_a_pack_that_another_disk_failed_to_store(
    faulty: Any, make_disk: MakeDisk
) -> None:
    """Two disks of the same content in one session: if one's upload fails, the other is whole."""
    bench, store = faulty
    data = noise(60)
    chooser = random.Random(8)

    def fail(operation: str, key: str) -> None:
        if operation == "put_new" and key.startswith("data/") and chooser.random() < 0.1:
            raise StoreUnavailable("write", key, "503")

    store.plan = fail
    records = []

    def write(session: Any, disk_id: str) -> None:
        with suppress(StoreUnavailable):
            records.append(bench.write(make_disk(data), disk_id=disk_id, session=session))

    for _ in range(5):
        with bench.repository.write_session("pair") as session:
            threads = [
                threading.Thread(target=write, args=(session, f"disk-{number}"))
                for number in range(3)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    store.plan = lambda _operation, _key: None
    assert records
    for record in records:
        assert bench.read(bench.commit(record), record.disk_id) == data


def test_stop_ends_a_transfer_at_once(
    bench: Any, make_disk: MakeDisk, no_thread_left: None
) -> None:
    """A stop event set in mid-transfer raises Stopped within a moment and leaves no thread."""
    stop = threading.Event()

    class SlowDisk:
        size_bytes = 4000 * CHUNK

        def read_into(self, offset_bytes: int, buffer: memoryview) -> None:
            time.sleep(0.02)
            buffer[:8] = offset_bytes.to_bytes(8, "little")
            if offset_bytes > 500 * CHUNK:
                stop.set()

    start_s = time.monotonic()
    with pytest.raises(Stopped):
        bench.write(SlowDisk(), stop=stop)
    assert time.monotonic() - start_s < 2
    assert bench.repository.verify().is_clean


def test_stop_ends_a_restore(bench: Any, make_disk: MakeDisk, no_thread_left: None) -> None:
    """A restore whose stop event is set raises Stopped and leaves no thread."""
    point = bench.commit(bench.write(make_disk(noise(30))))
    stop = threading.Event()
    target = make_disk(30 * CHUNK)
    write_at = target.write_at

    def write_and_stop(offset_bytes: int, data: bytes) -> None:
        write_at(offset_bytes, data)
        stop.set()

    target.write_at = write_and_stop
    with pytest.raises(Stopped):
        bench.repository.open_disk(point, "disk-1").restore_to(
            target, target_is_blank=True, stop=stop
        )


def test_target_errors_reach_the_caller(
    bench: Any, make_disk: MakeDisk, no_thread_left: None
) -> None:
    """What the target raises is raised as it is, and all threads end."""
    point = bench.commit(bench.write(make_disk(noise(30))))
    target = make_disk(30 * CHUNK)

    def fail(_offset_bytes: int, _data: bytes) -> None:
        raise OSError(28, "No space left on device")

    target.write_at = fail
    with pytest.raises(OSError, match="No space"):
        bench.repository.open_disk(point, "disk-1").restore_to(target, target_is_blank=True)


def test_a_lost_answer_to_the_commit_is_no_failure(faulty: Any, make_disk: MakeDisk) -> None:
    """The commit record was written but the answer lost: reading back shows it, once."""
    bench, store = faulty
    record = bench.write(make_disk(noise(3)))

    def lose(operation: str, key: str) -> None:
        if operation == "put_new" and key.startswith("points/"):
            raise StoreUnavailable("write", key, "connection reset")

    store.after = lose
    point = bench.commit(record)
    assert [listed.id for listed in bench.reopened().points().points] == [point.id]


def test_a_commit_that_was_not_written_fails(faulty: Any, make_disk: MakeDisk) -> None:
    """If the write failed for real, or stored other bytes, the commit says so."""
    bench, store = faulty
    record = bench.write(make_disk(noise(3)))

    def refuse(operation: str, key: str) -> None:
        if operation == "put_new" and key.startswith("points/"):
            raise StoreUnavailable("write", key, "connection refused")

    store.plan = refuse
    with pytest.raises(CommitFailed, match="connection refused"):
        bench.commit(record)
    store.plan = lambda _operation, _key: None

    def tear(operation: str, key: str) -> None:
        if operation == "put_new" and key.startswith("points/"):
            path = Path(bench.url) / key
            path.write_bytes(path.read_bytes()[:100])

    store.after = tear
    with pytest.raises(CommitFailed, match="does not read back"):
        bench.commit(record)


def test_writing_order_is_packs_segments_maps_commit(
    faulty: Any, make_disk: MakeDisk, make_draft: Callable[..., Any]
) -> None:
    """Nothing is written before what it refers to, and the commit record comes last."""
    bench, store = faulty
    with bench.repository.write_session("order") as session:
        record = bench.write(make_disk(noise(100)), session=session)
        session.commit(make_draft(record))
    kinds = [key.partition("/")[0] for operation, key in store.operations if operation == "put_new"]
    assert kinds[-1] == "points"
    assert kinds.index("maps") > max(n for n, kind in enumerate(kinds) if kind == "data")
    assert kinds.count("points") == kinds.count("maps") == 1


KILLED = textwrap.dedent("""
    import sys, time
    from repository import DiskSpec, Extent, FileSource, Repository

    class Slow:
        def __init__(self, inner):
            self.inner, self.size_bytes = inner, inner.size_bytes
        def read_into(self, offset_bytes, buffer):
            time.sleep(0.05)
            self.inner.read_into(offset_bytes, buffer)

    source = Slow(FileSource(sys.argv[2]))
    with Repository.open(sys.argv[1]).write_session("killed") as session:
        spec = DiskSpec(disk_id="disk-1", size_bytes=source.size_bytes)
        session.write_disk(spec, source, [Extent(0, source.size_bytes)], None, read_method="all")
""")


def test_a_killed_session_is_resumed_by_the_next(
    bench: Any, make_disk: MakeDisk, tmp_path: Path
) -> None:
    """SIGKILL in mid-transfer: the repository verifies, and the next run uploads only the rest."""
    disk = make_disk(noise(1500))
    image = tmp_path / "image"
    image.write_bytes(disk.data)
    child = subprocess.Popen([sys.executable, "-c", KILLED, bench.url, str(image)])
    deadline_s = time.monotonic() + 30
    while len(packs_of(bench)) < 60 and child.poll() is None and time.monotonic() < deadline_s:
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert bench.repository.verify().is_clean
    indexed = sum(path.stat().st_size for path in packs_of(bench))
    counters = TransferCounters()
    point = bench.commit(bench.write(disk, counters=counters))
    # Lost are the packs since the last segment: up to eight, and those still on their way.
    lost_at_most = 16 * bench.options.pack_target_bytes
    assert counters.stored_bytes < disk.size_bytes - indexed + lost_at_most + disk.size_bytes // 50
    assert bench.read(point) == disk.data


def test_a_damaged_segment_costs_only_deduplication(bench: Any, make_disk: MakeDisk) -> None:
    """With the index damaged or gone, backups go on, storing again what they cannot look up."""
    disk = make_disk(noise(10))
    bench.write(disk)
    for segment in (Path(bench.url) / "index").iterdir():
        segment.write_bytes(b"PAR1" + segment.read_bytes()[4:-9] + b"garbage!!")
    counters = TransferCounters()
    record = bench.write(make_disk(disk.data), counters=counters)
    assert counters.new_chunks == 10
    assert bench.read(bench.commit(record)) == disk.data


def test_an_unreachable_index_is_no_empty_index(faulty: Any, make_disk: MakeDisk) -> None:
    """A store that fails while the index is read fails the session: no silent full upload."""
    bench, store = faulty
    bench.write(make_disk(noise(3)))

    def fail(operation: str, key: str) -> None:
        if operation == "get" and key.startswith("index/"):
            raise StoreUnavailable("read", key, "timed out")

    store.plan = fail
    with pytest.raises(StoreUnavailable, match="index/"):
        bench.repository.write_session("s")


def test_an_unreadable_base_is_said_and_can_be_done_without(
    bench: Any, make_disk: MakeDisk
) -> None:
    """A base whose map is damaged is refused by name; without base the chunks are still known."""
    disk = make_disk(noise(10))
    base = bench.write(disk)
    path = Path(bench.url) / base.maps[0].key
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(DamagedObject, match="maps/disk-1"):
        bench.write(disk, [Extent(0, 1)], base)
    counters = TransferCounters()
    bench.write(disk, counters=counters)
    assert counters.new_chunks == 0


def test_places_that_are_no_repository(bench: Any, tmp_path: Path) -> None:
    """Nothing there, something else there, one there already, a newer one: each has its own error."""
    with pytest.raises(NotARepository, match="ahvault repo init"):
        Repository.open(str(tmp_path / "nothing"))
    with pytest.raises(RepositoryExists):
        Repository.create(bench.url)
    root = tmp_path / "newer"
    root.mkdir()
    newer = encode_open_record("repository", {}).replace(b'"format":1', b'"format":2')
    (root / "repo.json").write_bytes(newer)
    with pytest.raises(DamagedObject):  # the digest covers the format too
        Repository.open(str(root))
    prefix = newer[:-78]
    tail = f',"digest":"{blake3(prefix).hexdigest()}"}}\n'
    (root / "repo.json").write_bytes(prefix + tail.encode())
    with pytest.raises(UnsupportedFormat, match="update ahvault"):
        Repository.open(str(root))


def test_demands_of_later_versions_are_respected(bench: Any) -> None:
    """A feature demanded of writers stops sessions, not readers; one demanded of readers stops both."""
    folder = Path(bench.url) / "features"
    folder.mkdir()
    demand = {"name": "sharded-index", "operations": ["write"]}
    (folder / "sharded-index.json").write_bytes(encode_open_record("feature", demand))
    repository = bench.reopened()
    assert repository.points().points == []
    with pytest.raises(UnsupportedFormat, match="sharded-index"):
        repository.write_session("s")
    demand = {"name": "long-ids", "operations": ["read", "write"]}
    (folder / "long-ids.json").write_bytes(encode_open_record("feature", demand))
    with pytest.raises(UnsupportedFormat, match="long-ids"):
        bench.reopened()


@pytest.mark.parametrize(("seconds_per_look", "segments_min"), [(0, 1), (200, 3)])
def test_an_old_segment_is_flushed_by_age(
    bench: Any, make_disk: MakeDisk, seconds_per_look: int, segments_min: int
) -> None:
    """A slow transfer's packs are indexed after five minutes, though they are fewer than eight."""

    class Clock(SystemClock):
        seconds = 0.0

        def monotonic_s(self) -> float:
            self.seconds += seconds_per_look
            return self.seconds

    repository = Repository.open(bench.url, clock=Clock())
    with repository.write_session("slow") as session:
        bench.write(make_disk(noise(26)), session=session)
    segments = len(list((Path(bench.url) / "index").iterdir()))
    assert segments == 1 if segments_min == 1 else segments >= segments_min
