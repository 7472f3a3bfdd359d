"""When a worker fails under a transfer: what counts as its failure, and what stays to be moved."""

from __future__ import annotations

from jobs.errors import WorkerLost
from jobs.volumes import Attachment
from nutanix import DiskError


def worker_failure(error: BaseException, attachment: Attachment) -> str | None:
    """Why the transfer's end is the worker's doing, or `None` when another worker would not help.

    The worker is to blame for a disk that it lost or misreads, and for whatever ended because it
    was lost itself. A store that fails and a run that was asked to stop are nobody's worker.
    """
    if attachment.stop.lost is not None:
        return attachment.stop.lost
    if isinstance(error, WorkerLost):
        return error.reason
    return str(error) if isinstance(error, DiskError) else None


class WorkersTried:
    """Which workers failed one VM, why, and which of them may try again.

    A worker gets its second chance only when no other is left: a read error or a loss of power may
    have been a matter of the moment.
    """

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}
        """Out for now, with the reason."""
        self._failed_once: set[str] = set()
        self._had_second: set[str] = set()

    def failed_in_transfer(self, worker: str, why: str) -> None:
        """The worker failed while it moved the disks."""
        self.failed[worker] = why
        (self._had_second if worker in self._failed_once else self._failed_once).add(worker)

    def allow_second_chance(self) -> list[str]:
        """Let those try again that failed once; their names, none when there is nobody left."""
        names = sorted(self._failed_once - self._had_second)
        for name in names:
            self.failed.pop(name, None)
        return names
