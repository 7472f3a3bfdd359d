"""What a command says, and where: results on stdout, everything else on stderr.

Text and JSON stand behind one interface. A command builds its result once, as plain data, and a
view of it for people; `--json` prints the data as the only document on stdout.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

View = Callable[[], Iterable["RenderableType"]]
"""Builds what a person sees of a result; called only when a person is to see it."""

UNWRAPPED_WIDTH = 1000
"""Columns of a stream that is no terminal: a pipe or a file wants one line per row, unwrapped."""

WRAPPED_COLUMN_ROOM = 16
"""Columns that a column of sentences gets beyond its longest word, on a narrow terminal."""


class Output(Protocol):
    """Where a command puts its result."""

    def result(self, data: object, view: View) -> None:
        """Show the command's result. Called at most once per command."""

    def note(self, text: str) -> None:
        """Say something beside the result, on stderr."""


@dataclass(frozen=True, slots=True)
class TextOutput:
    """Tables and sentences for a person."""

    def result(self, data: object, view: View) -> None:
        """Print the view on stdout."""
        del data
        parts = list(view())
        console = make_console(sys.stdout)
        console.width = max(_width_for(part, console) for part in parts)
        with console.capture() as capture:
            for part in parts:
                console.print(part)
        # Tables are padded to full rows; nobody wants that in a ticket or a diff.
        lines = (line.rstrip() for line in capture.get().splitlines())
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Print one line on stderr."""
        say(text)


@dataclass(frozen=True, slots=True)
class JsonOutput:
    """One JSON document for a program."""

    def result(self, data: object, view: View) -> None:
        """Print the data as one document on stdout."""
        del view
        write_json(data)

    def note(self, text: str) -> None:
        """Print one line on stderr."""
        say(text)


def open_output(*, as_json: bool) -> Output:
    """The output that the flags ask for."""
    return JsonOutput() if as_json else TextOutput()


def write_json(data: object) -> None:
    """One document on stdout."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """One line on stderr, as it is."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def make_console(stream: IO[str]) -> Console:
    """A console that wraps to a terminal's width, and never wraps a pipe or a file."""
    from rich.console import Console

    width = None if stream.isatty() else UNWRAPPED_WIDTH
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def _width_for(part: RenderableType, console: Console) -> int:
    """The terminal's width, or what the part needs: a long line is better than half a name."""
    from rich.measure import Measurement

    options = console.options.update(width=UNWRAPPED_WIDTH)
    needed = Measurement.get(console, options, part).minimum + WRAPPED_COLUMN_ROOM
    return max(console.width, needed)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table. Numbers are set flush right."""

    heading: str
    is_number: bool = False
    can_wrap: bool = False


def table(columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> Table:
    """Plain columns under bold headings: readable, greppable, fit to paste into a ticket."""
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        grid.add_column(
            column.heading,
            justify="right" if column.is_number else "left",
            no_wrap=not column.can_wrap,
            overflow="fold",
        )
    for row in rows:
        grid.add_row(*(str(cell) for cell in row))
    return grid
