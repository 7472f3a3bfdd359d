"""The temporary volume group that carries a VM's disks to a worker and away again (S5, N11).

One group serves a VM from first to last. It is attached to one worker at a time; when that one
fails, the same group goes on to the next, so blank disks that are half filled keep what they hold.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pydantic import SecretStr

from jobs.disk_access import bring, take_away
from jobs.errors import DisksUnexpected, NoWorker
from jobs.journal import Entry
from jobs.session import Session
from jobs.stops import TransferStop
from jobs.workers import WorkerChoice
from nutanix import (
    DiskError,
    DiskPlace,
    NutanixError,
    OpenDisk,
    Opening,
    VolumeDisk,
    VolumeDiskSource,
)
from repository import RepositoryError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DiskGroup:
    """A volume group of ours with the disks of one VM, in their order. Remove it with `remove_group`."""

    entry: Entry
    id: str
    disks: tuple[VolumeDisk, ...]
    purpose: str
    """What it is for, as in "back up web01"."""
    cluster_id: str
    host_id: str | None
    """The host near which a worker is wanted, if any."""
    is_urgent: bool = False
    """Does not wait for a free slot (W5)."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A volume group whose disks a worker can open. Release it with `detach`."""

    group: DiskGroup
    choice: WorkerChoice
    place: DiskPlace
    stop: TransferStop
    chap_secret: SecretStr | None = None
    """What an iSCSI login may need; never stored with the rest."""
    disk_failed: threading.Event = field(default_factory=threading.Event)
    """Set once a disk could not be opened or read: the worker is to be left, and nothing is waited for."""

    @contextmanager
    def open_disk(self, index: int, *, writable: bool = False) -> Iterator[OpenDisk]:
        """One disk, open inside the block. Raises `DiskError`.

        All disks of the group are looked up together: the serials of the others help to rule a
        wrong device out.
        """
        opening = Opening(
            timeout_s=self.choice.worker.disk_timeout_s,
            writable=writable,
            keep_waiting=lambda: not (self.stop.is_set() or self.disk_failed.is_set()),
            chap_secret=self.chap_secret,
        )
        try:
            with self.place.open_disks(self.group.disks, opening) as opened:
                yield opened[index]
        except DiskError:
            self.disk_failed.set()
            raise


def make_group(
    session: Session,
    *,
    name: str,
    purpose: str,
    vm_id: str,
    cluster_id: str,
    host_id: str | None,
    sources: Sequence[VolumeDiskSource],
    sizes_bytes: Sequence[int],
    is_urgent: bool = False,
) -> DiskGroup:
    """Make a volume group of these disks; journalled before it is created.

    The disks must come back at places 0, 1, ... in the order of `sources`, with `sizes_bytes`;
    anything else is `DisksUnexpected`, because a disk taken for another would be a wrong backup.
    On any failure nothing of it stays on the cluster, or it stays in the journal.
    """
    entry = session.journal.intend("volume-group", name, vm_id, content=repr(sources))
    group_id = session.client.create_volume_group(
        name=name, cluster_id=cluster_id, disks=sources, request_id=entry.request_id
    )
    entry = session.journal.created(entry, group_id)
    try:
        disks = session.client.volume_disks(group_id)
        _require_sizes(name, disks, sizes_bytes)
    except BaseException:
        _remove(session, entry)
        raise
    return DiskGroup(entry, group_id, tuple(disks), purpose, cluster_id, host_id, is_urgent)


def attach(
    session: Session,
    group: DiskGroup,
    failed: dict[str, str],
    *,
    tell: Callable[[str], None] = log.info,
) -> Attachment:
    """Attach the group to the best worker that can see its disks (W1-W7).

    `failed` names workers that are out for this group, with the reason; one that cannot take it
    now is told in the log, added there, and passed by (W2). `tell` hears of a wait for a free slot.
    `NoWorker` when none is left.
    """
    while True:
        choice = session.workers.take(
            purpose=group.purpose,
            cluster_id=group.cluster_id,
            host_id=group.host_id,
            failed=failed,
            stop=session.stop,
            tell=tell,
            is_urgent=group.is_urgent,
        )
        try:
            session.raise_if_stopped()
            return _attach_to(session, group, choice)
        except (NutanixError, NoWorker) as error:
            session.workers.give_back(choice)
            failed[choice.worker.name] = str(error)
            log.warning("Worker %s cannot take %s: %s", choice.worker.name, group.entry.name, error)
        except BaseException:
            session.workers.give_back(choice)
            raise


def detach(session: Session, attachment: Attachment) -> None:
    """Take the group away from the worker and free its slot, also when the cluster refuses.

    From here on no write of this worker reaches the disks. Raises `NutanixError` when that is not
    sure; the group must then not be used by another worker.
    """
    attachment.stop.set()
    try:
        take_away(session.client, attachment.group.id, attachment.place)
    finally:
        session.workers.give_back(attachment.choice, attachment.stop)


def remove_group(session: Session, group: DiskGroup) -> str | None:
    """Detach and delete one of our volume groups; what stayed behind in words, or `None`.

    Never raises on the cluster's trouble: the data is safe by then. The journal still names what
    stayed, so that the reconciler removes it later.
    """
    return _remove(session, group.entry)


def _remove(session: Session, entry: Entry) -> str | None:
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


def _attach_to(session: Session, group: DiskGroup, choice: WorkerChoice) -> Attachment:
    session.workers.wake(choice)
    place = bring(session.client, group.id, group.cluster_id, choice.worker)
    secret = session.client.connection.chap_secret
    attachment = Attachment(group, choice, place, TransferStop(session.stop), secret)
    try:
        if choice.worker.queue is None:
            with attachment.open_disk(group.disks[0].index):
                pass  # Seen once by the worker: from here on a missing device is trouble, not waiting.
    except NutanixError:
        take_away(session.client, group.id, place)
        raise
    session.workers.guard(choice, attachment.stop)
    return attachment
