"""What a session's observer says while it runs, away from a terminal."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from rich.console import Console
from rich.progress import Progress

from cli.progress import make_progress, time_left
from cli.session_progress import LineWatch, TerminalWatch, ending_line
from jobs import VmResult
from repository import TransferCounters

MiB = 1024 * 1024


def result(**fields: object) -> VmResult:
    """The result of one VM."""
    told = {
        "vm_id": "v1",
        "vm_name": "db01",
        "status": "success",
        "kind": "full",
        "started_at": datetime(2026, 11, 23, tzinfo=UTC),
        "duration_s": 4.2,
    }
    return VmResult.model_validate({**told, **fields})


def test_one_line_per_vm_sums_its_disks(capsys: pytest.CaptureFixture[str]) -> None:
    """Disks that have ended stay in the sum, so a VM's progress never goes back."""
    watch = LineWatch()
    watch.vm_started("v1", "db01")
    counters = [TransferCounters(), TransferCounters()]
    watch.disk_started("v1", "d0", "scsi.0", 10 * MiB, counters[0])
    watch.disk_started("v1", "d1", "scsi.1", 30 * MiB, counters[1])
    counters[0].add(read_bytes=10 * MiB)
    watch.disk_finished("v1", "d0")
    counters[1].add(read_bytes=10 * MiB)
    capsys.readouterr()
    watch.tick()
    line = capsys.readouterr().err
    assert line.startswith("db01: 50 % (20.0 MiB of 40.0 MiB), ")
    assert line.count("\n") == 1


def test_a_vm_that_reads_nothing_yet_or_no_more_has_no_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before its first disk there is nothing to say; after its end it is over."""
    watch = LineWatch()
    watch.vm_started("v1", "db01")
    watch.step("v1", "snapshot taken")
    assert capsys.readouterr().err == "db01: started\ndb01: snapshot taken\n"
    watch.tick()
    watch.disk_started("v1", "d0", "scsi.0", MiB, TransferCounters())
    watch.vm_finished(result())
    capsys.readouterr()
    watch.tick()
    assert capsys.readouterr().err == ""


def test_more_read_than_planned_is_never_above_a_hundred(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whole chunks are read, so a disk may read more than its extents promise."""
    watch = LineWatch()
    watch.vm_started("v1", "db01")
    counters = TransferCounters()
    watch.disk_started("v1", "d0", "scsi.0", MiB, counters)
    counters.add(read_bytes=3 * MiB)
    capsys.readouterr()
    watch.tick()
    assert "100 % (1.0 MiB of 1.0 MiB)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (result(), "db01: success, full, 0 B read, 0 B stored in 4.2 s"),
        (result(kind=None), "db01: restored in 4.2 s"),
        (result(kind=None, warnings=("new MAC",)), "db01: restored, with warnings, in 4.2 s"),
        (result(status="failed", error="no worker"), "db01: failed: no worker"),
    ],
)
def test_the_last_line_of_a_vm(told: VmResult, line: str) -> None:
    """What was done, or why not."""
    assert ending_line(told) == line


def on_terminal(watch: TerminalWatch, progress: Progress, columns: int) -> list[str]:
    """The lines that a terminal of that many columns shows right now."""
    watch.tick()
    screen = Console(width=columns, force_terminal=True, color_system=None)
    with screen.capture() as capture:
        screen.print(progress.get_renderable())
    return capture.get().splitlines()


@pytest.mark.parametrize("columns", [80, 100, 160])
def test_a_long_step_gives_way_to_the_figures(columns: int) -> None:
    """Whatever a VM is at, its name, its figures and its rate are whole, each VM on one line."""
    progress = make_progress()
    watch = TerminalWatch(progress)
    for number, name in enumerate(("db01", "files-of-the-office-02")):
        watch.vm_started(f"v{number}", name)
        watch.step(f"v{number}", "disks attached to worker ahvault-worker-1: same cluster " * 3)
        counters = TransferCounters()
        watch.disk_started(f"v{number}", "d0", "scsi.0", 1000 * MiB, counters)
        counters.add(read_bytes=250 * MiB)
    lines = on_terminal(watch, progress, columns)
    assert len(lines) == 2
    assert lines[0].startswith("db01 ")
    for line in lines:
        assert len(line) <= columns
        assert " 25 % 250.0 MiB of 1000.0 MiB " in line
        assert "iB/s" in line


def test_a_vm_says_what_it_is_at_before_while_and_after_its_disks_move() -> None:
    """The last step, then the time left, then that the rest is stored, then that it ends."""
    progress = make_progress()
    watch = TerminalWatch(progress)
    watch.vm_started("v1", "db01")
    watch.step("v1", "snapshot taken")
    shown = [on_terminal(watch, progress, 160)]
    counters = TransferCounters()
    watch.disk_started("v1", "d0", "scsi.0", 100 * MiB, counters)
    watch._vms["v1"].transfer_started_s -= 30
    counters.add(read_bytes=50 * MiB)
    shown.append(on_terminal(watch, progress, 160))
    counters.add(read_bytes=50 * MiB)
    shown.append(on_terminal(watch, progress, 160))
    watch.disk_finished("v1", "d0")
    shown.append(on_terminal(watch, progress, 160))
    ends = ("snapshot taken", "0 s left", "storing the last of it", "finishing")
    for (line,), end in zip(shown, ends, strict=True):
        assert line.rstrip().endswith(end)


def test_nothing_is_foretold_from_the_first_moments() -> None:
    """A forecast needs a rate that lasted, and something that is left."""
    assert time_left(0, 100, 60.0) == ""
    assert time_left(10, 100, 1.0) == ""
    assert time_left(100, 100, 60.0) == ""
    assert time_left(50, 100, 60.4) == "1 min 00 s left"
