"""How a process that read a repository ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

READ_ALL = """
import os, sys, threading, time
from repository import Repository, VerifyLevel

def native_threads():
    return len(os.listdir("/proc/self/task")) - threading.active_count()

with Repository.open(sys.argv[1]) as repository:
    before = native_threads()
    report = repository.verify(VerifyLevel.CONTENT, remembers=False)
    assert not report.findings
    deadline_s = time.monotonic() + 10  # a thread of ours that has ended is gone a moment later
    while native_threads() > before and time.monotonic() < deadline_s:
        time.sleep(0.01)
    print(max(0, native_threads() - before))
"""


def test_reading_a_repository_starts_no_thread_that_could_abort_the_process_at_its_end() -> None:
    """Arrow's pool may drop the last hold on our bytes while the interpreter ends: SIGABRT, exit code -6."""
    arguments = [sys.executable, "-c", READ_ALL, str(ROOT / "tests/data/plain")]
    ended = subprocess.run(arguments, check=True, capture_output=True, text=True, cwd=ROOT)
    assert ended.stdout.strip() == "0"
