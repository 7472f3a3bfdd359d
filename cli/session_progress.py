"""What a session's observer shows: several VMs at once on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cli.output import say
from cli.progress import (
    FRAME_PERIOD_S,
    LINE_PERIOD_S,
    Ticker,
    add_bar,
    draw_bar,
    make_progress,
    progress_amount,
    time_left,
)

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from jobs import Observer, VmResult
    from repository import TransferCounters


@dataclass(slots=True)
class _Vm:
    vm_id: str
    name: str
    status: str = ""
    transfer_started_s: float = 0.0
    transfer_ended_s: float = 0.0
    disks: dict[str, tuple[int, TransferCounters]] = field(default_factory=dict)
    moving: set[str] = field(default_factory=set)
    """Ids of the disks whose transfer has begun and not ended."""

    @property
    def elapsed_s(self) -> float:
        """Seconds since its first disk began, until its last ended."""
        until_s = time.monotonic() if self.moving else self.transfer_ended_s
        return until_s - self.transfer_started_s

    def sample(self) -> tuple[int, int]:
        """Bytes read so far and to read in all, over the disks begun so far."""
        disks = list(self.disks.values())
        total_bytes = sum(to_read_bytes for to_read_bytes, _ in disks)
        done_bytes = sum(counters.read_bytes for _, counters in disks)
        return min(done_bytes, total_bytes), total_bytes

    @property
    def doing(self) -> str:
        """What it is at: the time left while disks are read, the last step before, the rest after."""
        done_bytes, total_bytes = self.sample()
        if self.moving and done_bytes < total_bytes:
            return time_left(done_bytes, total_bytes, self.elapsed_s) or self.status
        if self.moving and total_bytes:
            return "storing the last of it"
        return "finishing" if self.disks else self.status


class _Watch:
    """What is known of every VM of the session; the displays differ in how they show it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._vms: dict[str, _Vm] = {}

    def vm_started(self, vm_id: str, vm_name: str) -> None:
        """A VM's part of the session begins."""
        vm = _Vm(vm_id, vm_name)
        with self._lock:
            self._vms[vm_id] = vm
        self._started(vm)

    def session_step(self, text: str) -> None:
        """Something concerns the session as a whole."""
        self._announce(text)

    def step(self, vm_id: str, text: str) -> None:
        """A VM reached a step."""
        vm = self._vm(vm_id)
        vm.status = text
        self._told(vm, text)

    def disk_started(
        self, vm_id: str, disk_id: str, label: str, to_read_bytes: int, counters: TransferCounters
    ) -> None:
        """A disk's transfer begins."""
        del label
        vm = self._vm(vm_id)
        vm.transfer_started_s = vm.transfer_started_s or time.monotonic()
        with self._lock:
            vm.disks[disk_id] = (to_read_bytes, counters)
            vm.moving.add(disk_id)

    def disk_finished(self, vm_id: str, disk_id: str) -> None:
        """A disk's transfer ended; its bytes stay in the sum."""
        vm = self._vm(vm_id)
        with self._lock:
            vm.moving.discard(disk_id)
            vm.transfer_ended_s = time.monotonic()

    def vm_finished(self, result: VmResult) -> None:
        """A VM's part of the session ended."""
        with self._lock:
            self._vms.pop(result.vm_id, None)
        self._ended(result)

    def tick(self) -> None:
        """Show how far every VM is."""
        with self._lock:
            vms = list(self._vms.values())
        for vm in vms:
            self._show(vm)

    def _vm(self, vm_id: str) -> _Vm:
        with self._lock:
            return self._vms.setdefault(vm_id, _Vm(vm_id, vm_id))

    def _announce(self, text: str) -> None:
        raise NotImplementedError

    def _started(self, vm: _Vm) -> None:
        raise NotImplementedError

    def _told(self, vm: _Vm, text: str) -> None:
        raise NotImplementedError

    def _show(self, vm: _Vm) -> None:
        raise NotImplementedError

    def _ended(self, result: VmResult) -> None:
        raise NotImplementedError


class LineWatch(_Watch):
    """One line per step and per VM every few seconds."""

    def _announce(self, text: str) -> None:
        say(text)

    def _started(self, vm: _Vm) -> None:
        say(f"{vm.name}: started")

    def _told(self, vm: _Vm, text: str) -> None:
        say(f"{vm.name}: {text}")

    def _show(self, vm: _Vm) -> None:
        done_bytes, total_bytes = vm.sample()
        if total_bytes:
            say(f"{vm.name}: {progress_amount(done_bytes, total_bytes, vm.elapsed_s)}")

    def _ended(self, result: VmResult) -> None:
        say(ending_line(result))


class TerminalWatch(_Watch):
    """One live bar per VM; warnings and results scroll past above them."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def _announce(self, text: str) -> None:
        self._progress.console.print(text)

    def _started(self, vm: _Vm) -> None:
        self._bars[vm.vm_id] = add_bar(self._progress, vm.name)

    def _told(self, vm: _Vm, text: str) -> None:
        if text.startswith("warning"):
            self._progress.console.print(f"{vm.name}: {text}")
        self._show(vm)

    def _show(self, vm: _Vm) -> None:
        bar = self._bars.get(vm.vm_id)
        if bar is not None:
            done_bytes, total_bytes = vm.sample()
            draw_bar(self._progress, bar, done_bytes, total_bytes, vm.elapsed_s, status=vm.doing)

    def _ended(self, result: VmResult) -> None:
        bar = self._bars.pop(result.vm_id, None)
        if bar is not None:
            self._progress.remove_task(bar)
        self._progress.console.print(ending_line(result))


def ending_line(result: VmResult) -> str:
    """`db01: success, incremental, 12.0 MiB read, 3.1 MiB stored in 4.2 s`, or why not."""
    from jobs import human_bytes, human_duration

    if result.error is not None:
        return f"{result.vm_name}: {result.status}: {result.error}"
    duration = human_duration(result.duration_s)
    if result.kind is None:
        warned = ", with warnings," if result.warnings else ""
        return f"{result.vm_name}: restored{warned} in {duration}"
    amounts = f"{human_bytes(result.read_bytes)} read, {human_bytes(result.stored_bytes)} stored"
    return f"{result.vm_name}: {result.status}, {result.kind}, {amounts} in {duration}"


@contextmanager
def watch_session() -> Iterator[Observer]:
    """An observer that shows a session on stderr as fits the place."""
    if not sys.stderr.isatty():
        lines = LineWatch()
        with Ticker(lines.tick, LINE_PERIOD_S):
            yield lines
        return
    with make_progress() as progress:
        bars = TerminalWatch(progress)
        with Ticker(bars.tick, FRAME_PERIOD_S):
            yield bars
