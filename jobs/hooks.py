"""A job's hooks: programs of the operator's, run on the machine of the session, before and after it.

The words of the command are passed as they are, never to a shell. The program gets a clean
environment: what a program needs from the system, and what it should know of the session. None of
our settings, so no password of ours.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from jobs.errors import HookFailed
from jobs.policies import Hook
from repository import Clock

log = logging.getLogger(__name__)

OUTPUT_BYTES_MAX = 4096
"""How much of the end of its output is kept for the log."""

_PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SHELL")
_GRACE_S = 5.0
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class HookFacts:
    """What a hook is told, as variables of its environment."""

    when: str
    """`before` or `after`."""
    job: str
    session_id: str
    vm_count: int
    result: str | None = None
    """`success`, `warning`, `failed` or `stopped`; None before the session."""

    def environment(self) -> dict[str, str]:
        """The hook's whole environment."""
        passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        told = {
            "AHVAULT_HOOK": self.when,
            "AHVAULT_JOB": self.job,
            "AHVAULT_SESSION_ID": self.session_id,
            "AHVAULT_VM_COUNT": str(self.vm_count),
        }
        result = {"AHVAULT_RESULT": self.result} if self.result is not None else {}
        return {**passed_on, **told, **result}


def run_hook(hook: Hook, facts: HookFacts, *, clock: Clock, stop: threading.Event) -> None:
    """Run the program to its end and log the end of what it printed.

    Raises `HookFailed` when it cannot be started, ends with another code than 0, takes longer than
    its timeout, or the session is stopped meanwhile; then it and its children are ended.
    """
    log.info("Running the hook %s the session: %s", facts.when, hook.command[0])
    with tempfile.TemporaryFile() as output:
        why = _run(hook, facts.environment(), output, clock, stop)
        said = _tail(output)
    for line in said.splitlines():
        log.info("%s: %s", hook.command[0], line)
    if why is not None:
        last = said.splitlines()[-1:] or ["it printed nothing"]
        raise HookFailed(facts.when, hook.command[0], f"{why}; its last words: {last[0]}")


def _run(
    hook: Hook,
    environment: Mapping[str, str],
    output: IO[bytes],
    clock: Clock,
    stop: threading.Event,
) -> str | None:
    """Why it failed, or None."""
    try:
        # In a process group of its own, so that a timeout ends what it has started, too.
        child = subprocess.Popen(  # noqa: S603 - words, no shell; the program is the operator's own
            hook.command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return f"it cannot be run: {error.strerror}"
    try:
        return _wait(child, hook.timeout_s, clock, stop)
    finally:
        _end(child)


def _wait(
    child: subprocess.Popen[bytes], timeout_s: float, clock: Clock, stop: threading.Event
) -> str | None:
    deadline_s = clock.monotonic_s() + timeout_s
    while child.poll() is None:
        if clock.monotonic_s() >= deadline_s:
            return f"it did not end within {timeout_s:g} s"
        if stop.is_set():
            return "the session was stopped while it ran"
        with suppress(subprocess.TimeoutExpired):
            child.wait(_POLL_S)
    if child.returncode < 0:
        return f"signal {-child.returncode} ended it"
    return f"it ended with code {child.returncode}" if child.returncode else None


def _end(child: subprocess.Popen[bytes]) -> None:
    """End what is left of the program and of all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)
        with suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_S)
            return


def _tail(output: IO[bytes]) -> str:
    size_bytes = output.seek(0, os.SEEK_END)
    output.seek(max(0, size_bytes - OUTPUT_BYTES_MAX))
    return output.read().decode(errors="replace").strip()
