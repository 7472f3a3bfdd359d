"""Who watches a session while it runs.

A session tells its observer what begins and ends; how far a disk has come is not told but sampled
from the disk's counters, so that nothing on the data path ever waits for a display.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from jobs.results import VmResult
from repository import TransferCounters


class Observer(Protocol):
    """Called from several threads at once; must return quickly and must not raise."""

    def vm_started(self, vm_id: str, vm_name: str) -> None:
        """A VM's part of the session begins."""

    def session_step(self, text: str) -> None:
        """Something worth a line that concerns the session as a whole: a hook, a retry, a closing window."""

    def step(self, vm_id: str, text: str) -> None:
        """A VM reached a step worth a line: the snapshot, the worker and why, what is read and why."""

    def disk_started(
        self, vm_id: str, disk_id: str, label: str, to_read_bytes: int, counters: TransferCounters
    ) -> None:
        """A disk's transfer begins; sample `counters.read_bytes` against `to_read_bytes`."""

    def disk_finished(self, vm_id: str, disk_id: str) -> None:
        """A disk's transfer ended, well or not."""

    def vm_finished(self, result: VmResult) -> None:
        """A VM's part of the session ended."""


class NullObserver:
    """Watches nothing."""

    def vm_started(self, vm_id: str, vm_name: str) -> None:
        """Ignored."""

    def session_step(self, text: str) -> None:
        """Ignored."""

    def step(self, vm_id: str, text: str) -> None:
        """Ignored."""

    def disk_started(
        self, vm_id: str, disk_id: str, label: str, to_read_bytes: int, counters: TransferCounters
    ) -> None:
        """Ignored."""

    def disk_finished(self, vm_id: str, disk_id: str) -> None:
        """Ignored."""

    def vm_finished(self, result: VmResult) -> None:
        """Ignored."""


class Observers:
    """Tells several observers the same."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def vm_started(self, vm_id: str, vm_name: str) -> None:
        """Told to all."""
        for each in self._observers:
            each.vm_started(vm_id, vm_name)

    def session_step(self, text: str) -> None:
        """Told to all."""
        for each in self._observers:
            each.session_step(text)

    def step(self, vm_id: str, text: str) -> None:
        """Told to all."""
        for each in self._observers:
            each.step(vm_id, text)

    def disk_started(
        self, vm_id: str, disk_id: str, label: str, to_read_bytes: int, counters: TransferCounters
    ) -> None:
        """Told to all."""
        for each in self._observers:
            each.disk_started(vm_id, disk_id, label, to_read_bytes, counters)

    def disk_finished(self, vm_id: str, disk_id: str) -> None:
        """Told to all."""
        for each in self._observers:
            each.disk_finished(vm_id, disk_id)

    def vm_finished(self, result: VmResult) -> None:
        """Told to all."""
        for each in self._observers:
            each.vm_finished(result)


_observer: ContextVar[Observer | None] = ContextVar("ahvault_observer", default=None)


@contextmanager
def observed_by(observer: Observer) -> Iterator[None]:
    """Sessions started inside the block, in this process, tell `observer`.

    A context variable and not a parameter: a flow's parameters are data that Prefect stores.
    """
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


def current_observer() -> Observer:
    """The observer of the innermost `observed_by` block, or one that ignores everything."""
    return _observer.get() or NullObserver()
