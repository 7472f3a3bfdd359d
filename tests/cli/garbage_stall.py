"""How long a program stands still when the collector meets a cursor whose connection waits for the database.

Run by test_prefect_process.py, in a process of its own: `python garbage_stall.py here|apart FILE`.
"""

from __future__ import annotations

import gc
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from cli.prefect_server import COLLECT_PERIOD_S, collect_garbage_apart

WAIT_S = 6.0
"""How long the connection waits. The collector in a thread of its own runs twice meanwhile."""


def main() -> None:
    """Print the longest time, in seconds, for which the main thread did not get to run."""
    way, path = sys.argv[1:]
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("PRAGMA journal_mode = WAL")
    holder.execute("CREATE TABLE t (n)")
    waiter = sqlite3.connect(path, isolation_level=None, timeout=WAIT_S, check_same_thread=False)
    if way == "apart":
        collect_garbage_apart()
    garbage: list[object] = [waiter.execute("SELECT 1 UNION ALL SELECT 2")]
    garbage.append(garbage)
    holder.execute("BEGIN IMMEDIATE")
    threading.Thread(target=_wait_for_the_database, args=(waiter,), daemon=True).start()
    time.sleep(0.2)
    del garbage
    print(_longest_stall_s(gc.collect if way == "here" else lambda: None))


def _wait_for_the_database(waiter: sqlite3.Connection) -> None:
    with suppress(sqlite3.OperationalError):
        waiter.execute("BEGIN IMMEDIATE")


def _longest_stall_s(work: Callable[[], object]) -> float:
    last_s = time.monotonic()
    until_s, longest_s = last_s + 2 * COLLECT_PERIOD_S, 0.0
    work()
    while last_s < until_s:
        now_s = time.monotonic()
        longest_s, last_s = max(longest_s, now_s - last_s), now_s
        time.sleep(0.001)
    return longest_s


if __name__ == "__main__":
    main()
