"""The handle that everyone holds: create and open a repository, write, list, read, verify."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from repository.counters import TransferCounters
from repository.extents import Extent
from repository.findings import VerifyLevel, VerifyProgress, VerifyReport
from repository.points import DiskRecord, DiskSpec, PointDraft, PointListing, RestorePoint
from repository.ports import DiskSource, DiskTarget, Throttle
from repository.units import Clock, MiB, SystemClock


@dataclass(frozen=True, slots=True)
class RepositoryOptions:
    """What is decided when a repository is created and never changes after."""

    chunk_size_bytes: int = MiB
    compression_level: int = 1
    pack_target_bytes: int = 36 * MiB


class WriteSession:
    """Writes disks and commits restore points; thread-safe."""

    def write_disk(
        self,
        spec: DiskSpec,
        source: DiskSource,
        extents: Sequence[Extent],
        base: DiskRecord | None,
        *,
        counters: TransferCounters | None = None,
        throttle: Throttle | None = None,
        stop: threading.Event | None = None,
        read_method: str,
        read_reason: str = "",
        source_facts: Mapping[str, Any] | None = None,
    ) -> DiskRecord:
        raise NotImplementedError

    def commit(self, draft: PointDraft) -> RestorePoint:
        raise NotImplementedError

    def __enter__(self) -> Self:
        raise NotImplementedError

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        raise NotImplementedError


class DiskReader:
    """One disk of one restore point; random reads, extents, restore."""

    @property
    def size_bytes(self) -> int:
        raise NotImplementedError

    def read_into(self, offset_bytes: int, buffer: memoryview) -> None:
        raise NotImplementedError

    def extents(self) -> list[Extent]:
        raise NotImplementedError

    def restore_to(
        self,
        target: DiskTarget,
        *,
        target_is_blank: bool,
        counters: TransferCounters | None = None,
        throttle: Throttle | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class LiveListing:
    """The records of one kind by key, and the keys of those that cannot be read."""

    records: dict[str, dict[str, Any]]
    damaged: list[str]


class LiveRecords:
    """Small mutable JSON records; durable when `put` returns."""

    def put(self, kind: str, key: str, record: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        raise NotImplementedError

    def list(self, kind: str) -> LiveListing:
        raise NotImplementedError

    def delete(self, kind: str, key: str) -> None:
        raise NotImplementedError


class Repository:
    """An open repository."""

    id: str
    url: str
    options: RepositoryOptions
    live: LiveRecords

    @classmethod
    def create(
        cls,
        url: str,
        *,
        storage_options: Mapping[str, Any] | None = None,
        options: RepositoryOptions | None = None,
        clock: Clock | None = None,
    ) -> Repository:
        raise NotImplementedError

    @classmethod
    def open(
        cls,
        url: str,
        *,
        storage_options: Mapping[str, Any] | None = None,
        clock: Clock | None = None,
    ) -> Repository:
        raise NotImplementedError

    def write_session(self, session_id: str) -> WriteSession:
        raise NotImplementedError

    def points(self, vm_id: str | None = None) -> PointListing:
        raise NotImplementedError

    def point(self, point_id: str) -> RestorePoint:
        raise NotImplementedError

    def open_disk(self, point: RestorePoint, disk_id: str) -> DiskReader:
        raise NotImplementedError

    def verify(
        self,
        level: VerifyLevel = VerifyLevel.CONTENT,
        *,
        points: Sequence[RestorePoint] | None = None,
        on_progress: Callable[[VerifyProgress], None] | None = None,
        stop: threading.Event | None = None,
    ) -> VerifyReport:
        raise NotImplementedError

    def save_report(self, session_id: str, report: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def reports(self) -> list[dict[str, Any]]:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


__all__ = ["Repository", "RepositoryOptions", "SystemClock"]
