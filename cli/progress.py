"""Progress on stderr: a live bar on a terminal, a plain line every few seconds anywhere else.

Nothing on the data path waits for a display: a bar samples plain counters from a thread of its own.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from cli.output import make_console, say

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINE_PERIOD_S = 5.0
FRAME_PERIOD_S = 0.2

Sample = Callable[[], tuple[int, int]]
"""Bytes done and bytes in all, right now."""


class Bar(Protocol):
    """Something that shows how far one piece of work has come."""

    def update(self, done_bytes: int, total_bytes: int) -> None:
        """Show this state, at once or soon. Thread-safe."""


class TerminalBar:
    """One live bar of rich's."""

    def __init__(self, progress: Progress, label: str) -> None:
        self._progress = progress
        self._started_s = time.monotonic()
        self._task = add_bar(progress, label)

    def update(self, done_bytes: int, total_bytes: int) -> None:
        """Redraw with the next frame."""
        elapsed_s = time.monotonic() - self._started_s
        draw_bar(self._progress, self._task, done_bytes, total_bytes, elapsed_s)


class LineBar:
    """A line every `LINE_PERIOD_S`, for logs and pipes."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._started_s = self._shown_s = time.monotonic()
        self._lock = threading.Lock()

    def update(self, done_bytes: int, total_bytes: int) -> None:
        """Print a line if the last one is old enough."""
        now_s = time.monotonic()
        with self._lock:
            if now_s - self._shown_s < LINE_PERIOD_S:
                return
            self._shown_s = now_s
        amount = progress_amount(done_bytes, total_bytes, now_s - self._started_s)
        say(f"{self._label}: {amount}")


class Ticker:
    """Calls `action` every `period_s` seconds from its own thread while the block runs."""

    def __init__(self, action: Callable[[], None], period_s: float) -> None:
        self._action, self._period_s = action, period_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> Ticker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._period_s):
            self._action()


@contextmanager
def open_bar(label: str, sample: Sample | None = None) -> Iterator[Bar]:
    """A bar for one piece of work. With `sample` it updates itself, else the caller does."""
    if not sys.stderr.isatty():
        with _sampled(LineBar(label), sample, period_s=1.0) as bar:
            yield bar
        return
    with (
        make_progress() as progress,
        _sampled(TerminalBar(progress, label), sample, period_s=FRAME_PERIOD_S) as bar,
    ):
        yield bar


def make_progress() -> Progress:
    """Rich's live display in our style, on stderr, gone when it is done."""
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[amount]}", markup=False),
        TextColumn("{task.fields[status]}", markup=False),
        console=make_console(sys.stderr),
        transient=True,
    )


def add_bar(progress: Progress, label: str) -> TaskID:
    """One more bar, of work whose size is not known yet."""
    return progress.add_task(label, total=None, amount="", status="")


def draw_bar(
    progress: Progress,
    bar: TaskID,
    done_bytes: int,
    total_bytes: int,
    elapsed_s: float,
    status: str = "",
) -> None:
    """Show how far a bar's work has come; a total of 0 is not known yet."""
    amount = progress_amount(done_bytes, total_bytes, elapsed_s) if total_bytes else ""
    total = total_bytes or None
    progress.update(bar, completed=done_bytes, total=total, amount=amount, status=status)


def progress_amount(done_bytes: int, total_bytes: int, elapsed_s: float) -> str:
    """`45 % (120.0 MiB of 260.0 MiB), 80.0 MiB/s`."""
    from jobs import human_bytes, human_rate

    percent = f"{100 * done_bytes // total_bytes} % " if total_bytes else ""
    amount = f"({human_bytes(done_bytes)} of {human_bytes(total_bytes)})"
    return f"{percent}{amount}, {human_rate(done_bytes, elapsed_s)}"


@contextmanager
def _sampled(bar: Bar, sample: Sample | None, *, period_s: float) -> Iterator[Bar]:
    if sample is None:
        yield bar
        return
    with Ticker(lambda: bar.update(*sample()), period_s):
        yield bar
