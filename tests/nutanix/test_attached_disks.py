"""Finding the device behind an attached disk, refusing a doubtful one, reading and writing it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from nutanix import (
    AttachedDisk,
    DeviceMismatch,
    DeviceNotFound,
    DeviceRoot,
    DiskIoError,
    VmAttachment,
    VolumeDisk,
    device_io,
    open_attached_disks,
)

SIZE = 1 << 20
DISK = VolumeDisk(id="aaaaaaaa-0000-1111-2222-333333333333", index=1, size_bytes=SIZE)
OTHER = VolumeDisk(id="bbbbbbbb-0000-1111-2222-333333333333", index=2, size_bytes=SIZE)
PLACE = VmAttachment(volume_group_id="g", vm_id="w", index=3)


class Worker:
    """A device directory as udev lays it out."""

    def __init__(self, path):
        self.path = path
        self.root = DeviceRoot(path)
        for kind in ("by-path", "by-id"):
            (path / "disk" / kind).mkdir(parents=True)

    def plug(self, name, *, target=3, lun=1, size_bytes=SIZE, controller="05", serial=None):
        device = self.path / name
        device.write_bytes(b"")
        os.truncate(device, size_bytes)
        link = f"pci-0000:00:{controller}.0-scsi-0:0:{target}:{lun}"
        (self.path / "disk/by-path" / link).symlink_to(f"../../{name}")
        (self.path / "disk/by-path" / f"{link}-part1").symlink_to(f"../../{name}1")
        if serial:
            by_id = f"scsi-SNUTANIX_NFS_3_0_1_{serial.replace('-', '_')}"
            (self.path / "disk/by-id" / by_id).symlink_to(f"../../{name}")
        return device

    def open(self, clock, disks=(DISK,), **options):
        return open_attached_disks(self.root, PLACE, disks, clock=clock, **options)


@pytest.fixture
def worker(tmp_path):
    return Worker(tmp_path)


def test_a_disk_is_found_by_its_scsi_address(worker, clock):
    """Target is the attachment's index, LUN the disk's; partitions and neighbours do not confuse."""
    worker.plug("sda", target=0, lun=1)
    device = worker.plug("sdb")
    worker.plug("sdc", lun=2)
    with worker.open(clock, [DISK, OTHER]) as disks:
        assert disks[1].device == device
        assert disks[1].size_bytes == SIZE
        assert disks[2].device.name == "sdc"
    assert clock.elapsed_s == 0


def test_hot_plug_is_waited_for(worker, clock):
    """The device appears while we wait; until then nothing is opened."""
    clock_sleep = clock.sleep

    def appear(duration_s):
        clock_sleep(duration_s)
        if clock.elapsed_s > 5 and not (worker.path / "sdb").exists():
            worker.plug("sdb")

    clock.sleep = appear
    with worker.open(clock) as disks:
        assert list(disks) == [1]
    assert 5 < clock.elapsed_s < 6


def test_a_disk_that_never_appears(worker, clock):
    """The wait ends at its deadline, and the error says where was looked and what to check."""
    with (
        pytest.raises(DeviceNotFound, match=r"scsi-0:0:3:1.*this machine the worker") as caught,
        worker.open(clock, timeout_s=30),
    ):
        pass
    assert caught.value.is_transient
    assert 30 <= clock.elapsed_s < 31


def test_waiting_can_be_stopped(worker, clock):
    """A session that is told to stop does not sit out the hot-plug deadline."""
    with pytest.raises(DeviceNotFound), worker.open(clock, keep_waiting=lambda: False):
        pass
    assert clock.elapsed_s == 0


def test_a_device_of_another_size_is_refused(worker, clock):
    """Another size is another disk: nothing of it is read."""
    worker.plug("sdb", size_bytes=SIZE // 2)
    words = f"{SIZE // 2} bytes, but the disk has {SIZE}"
    with pytest.raises(DeviceMismatch, match=words), worker.open(clock, timeout_s=3):
        pass


def test_the_kernel_may_learn_the_size_later(worker, clock):
    """A wrong size counts as not yet there until the deadline."""
    device = worker.plug("sdb", size_bytes=0)
    clock_sleep = clock.sleep

    def grow(duration_s):
        clock_sleep(duration_s)
        os.truncate(device, SIZE)

    clock.sleep = grow
    with worker.open(clock) as disks:
        assert disks[1].size_bytes == SIZE


def test_two_devices_that_fit_are_refused(worker, clock):
    """The same address on two controllers and the same size: no guess is made."""
    worker.plug("sdb", controller="05")
    worker.plug("sdc", controller="06")
    with pytest.raises(DeviceMismatch, match="several devices fit"), worker.open(clock):
        pass


def test_a_serial_settles_it(worker, clock):
    """Of two devices that fit, the one with this disk's serial is it."""
    worker.plug("sdb", controller="05")
    device = worker.plug("sdc", controller="06", serial=DISK.id)
    with worker.open(clock) as disks:
        assert disks[1].device == device


def test_a_serial_of_another_disk_of_the_group_is_refused(worker, clock):
    """The address says this disk, the serial says its neighbour: refuse, never read the wrong one."""
    worker.plug("sdb", serial=OTHER.id)
    worker.plug("sdc", lun=2)
    with (
        pytest.raises(DeviceMismatch, match="serial is that of another"),
        worker.open(clock, [DISK, OTHER]),
    ):
        pass


def test_an_unknown_serial_proves_nothing(worker, clock):
    """The serial may name the cluster's inner disk, which the API does not show."""
    worker.plug("sdb", serial="cccccccc-0000-1111-2222-333333333333")
    with worker.open(clock) as disks:
        assert len(disks) == 1


def test_an_attachment_without_index_is_refused(worker, clock):
    """Without its place on the bus a disk cannot be told from others."""
    place = VmAttachment(volume_group_id="g", vm_id="w", index=None)
    opening = open_attached_disks(worker.root, place, [DISK], clock=clock)
    with pytest.raises(DeviceMismatch, match="does not say at which index"), opening:
        pass


def test_disks_opened_before_a_failure_are_closed(worker, clock):
    """When the second disk does not come, the first is not left open."""
    worker.plug("sdb")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(DeviceNotFound), worker.open(clock, [DISK, OTHER], timeout_s=1):
        pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "sdx"
    path.write_bytes(os.urandom(SIZE))
    with AttachedDisk("1 (x)", path, writable=True) as opened:
        yield opened


def test_reads_fill_the_buffer(disk):
    """Any offset and length inside the disk gives exactly its bytes."""
    content = disk.device.read_bytes()
    for offset, length in ((0, 10), (777, 4096), (SIZE - 5, 5), (0, SIZE), (3, 0)):
        buffer = bytearray(length)
        disk.read_into(offset, buffer)
        assert bytes(buffer) == content[offset : offset + length]


def test_short_reads_go_on(disk, monkeypatch):
    """The kernel may give less than asked; the buffer is filled all the same."""
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: real(fd, [views[0][:1000]], at))
    buffer = bytearray(4096)
    disk.read_into(100, buffer)
    assert bytes(buffer) == disk.device.read_bytes()[100:4196]


def test_a_read_past_the_end_raises(disk):
    """A buffer that cannot be filled is an error that names disk, device and offset."""
    with pytest.raises(DiskIoError, match=rf"read disk 1 \(x\).*sdx.*byte {SIZE}") as caught:
        disk.read_into(SIZE - 10, bytearray(20))
    assert caught.value.offset_bytes == SIZE
    assert caught.value.is_transient


def test_reads_from_many_threads(disk):
    """One open disk serves many threads at once."""
    content, wrong = disk.device.read_bytes(), []

    def read(start):
        buffer = bytearray(1024)
        for offset in range(start, SIZE - 1024, 8192):
            disk.read_into(offset, buffer)
            if bytes(buffer) != content[offset : offset + 1024]:
                wrong.append(offset)

    threads = [threading.Thread(target=read, args=(place * 1024,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("punches", [True, False])
def test_writes_and_zeros(disk, monkeypatch, punches):
    """Written bytes and zeros are there afterwards, the rest is untouched, with and without holes."""
    if not punches:
        monkeypatch.setattr("nutanix.attached_disks.punch_hole", lambda *place: False)
    expected = bytearray(disk.device.read_bytes())
    disk.write_at(5000, memoryview(b"hello"))
    expected[5000:5005] = b"hello"
    disk.write_zeros(70_001, 200_000)
    expected[70_001:270_001] = bytes(200_000)
    disk.flush()
    assert disk.device.read_bytes() == bytes(expected)


def test_writes_stay_inside_the_disk(disk):
    """A write past the end is refused before a byte is written: a file would silently grow."""
    for refuse in (
        lambda: disk.write_at(SIZE - 2, b"four"),
        lambda: disk.write_zeros(SIZE - 2, 4),
        lambda: disk.write_at(-1, b"x"),
    ):
        with pytest.raises(DiskIoError, match="the disk ends at"):
            refuse()
    assert disk.device.stat().st_size == SIZE


def test_zeros_give_space_back(disk):
    """A zeroed range of a file takes no room afterwards."""
    before = disk.device.stat().st_blocks
    disk.write_zeros(0, SIZE // 2)
    assert disk.device.stat().st_blocks < before


def test_buffers_of_wider_items_count_in_bytes(disk):
    """A buffer of 64-bit items is filled by its bytes, not by its number of items."""
    buffer = memoryview(bytearray(64)).cast("Q")
    disk.read_into(8, buffer)
    assert bytes(buffer) == disk.device.read_bytes()[8:72]
    disk.write_at(0, buffer)
    assert disk.device.read_bytes()[:64] == bytes(buffer)


def test_something_that_is_no_disk(tmp_path):
    """A pipe at the disk's place is refused with its name, and not left open."""
    os.mkfifo(tmp_path / "sdx")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(DiskIoError, match="open disk 7"):
        AttachedDisk("7", tmp_path / "sdx", writable=True)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_failing_to_punch_is_told_with_its_place(disk, monkeypatch):
    """An I/O error while zeroing names disk and offset; it is not taken for "not supported"."""

    def fail(*place):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("nutanix.attached_disks.punch_hole", fail)
    with pytest.raises(
        DiskIoError, match=r"write zeros to disk 1 .* byte 4096: Input/output error"
    ):
        disk.write_zeros(4096, 512)


def test_punch_hole_tells_failures_apart(tmp_path):
    """Not possible here is False; a bad descriptor is an error."""
    read_only, write_only = os.pipe()
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            device_io.punch_hole(read_only, 0, 10)
    finally:
        os.close(read_only)
        os.close(write_only)


def test_a_device_that_cannot_be_opened(tmp_path):
    """Missing rights or a missing device name the device and the reason."""
    with pytest.raises(DiskIoError, match=r"open disk 7.*No such file"):
        AttachedDisk("7", tmp_path / "absent")


def test_a_read_only_disk_cannot_be_written(worker, clock):
    """Backups open disks read-only, so that no bug can change a source."""
    worker.plug("sdb")
    with worker.open(clock) as disks, pytest.raises(DiskIoError, match="write"):
        disks[1].write_at(0, b"x")
