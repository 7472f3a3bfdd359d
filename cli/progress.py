"""Progress on stderr: a live bar on a terminal, a plain line every few seconds anywhere else.

Nothing on the data path waits for a display: a bar samples plain counters from a thread of its own.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from cli.output import make_console, say

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINE_PERIOD_S = 5.0
FRAME_PERIOD_S = 0.2
FORECAST_AFTER_S = 3.0
"""How long a rate must have lasted before something is foretold from it."""

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
        left = time_left(done_bytes, total_bytes, elapsed_s)
        draw_bar(self._progress, self._task, done_bytes, total_bytes, elapsed_s, status=left)


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
    """Rich's live display in our style, on stderr, gone when it is done.

    Only the last column gives way on a narrow terminal: a long status must not push out the name
    and the figures.
    """
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column as Cell

    def text(field: str, **cell: Any) -> TextColumn:
        return TextColumn(field, markup=False, table_column=Cell(no_wrap=True, **cell))

    console = make_console(sys.stderr)
    return Progress(
        text("{task.description}", max_width=max(8, console.width // 4), overflow="ellipsis"),
        BarColumn(bar_width=min(24, console.width // 6)),
        text("{task.fields[percent]}", justify="right"),
        text("{task.fields[amount]}", justify="right"),
        text("{task.fields[rate]}", justify="right"),
        text("{task.fields[status]}", ratio=1, overflow="ellipsis"),
        console=console,
        expand=True,
        transient=True,
    )


def add_bar(progress: Progress, label: str) -> TaskID:
    """One more bar, of work whose size is not known yet."""
    return progress.add_task(label, total=None, percent="", amount="", rate="", status="")


def draw_bar(
    progress: Progress,
    bar: TaskID,
    done_bytes: int,
    total_bytes: int,
    elapsed_s: float,
    status: str = "",
) -> None:
    """Show how far a bar's work has come; a total of 0 is not known yet."""
    from jobs import human_rate

    shown: dict[str, Any] = {"status": status}
    if total_bytes:
        shown["percent"] = _percent(done_bytes, total_bytes)
        shown["amount"] = _amount(done_bytes, total_bytes)
        shown["rate"] = human_rate(done_bytes, elapsed_s)
    progress.update(bar, completed=done_bytes, total=total_bytes or None, **shown)


def progress_amount(done_bytes: int, total_bytes: int, elapsed_s: float) -> str:
    """`45 % (120.0 MiB of 260.0 MiB), 80.0 MiB/s`."""
    from jobs import human_rate

    percent = f"{_percent(done_bytes, total_bytes)} " if total_bytes else ""
    amount = f"({_amount(done_bytes, total_bytes)})"
    return f"{percent}{amount}, {human_rate(done_bytes, elapsed_s)}"


def time_left(done_bytes: int, total_bytes: int, elapsed_s: float) -> str:
    """`12 s left` at the rate so far; empty as long as that would only be a guess."""
    from jobs import human_duration

    if not 0 < done_bytes < total_bytes or elapsed_s < FORECAST_AFTER_S:
        return ""
    left_s = round(elapsed_s * (total_bytes - done_bytes) / done_bytes)
    return f"{left_s} s left" if left_s < 60 else f"{human_duration(left_s)} left"


def _percent(done_bytes: int, total_bytes: int) -> str:
    return f"{100 * done_bytes // total_bytes} %"


def _amount(done_bytes: int, total_bytes: int) -> str:
    from jobs import human_bytes

    return f"{human_bytes(done_bytes)} of {human_bytes(total_bytes)}"


@contextmanager
def _sampled(bar: Bar, sample: Sample | None, *, period_s: float) -> Iterator[Bar]:
    if sample is None:
        yield bar
        return
    with Ticker(lambda: bar.update(*sample()), period_s):
        yield bar
