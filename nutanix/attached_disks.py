"""The disks of an attached volume group as devices of this machine: found, checked, read, written.

The API does not say how a disk is called inside the worker (`nutanix-v4 §16`). A disk sits at the
attachment's SCSI target and its own index as LUN, which udev shows under `disk/by-path`; size and,
where udev knows it, the serial under `disk/by-id` are checked before a byte is believed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from nutanix.clock import Clock, SystemClock
from nutanix.device_io import punch_hole
from nutanix.errors import DeviceMismatch, DeviceNotFound, DiskError, DiskIoError
from nutanix.models.volume_groups import VmAttachment, VolumeDisk

HOT_PLUG_TIMEOUT_S = 60.0
HOT_PLUG_POLL_S = 0.2
ZEROS = bytes(1024 * 1024)
_UUID = re.compile(r"[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class DeviceRoot:
    """A directory laid out as Linux lays out `/dev`. Devices may be block devices or regular files."""

    path: Path = Path("/dev")

    def at_address(self, target: int, lun: int) -> list[Path]:
        """The devices at a SCSI address, on any controller; links resolved, each once."""
        links = self._links("by-path", f"*-scsi-0:0:{target}:{lun}")
        return sorted({link.resolve() for link in links if link.exists()})

    def of_target(self, target: str, lun: int | None) -> list[Path]:
        """The devices of an iSCSI target, of one unit or of all; links resolved, each once."""
        links = self._links("by-path", f"ip-*-iscsi-{target}-lun-{'*' if lun is None else lun}")
        # A partition's link goes on behind the number.
        whole = [link for link in links if link.name.rpartition("-")[2].isdigit()]
        return sorted({link.resolve() for link in whole if link.exists()})

    def serial_ids(self, device: Path) -> frozenset[str]:
        """The UUIDs in the names udev knows a device by, in their usual writing."""
        names = (link.name for link in self._links("by-id", "*") if link.resolve() == device)
        found = (match for name in names for match in _UUID.findall(name.lower()))
        return frozenset(each.replace("_", "-") for each in found)

    def _links(self, kind: str, pattern: str) -> list[Path]:
        try:
            return list((self.path / "disk" / kind).glob(pattern))
        except OSError:
            return []  # udev rewrites these directories while disks come and go.


class AttachedDisk:
    """One open disk. Reads and writes may run from many threads at once; `close` must be the last.

    Data is durable after `flush`. Errors are `DiskIoError` with disk, offset and device.
    """

    def __init__(self, label: str, device: Path, *, writable: bool = False) -> None:
        self.label, self.device = label, device
        self._fd = _open(label, device, os.O_RDWR if writable else os.O_RDONLY)
        try:
            self.size_bytes = os.lseek(self._fd, 0, os.SEEK_END)
            # Twice the read-ahead: a cold loop device in 1 MiB steps is read two to three times as fast.
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        except OSError as error:
            self.close()
            raise self._failed("open", 0, error) from error

    def read_into(self, offset_bytes: int, buffer: bytearray | memoryview) -> None:
        """Fill the whole buffer from `offset_bytes`; short reads go on, the end of the disk raises."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view):
            position = offset_bytes + done
            try:
                count = os.preadv(self._fd, [view[done:]], position)
            except OSError as error:
                raise self._failed("read", position, error) from error
            if count == 0:
                raise self._failed("read", position, f"the disk ends at {self.size_bytes}")
            done += count

    def read_ahead(self, offset_bytes: int, length_bytes: int) -> None:
        """Let the system begin to read a range into its cache; a trouble with it shows when it is read."""
        with suppress(OSError):
            os.posix_fadvise(self._fd, offset_bytes, length_bytes, os.POSIX_FADV_WILLNEED)

    def write_at(self, offset_bytes: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data` at `offset_bytes`; nothing is written past the disk's end."""
        view = memoryview(data).cast("B")
        self._require_inside(offset_bytes, len(view))
        done = 0
        while done < len(view):
            position = offset_bytes + done
            try:
                done += os.pwrite(self._fd, view[done:], position)
            except OSError as error:
                raise self._failed("write", position, error) from error

    def write_zeros(self, offset_bytes: int, length_bytes: int) -> None:
        """Make a range read as zeros, without allocating it where the device can do that."""
        self._require_inside(offset_bytes, length_bytes)
        try:
            if length_bytes == 0 or punch_hole(self._fd, offset_bytes, length_bytes):
                return
        except OSError as error:
            raise self._failed("write zeros to", offset_bytes, error) from error
        for position in range(offset_bytes, offset_bytes + length_bytes, len(ZEROS)):
            left = offset_bytes + length_bytes - position
            self.write_at(position, memoryview(ZEROS)[: min(left, len(ZEROS))])

    def flush(self) -> None:
        """Return when everything written is durable."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise self._failed("flush", 0, error) from error

    def close(self) -> None:
        """Close the device; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _require_inside(self, offset_bytes: int, length_bytes: int) -> None:
        if offset_bytes < 0 or offset_bytes + length_bytes > self.size_bytes:
            raise self._failed("write", offset_bytes, f"the disk ends at {self.size_bytes}")

    def _failed(self, action: str, offset_bytes: int, reason: OSError | str) -> DiskIoError:
        told = reason if isinstance(reason, str) else reason.strerror or str(reason)
        return DiskIoError(action, self.label, self.device, offset_bytes, told)


@contextmanager
def open_attached_disks(
    root: DeviceRoot,
    attachment: VmAttachment,
    disks: Sequence[VolumeDisk],
    *,
    writable: bool = False,
    timeout_s: float = HOT_PLUG_TIMEOUT_S,
    clock: Clock | None = None,
    keep_waiting: Callable[[], bool] = lambda: True,
) -> Iterator[dict[int, AttachedDisk]]:
    """The disks of an attached volume group, open, by disk index; closed at the end of the `with`.

    Waits for hot-plug up to `timeout_s` over all disks, or until `keep_waiting` says no. Raises
    `DeviceNotFound`, or `DeviceMismatch` when a device is not surely the disk: reading the wrong
    disk would be a wrong backup, writing it a catastrophe.
    """
    index = attachment.index
    if index is None:
        reason = "the cluster does not say at which index it is attached"
        raise DeviceMismatch("of the group", [], reason)
    search = _Search(
        root=root,
        candidates=lambda disk: root.at_address(index, disk.index),
        looked_for=lambda disk: f"disk/by-path/*-scsi-0:0:{index}:{disk.index}",
        group_disk_ids=frozenset(disk.id.lower() for disk in disks),
        clock=clock or SystemClock(),
        timeout_s=timeout_s,
        keep_waiting=keep_waiting,
    )
    with search.opened(disks, writable=writable) as opened:
        yield opened


@contextmanager
def open_kernel_disks(
    root: DeviceRoot,
    targets: Sequence[str],
    disks: Sequence[VolumeDisk],
    *,
    writable: bool = False,
    timeout_s: float = HOT_PLUG_TIMEOUT_S,
    clock: Clock | None = None,
    keep_waiting: Callable[[], bool] = lambda: True,
) -> Iterator[dict[int, AttachedDisk]]:
    """The same for disks that the kernel's iSCSI initiator has logged in to.

    In one target a disk's unit number is its index; where each disk has a target of its own
    (`nutanix-v4 §16`), serial and size must tell them apart.
    """

    def candidates(disk: VolumeDisk) -> list[Path]:
        lun = disk.index if len(targets) == 1 else None
        return [device for target in targets for device in root.of_target(target, lun)]

    search = _Search(
        root=root,
        candidates=candidates,
        looked_for=lambda disk: f"disk/by-path/ip-*-iscsi-{targets[0]}-lun-{disk.index}",
        group_disk_ids=frozenset(disk.id.lower() for disk in disks),
        clock=clock or SystemClock(),
        timeout_s=timeout_s,
        keep_waiting=keep_waiting,
    )
    with search.opened(disks, writable=writable) as opened:
        yield opened


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """Looking for the devices of one attached volume group."""

    root: DeviceRoot
    candidates: Callable[[VolumeDisk], list[Path]]
    """The devices at the place of a disk."""
    looked_for: Callable[[VolumeDisk], str]
    """That place, for messages."""
    group_disk_ids: frozenset[str]
    clock: Clock
    timeout_s: float
    keep_waiting: Callable[[], bool]

    @contextmanager
    def opened(
        self, disks: Sequence[VolumeDisk], *, writable: bool
    ) -> Iterator[dict[int, AttachedDisk]]:
        """Each disk open, by index, its size checked once more on the open device."""
        with ExitStack() as stack:
            found = {}
            for disk, device in self.wait_for(disks):
                attached = AttachedDisk(_label(disk), device, writable=writable)
                found[disk.index] = stack.enter_context(attached)
                if attached.size_bytes != disk.size_bytes:
                    raise _wrong_size(disk, device, attached.size_bytes)
            yield found

    def wait_for(self, disks: Sequence[VolumeDisk]) -> Iterator[tuple[VolumeDisk, Path]]:
        """Each disk with its device, as soon as it is there; one deadline for all."""
        deadline_s = self.clock.monotonic_s() + self.timeout_s
        for disk in disks:
            while (device := self._find(disk)) is None:
                if self.clock.monotonic_s() >= deadline_s or not self.keep_waiting():
                    raise self._nothing_fits(disk)
                self.clock.sleep(HOT_PLUG_POLL_S)
            yield disk, device

    def _find(self, disk: VolumeDisk) -> Path | None:
        """The one device that is this disk, or `None` while it is not there in its right size.

        A device may be seen before the kernel knows its size, so another size means "not yet".
        """
        sizes = self._sizes_at(disk)
        fitting = [device for device, size in sizes.items() if size == disk.size_bytes]
        fitting = self._narrowed(fitting, disk)
        if len(fitting) > 1:
            raise DeviceMismatch(_label(disk), fitting, "several devices fit, so none is sure")
        return fitting[0] if fitting else None

    def _sizes_at(self, disk: VolumeDisk) -> dict[Path, int]:
        return {device: _size_of(device) for device in self.candidates(disk)}

    def _narrowed(self, devices: list[Path], disk: VolumeDisk) -> list[Path]:
        """Use the serials: this disk's own settles it, another disk's of the group rules it out.

        A serial may also name something the API does not show us; that proves nothing either way.
        """
        own = disk.id.lower()
        serials = {device: self.root.serial_ids(device) for device in devices}
        confirmed = [device for device in devices if own in serials[device]]
        if confirmed:
            return confirmed
        others = self.group_disk_ids - {own}
        left = [device for device in devices if not serials[device] & others]
        if devices and not left:
            reason = "its serial is that of another disk of the group"
            raise DeviceMismatch(_label(disk), devices, reason)
        return left

    def _nothing_fits(self, disk: VolumeDisk) -> DiskError:
        for device, size_bytes in self._sizes_at(disk).items():
            return _wrong_size(disk, device, size_bytes)
        return DeviceNotFound(
            _label(disk), self.root.path, looked_for=self.looked_for(disk), timeout_s=self.timeout_s
        )


def _label(disk: VolumeDisk) -> str:
    return f"{disk.index} ({disk.id})"


def _wrong_size(disk: VolumeDisk, device: Path, size_bytes: int) -> DeviceMismatch:
    reason = f"it has {size_bytes} bytes, but the disk has {disk.size_bytes}"
    return DeviceMismatch(_label(disk), [device], reason)


def _size_of(device: Path) -> int:
    """Size in bytes of a file or block device; -1 while it cannot be opened."""
    try:
        descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)


def _open(label: str, device: Path, flags: int) -> int:
    try:
        return os.open(device, flags | os.O_CLOEXEC)
    except OSError as error:
        raise DiskIoError("open", label, device, 0, error.strerror or str(error)) from error
