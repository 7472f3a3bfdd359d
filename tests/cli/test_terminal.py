"""On a real (pseudo) terminal: nothing is cut off, bars come and go, and a pipe sees none of it."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest

from cli.progress import progress_amount


def run_on_terminal(*arguments: str, columns: int) -> str:
    """What a terminal of that many columns receives from the real command."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    received: list[bytes] = []

    def receive() -> None:
        try:
            while data := os.read(master, 65536):
                received.append(data)
        except OSError:  # the last writer is gone
            return

    reader = threading.Thread(target=receive)
    reader.start()
    child = subprocess.Popen(
        [sys.executable, "-c", "from cli.main import main; main()", *arguments],
        stdout=slave,
        stderr=slave,
        stdin=subprocess.DEVNULL,
    )
    os.close(slave)
    assert child.wait(60) == 0
    reader.join(10)
    os.close(master)
    return b"".join(received).decode()


@pytest.fixture
def configured(stored, monkeypatch: pytest.MonkeyPatch):
    """The stored repository as the configured one."""
    monkeypatch.setenv("AHVAULT_REPOSITORY_URL", str(stored.path))
    monkeypatch.setenv("TERM", "xterm")
    return stored


@pytest.mark.parametrize("columns", [40, 200])
def test_a_table_is_never_cut_to_the_terminal(configured, columns: int) -> None:
    """A narrow terminal gets long lines, not half names: what is shown can be typed back."""
    shown = run_on_terminal("points", "web01", "--disks", columns=columns)
    for whole in ("2026-11-23T08:00:00Z", "id-of-web01-scsi.0", "PROVISIONED", "crash"):
        assert whole in shown


def test_a_terminal_sees_a_bar_and_a_pipe_does_not(configured, ahvault, tmp_path: Path) -> None:
    """Bars are drawn on terminals alone, and are gone when the work is done."""
    assert "\x1b[?25h" in run_on_terminal("verify", columns=100)
    piped = ahvault("verify")
    assert "\x1b" not in piped.out + piped.err
    assert piped.err == ""


def test_the_amount_of_work_of_unknown_size() -> None:
    """Nothing is divided by a total that is not known yet."""
    assert progress_amount(0, 0, 0.0) == "(0 B of 0 B), -"
    assert progress_amount(1024, 4096, 2.0) == "25 % (1.0 KiB of 4.0 KiB), 512 B/s"
