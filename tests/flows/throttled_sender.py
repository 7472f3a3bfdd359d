"""A process that writes an endless disk into a repository under its throttle rules, until SIGTERM.

Run as a program with one JSON argument. Prints a line `seconds bytes` four times a second: the system's
monotonic clock, and what its throttle has let go so far.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import uuid
from contextlib import closing

from jobs import open_throttle
from repository import DiskSpec, Extent, Repository, Stopped, Throttle
from tasks import PrefectLimits

CHUNK = 2**20
DISK = 2**40
PIECE = 256 * 1024


class EndlessDisk:
    """Every chunk is noise and unlike every other."""

    size_bytes = DISK

    def __init__(self) -> None:
        self._noise = os.urandom(CHUNK)
        self._nonce = os.urandom(16)

    def read_into(self, offset_bytes: int, buffer: memoryview) -> None:
        for start in range(0, len(buffer), CHUNK):
            part = buffer[start : start + CHUNK]
            part[:] = self._noise[: len(part)]
            part[:24] = self._nonce + (offset_bytes + start).to_bytes(8, "little")


class Counted:
    """A throttle that knows what it has let go, also of an object that asks for all of itself at once."""

    def __init__(self, inner: Throttle) -> None:
        self._inner = inner
        self._one_at_a_time = threading.Lock()
        self.gone_bytes = 0

    def acquire(self, length_bytes: int) -> None:
        with self._one_at_a_time:
            for start in range(0, length_bytes, PIECE):
                piece = min(PIECE, length_bytes - start)
                self._inner.acquire(piece)
                self.gone_bytes += piece


def report(throttle: Counted, stop: threading.Event) -> None:
    while not stop.wait(0.25):
        print(f"{time.monotonic():.3f} {throttle.gone_bytes}", flush=True)


def main() -> None:
    """Send until told to stop."""
    wanted = json.loads(sys.argv[1])
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with (
        closing(PrefectLimits()) as shared,
        Repository.open(wanted["url"], storage_options=wanted["options"]) as repository,
        open_throttle(repository, shared=shared) as engine,
    ):
        throttle = Counted(
            engine.transfer(
                direction="write",
                purpose="backup",
                job=wanted["job"],
                worker=wanted["worker"],
                stop=stop,
            )
        )
        threading.Thread(target=report, args=(throttle, stop), daemon=True).start()
        try:
            with repository.write_session(uuid.uuid4().hex) as session:
                session.write_disk(
                    DiskSpec(disk_id=uuid.uuid4().hex, size_bytes=DISK, label="scsi.0"),
                    EndlessDisk(),
                    [Extent(0, DISK)],
                    None,
                    throttle=throttle,
                    stop=stop,
                    read_method="all",
                )
        except Stopped:
            return


if __name__ == "__main__":
    main()
