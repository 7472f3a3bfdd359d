"""Hooks: real programs, real processes."""

from __future__ import annotations

import ast
import os
import stat
import sys
import threading
from pathlib import Path

import pytest

from jobs import Hook, HookFacts, HookFailed, run_hook
from repository import SystemClock

FACTS = HookFacts("after", "nightly", "session-1", 3, "warning")


def call(*command: str, timeout_s: float = 60, stop: threading.Event | None = None) -> None:
    hook = Hook(command=command, timeout_s=timeout_s)
    run_hook(hook, FACTS, clock=SystemClock(), stop=stop or threading.Event())


def python(text: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text, *arguments)


def test_the_program_is_told_of_the_session_and_of_none_of_our_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Job, session, result and number of VMs are in its environment; our own settings, passwords among them, are not."""
    monkeypatch.setenv("AHVAULT_CLUSTER_PASSWORD", "secret-1")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "user:secret-2")
    written = tmp_path / "environment"
    call(
        *python(
            "import os, sys; open(sys.argv[1], 'w').write(repr(dict(os.environ)))", str(written)
        )
    )
    environment = ast.literal_eval(written.read_text())
    assert environment["PATH"] == os.environ["PATH"]
    assert {name: value for name, value in environment.items() if "AHVAULT" in name} == {
        "AHVAULT_HOOK": "after",
        "AHVAULT_JOB": "nightly",
        "AHVAULT_SESSION_ID": "session-1",
        "AHVAULT_VM_COUNT": "3",
        "AHVAULT_RESULT": "warning",
    }
    assert not [name for name in environment if name.startswith("PREFECT_")]
    assert "secret" not in written.read_text()


def test_words_are_never_read_by_a_shell(tmp_path: Path) -> None:
    """What a shell would run, expand or split arrives as the one word that it is."""
    written, trap = tmp_path / "words", tmp_path / "trap"
    words = (f"; touch {trap}", f"$(touch {trap})", "*", "a  b", "$HOME", "`id`")
    call(
        *python(
            "import sys; open(sys.argv[1], 'w').write(repr(sys.argv[2:]))", str(written), *words
        )
    )
    assert written.read_text() == repr(list(words))
    assert not trap.exists()


def test_a_failure_says_how_it_ended_and_what_it_said_last() -> None:
    """The exit code, and the last line of its output, in one sentence."""
    with pytest.raises(HookFailed, match=r"after the session, .* ended with code 3; .*: no disk$"):
        call(
            *python(
                "import sys; print('hello', flush=True); print('no disk', file=sys.stderr); sys.exit(3)"
            )
        )
    with pytest.raises(HookFailed, match="signal 9 ended it; its last words: it printed nothing"):
        call(*python("import os; os.kill(os.getpid(), 9)"))


def test_a_program_that_cannot_be_run_is_a_failure_too(tmp_path: Path) -> None:
    """Missing, or not executable."""
    with pytest.raises(HookFailed, match="cannot be run: No such file"):
        call("/nonexistent/program")
    plain = tmp_path / "plain"
    plain.write_text("#!/bin/sh\n")
    plain.chmod(stat.S_IRUSR)
    with pytest.raises(HookFailed, match="cannot be run: Permission denied"):
        call(str(plain))


CHILD = """
import pathlib, subprocess, sys, time
child = subprocess.Popen(["/bin/sleep", "600"])
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(600)
"""


@pytest.mark.parametrize("ended_by", ["timeout", "stop"])
def test_one_that_takes_too_long_ends_with_all_that_it_started(
    tmp_path: Path, ended_by: str
) -> None:
    """After the timeout, or when the session is stopped, neither it nor its children run any more."""
    pid_file, stop = tmp_path / "pid", threading.Event()
    if ended_by == "stop":
        threading.Thread(target=_when_written, args=(pid_file, stop), daemon=True).start()
    timeout_s = 2.0 if ended_by == "timeout" else 60.0
    said = "did not end within 2 s" if ended_by == "timeout" else "the session was stopped"
    with pytest.raises(HookFailed, match=said):
        call(*python(CHILD, str(pid_file)), timeout_s=timeout_s, stop=stop)
    assert _is_gone(int(pid_file.read_text()))


def _when_written(path: Path, stop: threading.Event) -> None:
    waiting = threading.Event()
    while not (path.exists() and path.read_text()):
        waiting.wait(0.01)
    stop.set()


def _is_gone(pid: int) -> bool:
    waiting = threading.Event()
    for _ in range(600):
        stat_file = Path(f"/proc/{pid}/stat")
        if not stat_file.exists() or stat_file.read_text().split()[2] in "ZX":
            return True
        waiting.wait(0.05)
    return False


def test_a_great_deal_of_output_is_no_trouble() -> None:
    """Only its end is kept, and the program is not held up by it."""
    with pytest.raises(HookFailed, match="last words: the end"):
        call(*python("print('x' * 5_000_000); print('the end'); raise SystemExit(1)"))
