"""The steps of a mover: its context, and one task per disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from jobs import Mover
from tasks.gather import finish_all
from tasks.policy import step

_mover: ContextVar[Mover] = ContextVar("ahvault_mover")


@contextmanager
def carried_by(mover: Mover) -> Iterator[None]:
    """Steps called inside the block belong to this move."""
    token = _mover.set(mover)
    try:
        yield
    finally:
        _mover.reset(token)


@step("move-disk", run_name="move-{label}")
def move_disk(label: str, index: int) -> None:  # noqa: ARG001 - the label names the task run
    """Move one disk. A retry finds what the failed try had stored."""
    _mover.get().move_disk(index)


def move_all_disks() -> None:
    """Move all disks of the move at once; waits for every one, then raises the first failure."""
    mover = _mover.get()
    futures = {index: move_disk.submit(label, index) for index, label in mover.to_move.items()}
    finish_all(futures, lambda _index, _result: None, stop=mover.stop)
