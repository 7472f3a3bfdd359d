"""What is known of one VM's run while it goes on, and the result it becomes.

Written by the VM's own thread and its disks' threads, sampled by displays; every field is replaced
whole, so a reader sees the old value or the new one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from jobs.audit import READ_CAUSE, fully_read_at
from jobs.figures import human_bytes
from jobs.progress import Observer
from jobs.results import DiskResult, VmResult, VmStatus
from jobs.statistics import bottleneck, stage_loads
from repository import Clock, DiskRecord, Extent, RestorePoint, TransferCounters


@dataclass(slots=True)
class DiskProgress:
    """One disk being transferred."""

    label: str
    to_read_bytes: int
    counters: TransferCounters


@dataclass(slots=True)
class VmStory:
    """The run of one VM. Create it with `begin`."""

    vm_id: str
    vm_name: str
    started_at: datetime
    started_s: float
    clock: Clock
    observer: Observer
    kind: Literal["full", "incremental"] | None = None
    consistency: str | None = None
    worker: str | None = None
    worker_reason: str | None = None
    point_id: str | None = None
    transfer_started_s: float = 0.0
    transfer_s: float = 0.0
    transfer_started_at: datetime | None = None
    disks: tuple[DiskResult, ...] = ()
    loads: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    lacks: tuple[str, ...] = ()
    """What belongs to the VM and is not in its restore point, in words."""
    progress: dict[str, DiskProgress] = field(default_factory=dict)
    damaged: dict[str, list[Extent]] = field(default_factory=dict)
    """By disk id, what a restore that allows damage could not read and left as zeros."""
    move_count: int = 0
    """How many movers on workers were asked for this VM."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def begin(cls, vm_id: str, vm_name: str, *, clock: Clock, observer: Observer) -> VmStory:
        """Start the clock of a VM's run and tell the observer."""
        observer.vm_started(vm_id, vm_name)
        return cls(vm_id, vm_name, clock.now(), clock.monotonic_s(), clock, observer)

    def step(self, text: str) -> None:
        """Tell the observer of a step."""
        self.observer.step(self.vm_id, text)

    def warn(self, text: str) -> None:
        """Keep a warning for the result and show it now."""
        self.warnings.append(text)
        self.observer.step(self.vm_id, f"warning: {text}")

    @contextmanager
    def transferring(self) -> Iterator[None]:
        """The block moves data; the time of all such blocks is the base of rates (M2)."""
        self.transfer_started_s = self.clock.monotonic_s()
        self.transfer_started_at = self.transfer_started_at or self.clock.now()
        try:
            yield
        finally:
            self.transfer_s += self.clock.monotonic_s() - self.transfer_started_s

    def disk_started(self, disk_id: str, label: str, to_read_bytes: int) -> TransferCounters:
        """A disk's transfer begins (again, after a failed try): fresh counters for it."""
        counters = TransferCounters()
        with self.lock:
            self.progress[disk_id] = DiskProgress(label, to_read_bytes, counters)
        self.observer.disk_started(self.vm_id, disk_id, label, to_read_bytes, counters)
        return counters

    def disk_finished(self, disk_id: str) -> None:
        """A disk's transfer ended, well or not."""
        self.observer.disk_finished(self.vm_id, disk_id)

    def describe_progress(self) -> tuple[float, str]:
        """Percent of the bytes to read that were read, and the same in words."""
        with self.lock:
            disks = list(self.progress.values())
        to_read_bytes = sum(disk.to_read_bytes for disk in disks)
        read_bytes = sum(disk.counters.read_bytes for disk in disks)
        # Samples and the rest of a chunk are read on top of what was planned.
        to_read_bytes = max(to_read_bytes, read_bytes)
        stored_bytes = sum(disk.counters.stored_bytes for disk in disks)
        percent = min(100.0, 100 * read_bytes / to_read_bytes) if to_read_bytes else 0.0
        elapsed_s = max(self.clock.monotonic_s() - self.transfer_started_s, 1e-9)
        return percent, (
            f"{self.vm_name}: read {human_bytes(read_bytes)} of {human_bytes(to_read_bytes)}, "
            f"stored {human_bytes(stored_bytes)}, {human_bytes(round(read_bytes / elapsed_s))}/s"
        )

    def committed(self, point: RestorePoint) -> None:
        """The restore point exists: keep what its disks cost for the tables."""
        self.point_id = point.id
        self.disks = tuple(disk_result(disk) for disk in point.disks)
        figures = [disk.figures for disk in point.disks]
        self.loads = stage_loads(
            figures, transfer_s=self.transfer_s, core_count=os.cpu_count() or 1
        )

    def result(self, error: BaseException | None = None, *, stopped: bool = False) -> VmResult:
        """The VM's result as of now; also told to the observer."""
        status: VmStatus = "warning" if self.warnings else "success"
        if error is not None:
            status = "stopped" if stopped else "failed"
        result = VmResult(
            vm_id=self.vm_id,
            vm_name=self.vm_name,
            status=status,
            kind=self.kind,
            point_id=self.point_id,
            consistency=self.consistency,
            worker=self.worker,
            worker_reason=self.worker_reason,
            started_at=self.started_at,
            duration_s=self.clock.monotonic_s() - self.started_s,
            transfer_s=self.transfer_s,
            transfer_started_at=self.transfer_started_at,
            loads=self.loads,
            bottleneck=bottleneck(self.loads),
            disks=self.disks,
            warnings=tuple(self.warnings),
            lacks=self.lacks,
            error=None if error is None else (str(error) or type(error).__name__),
        )
        self.observer.vm_finished(result)
        return result


def disk_result(disk: DiskRecord) -> DiskResult:
    """The figures of one disk for tables and reports."""
    return DiskResult(
        disk_id=disk.disk_id,
        label=disk.label,
        provisioned_bytes=disk.size_bytes,
        read_bytes=disk.figures.read_bytes,
        stored_bytes=disk.figures.stored_bytes,
        read_method=disk.read_method,
        read_reason=disk.read_reason,
        read_cause=disk.source_facts.get(READ_CAUSE),
        fully_read_at=fully_read_at(disk),
    )


@contextmanager
def told_to_the_end(story: VmStory) -> Iterator[None]:
    """Whatever ends the block, the observer hears the result; for runs that have only one VM."""
    try:
        yield
    except BaseException as error:
        story.result(error, stopped=not isinstance(error, Exception))
        raise
    story.result()
