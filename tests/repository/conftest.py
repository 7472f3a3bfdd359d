"""Small repositories, disks in memory, and the way from one to the other."""

from __future__ import annotations

import datetime as dt
import itertools
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from repository import (
    DiskRecord,
    DiskSpec,
    Extent,
    Passphrase,
    PointDraft,
    Repository,
    RepositoryOptions,
    RestorePoint,
    Secret,
    TransferCounters,
    WriteSession,
)
from tests.repository.fault_store import FaultStore

KiB = 1024
CHUNK = 64 * KiB
SMALL = RepositoryOptions(chunk_size_bytes=CHUNK, pack_target_bytes=4 * CHUNK)


class MemoryDisk:
    """A disk of bytes: source and target, counting what is read from it."""

    def __init__(self, data: bytes | bytearray | int) -> None:
        self.data = bytearray(data)
        self.read_bytes = 0
        self._guard = threading.Lock()

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def read_into(self, offset_bytes: int, buffer: memoryview) -> None:
        assert offset_bytes + len(buffer) <= len(self.data)
        buffer[:] = self.data[offset_bytes : offset_bytes + len(buffer)]
        with self._guard:
            self.read_bytes += len(buffer)

    def write_at(self, offset_bytes: int, data: bytes | bytearray | memoryview) -> None:
        assert offset_bytes + len(data) <= len(self.data)
        self.data[offset_bytes : offset_bytes + len(data)] = data

    def write_zeros(self, offset_bytes: int, length_bytes: int) -> None:
        self.write_at(offset_bytes, bytes(length_bytes))

    def flush(self) -> None:
        """Nothing is kept back."""


class SteppingClock:
    """A clock that moves a second each time it is asked."""

    def __init__(self) -> None:
        self._seconds = itertools.count()

    def now(self) -> dt.datetime:
        return dt.datetime(2026, 11, 23, tzinfo=dt.UTC) + dt.timedelta(seconds=next(self._seconds))

    def monotonic_s(self) -> float:
        return float(next(self._seconds))


@dataclass
class Bench:
    """A repository to work on, and the usual steps."""

    url: str
    storage_options: dict[str, Any] = field(default_factory=dict)
    options: RepositoryOptions = SMALL
    secret: Secret | None = None

    def __post_init__(self) -> None:
        self.repository = Repository.create(
            self.url,
            options=self.options,
            storage_options=self.storage_options,
            secret=self.secret,
        )

    def reopened(self) -> Repository:
        return Repository.open(self.url, storage_options=self.storage_options, secret=self.secret)

    def write(
        self,
        disk: MemoryDisk,
        extents: Sequence[Extent] | None = None,
        base: DiskRecord | None = None,
        *,
        disk_id: str = "disk-1",
        session: WriteSession | None = None,
        counters: TransferCounters | None = None,
        stop: threading.Event | None = None,
    ) -> DiskRecord:
        """Write a disk in a session of its own, or in the one given; all of it unless told."""
        if session is None:
            with self.repository.write_session(uuid.uuid4().hex) as own:
                return self.write(
                    disk, extents, base, disk_id=disk_id, session=own, counters=counters, stop=stop
                )
        if extents is None:
            extents = [Extent(0, disk.size_bytes)] if disk.size_bytes else []
        return session.write_disk(
            DiskSpec(disk_id=disk_id, size_bytes=disk.size_bytes, label="scsi.0"),
            disk,
            extents,
            base,
            counters=counters,
            stop=stop,
            read_method="test",
        )

    def commit(self, *records: DiskRecord, vm_id: str = "vm-1", **changes: Any) -> RestorePoint:
        with self.repository.write_session(uuid.uuid4().hex) as session:
            return session.commit(draft(*records, vm_id=vm_id, **changes))

    def read(self, point: RestorePoint, disk_id: str = "disk-1") -> bytes:
        """The disk as restored to a target that is full of other bytes."""
        reader = self.repository.open_disk(point, disk_id)
        target = MemoryDisk(b"\xaa" * reader.size_bytes)
        reader.restore_to(target, target_is_blank=False)
        return bytes(target.data)


@pytest.fixture
def merges_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collection merges any two small segments."""
    monkeypatch.setattr("repository.collect_rewrite.SMALL_SEGMENTS_MIN", 2)


_MOMENTS = itertools.count()


def draft(*records: DiskRecord, vm_id: str = "vm-1", **changes: Any) -> PointDraft:
    moment = dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(minutes=next(_MOMENTS))
    values: dict[str, Any] = {
        "vm_id": vm_id,
        "vm_name": "web01",
        "job": "nightly",
        "session_id": "session-1",
        "session_started_at": moment,
        "created_at": moment,
        "consistency": "crash",
        "disks": records,
        **changes,
    }
    return PointDraft(**values)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A small repository in a folder."""
    return Bench(str(tmp_path / "repository"))


@pytest.fixture
def encrypted_bench(tmp_path: Path) -> Bench:
    """The same, encrypted; its passphrase is cheap to try."""
    return Bench(str(tmp_path / "repository"), secret=Passphrase("correct horse", scrypt_n=2**4))


@pytest.fixture(params=["local", "memory", "encrypted"])
def any_bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    """The same in each store that is proven here, and encrypted."""
    if request.param == "encrypted":
        bench: Bench = request.getfixturevalue("encrypted_bench")
        return bench
    if request.param == "memory":
        return Bench(f"memory://{uuid.uuid4().hex}")
    return Bench(str(tmp_path / "repository"))


@pytest.fixture
def make_disk() -> Callable[..., MemoryDisk]:
    """Makes disks: `make_disk(bytes)` or `make_disk(size)`."""
    return MemoryDisk


@pytest.fixture
def make_draft() -> Callable[..., PointDraft]:
    return draft


@pytest.fixture
def no_thread_left() -> Iterator[None]:
    """The test must end with the threads that it began with."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before]
    assert not left


@pytest.fixture
def faulty(bench: Bench) -> tuple[Bench, FaultStore]:
    """A repository in a folder, whose store does as it is told."""
    store = FaultStore(bench.repository._store)
    known = bench.repository
    bench.repository = Repository(store, known._description, known._master_key, SteppingClock())
    return bench, store
