"""The temporary volume group that carries a VM's disks to a worker and away again (S5, N11)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import DisksUnexpected
from jobs.journal import Entry
from jobs.session import Session
from jobs.workers import WorkerChoice
from nutanix import (
    AttachedDisk,
    DeviceRoot,
    NutanixError,
    VmAttachment,
    VolumeDisk,
    VolumeDiskSource,
    open_attached_disks,
)
from repository import RepositoryError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Attachment:
    """A volume group whose disks a worker can open. Release it with `detach`."""

    entry: Entry
    volume_group_id: str
    disks: tuple[VolumeDisk, ...]
    choice: WorkerChoice
    place: VmAttachment

    @contextmanager
    def open_disk(
        self, index: int, *, stop: threading.Event, writable: bool = False
    ) -> Iterator[AttachedDisk]:
        """The device of one disk, open inside the block. Raises `DiskError`.

        All disks of the group are looked up together: the serials of the others help to rule a
        wrong device out.
        """
        with open_attached_disks(
            DeviceRoot(Path(self.choice.worker.device_root)),
            self.place,
            self.disks,
            writable=writable,
            timeout_s=self.choice.worker.disk_timeout_s,
            keep_waiting=lambda: not stop.is_set(),
        ) as opened:
            yield opened[index]


def attach(
    session: Session,
    *,
    name: str,
    purpose: str,
    vm_id: str,
    cluster_id: str,
    host_id: str | None,
    sources: Sequence[VolumeDiskSource],
    sizes_bytes: Sequence[int],
) -> Attachment:
    """Make a volume group of these disks and attach it to the best worker that can see them.

    The disks must come back at places 0, 1, ... in the order of `sources`, with `sizes_bytes`;
    anything else is `DisksUnexpected`, because a disk taken for another would be a wrong backup.

    A worker that cannot take it is told in the log and passed by (W2); `NoWorker` when none is
    left. On any failure nothing of it stays on the cluster, or it stays in the journal.
    """
    entry = session.journal.intend("volume-group", name, vm_id)
    group_id = session.client.create_volume_group(
        name=name, cluster_id=cluster_id, disks=sources, request_id=entry.request_id
    )
    entry = session.journal.created(entry, group_id)
    try:
        disks = session.client.volume_disks(group_id)
        _require_sizes(name, disks, sizes_bytes)
        return _attach_somewhere(session, entry, disks, purpose, cluster_id, host_id)
    except BaseException:
        remove_volume_group(session, entry)
        raise


def detach(session: Session, attachment: Attachment) -> str | None:
    """Detach and delete the volume group and free the worker's slot.

    Never raises on the cluster's trouble: the data is safe by then. Returns what stayed behind, in
    words; the journal still names it, so that the reconciler removes it later.
    """
    left = remove_volume_group(session, attachment.entry)
    session.workers.give_back(attachment.choice)
    return left


def remove_volume_group(session: Session, entry: Entry) -> str | None:
    """Detach and delete one of our volume groups; what stayed behind in words, or `None`."""
    try:
        session.client.delete_volume_group(str(entry.object_id))
        session.journal.forget(entry)
    except (NutanixError, RepositoryError) as error:
        log.warning("Volume group %s stays on the cluster for now: %s", entry.name, error)
        return (
            f"volume group {entry.name} could not be removed and is left to the next run: {error}"
        )
    return None


def _require_sizes(name: str, disks: Sequence[VolumeDisk], sizes_bytes: Sequence[int]) -> None:
    places = [disk.index for disk in disks]
    found = [disk.size_bytes for disk in disks]
    if places != list(range(len(sizes_bytes))) or found != list(sizes_bytes):
        raise DisksUnexpected(name, sizes_bytes, found)


def _attach_somewhere(
    session: Session,
    entry: Entry,
    disks: Sequence[VolumeDisk],
    purpose: str,
    cluster_id: str,
    host_id: str | None,
) -> Attachment:
    failed: dict[str, str] = {}
    while True:
        choice = session.workers.take(
            purpose=purpose,
            cluster_id=cluster_id,
            host_id=host_id,
            failed=failed,
            stop=session.stop,
        )
        try:
            session.raise_if_stopped()
            return _attach_to(session, entry, disks, choice)
        except NutanixError as error:
            session.workers.give_back(choice)
            failed[choice.worker.name] = str(error)
            log.warning("Worker %s cannot take %s: %s", choice.worker.name, entry.name, error)
        except BaseException:
            session.workers.give_back(choice)
            raise


def _attach_to(
    session: Session, entry: Entry, disks: Sequence[VolumeDisk], choice: WorkerChoice
) -> Attachment:
    group_id = str(entry.object_id)
    place = session.client.attach_volume_group(group_id, choice.worker.vm_id)
    attachment = Attachment(entry, group_id, tuple(disks), choice, place)
    try:
        with attachment.open_disk(disks[0].index, stop=session.stop):
            pass  # Seen once by the worker: from here on a missing device is trouble, not waiting.
    except NutanixError:
        session.client.detach_volume_group(group_id, choice.worker.vm_id)
        raise
    return attachment
