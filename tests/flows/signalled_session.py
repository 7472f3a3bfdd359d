"""A backup session in a process of its own that gets a signal in the middle of its first transfer.

Started by test_signals.py: `python signalled_session.py SETTINGS.json SIGNAL`. The Prefect server is the
caller's, through PREFECT_API_URL.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from blocks import AhvCluster, BackupRepository, BackupWorkers
from flows.backup import backup
from jobs import BackupJob, NullObserver, TransferLimits, observed_by
from repository import TransferCounters


class Signaller(NullObserver):
    """Sends the signal to this process once the first bytes of a disk were read."""

    def __init__(self, number: int) -> None:
        self.number, self.sent = number, threading.Event()

    def disk_started(
        self, vm_id: str, disk_id: str, label: str, to_read_bytes: int, counters: TransferCounters
    ) -> None:
        threading.Thread(target=self.send, args=(counters,), daemon=True).start()

    def send(self, counters: TransferCounters) -> None:
        while counters.read_bytes == 0:
            time.sleep(0.0005)
        if not self.sent.is_set():
            self.sent.set()
            os.kill(os.getpid(), self.number)


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    with observed_by(Signaller(signal.Signals[sys.argv[2]])):
        backup(
            AhvCluster.model_validate(settings["cluster"]),
            BackupRepository.model_validate(settings["repository"]),
            BackupWorkers.model_validate(settings["workers"]),
            # So slow that no VM is done before the signal is handled, however small its disks.
            BackupJob(name="nightly", limits=TransferLimits(mbit_per_s=1)),
        )


if __name__ == "__main__":
    main()
