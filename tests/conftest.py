"""For all tests: Ctrl-C means Ctrl-C, and what the proofs counted is printed at the end of the run."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable

import pytest


def pytest_configure() -> None:
    """A test run that was started in the background inherits SIGINT as ignored, and so would every
    child that a test interrupts; the tests mean the signal as a terminal sends it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Callable[[str, int], None]:
    """Report what a proof went through: `count("kills", 200)`. Same names are added up."""
    return record_property


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each thing counted by tests that passed."""
    totals: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed"):
        totals.update(
            {name: each for name, each in report.user_properties if isinstance(each, int)}
        )
    if totals:
        terminalreporter.section("proofs")
        width = max(len(name) for name in totals)
        for name, total in sorted(totals.items()):
            terminalreporter.write_line(f"{name.ljust(width)}  {total:>9,}")
