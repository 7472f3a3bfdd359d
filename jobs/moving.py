"""When a worker fails under a transfer: what counts as its failure, and what stays to be moved."""

from __future__ import annotations

from jobs.volumes import Attachment
from nutanix import DiskError


def worker_failure(error: BaseException, attachment: Attachment) -> str | None:
    """Why the transfer's end is the worker's doing, or `None` when another worker would not help.

    The worker is to blame for a disk that it lost or misreads, and for whatever ended because it
    was lost itself. A store that fails and a run that was asked to stop are nobody's worker.
    """
    if attachment.stop.lost is not None:
        return attachment.stop.lost
    return str(error) if isinstance(error, DiskError) else None
