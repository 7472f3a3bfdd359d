"""The kernel's initiator through `iscsiadm`: which devices are which disks, and what its refusals mean."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from nutanix import DeviceMismatch, DeviceNotFound, DeviceRoot, VolumeDisk
from nutanix.attached_disks import open_kernel_disks
from nutanix.errors import InitiatorFailed, TargetRefused
from nutanix.kernel_initiator import KernelInitiator, Portal, initiator_name, why_unusable

TARGET = "iqn.2010-06.com.nutanix:ahvault-0006555e-0000-0000-185b-000000000001"
OURS = re.compile(re.escape(TARGET) + r"(-tgt\d+)?")
DISKS = [
    VolumeDisk(id=f"0006555e-0000-0000-185b-0000000000a{place}", index=place, size_bytes=4096)
    for place in (0, 1)
]


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Make `iscsiadm` a shell script with this body; returns a function that reads the calls made to it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    calls = tmp_path / "calls"

    def write(body):
        script = folder / "iscsiadm"
        script.write_text(f'#!/bin/sh\necho "$*" >> {calls}\ncase "$*" in\n{body}\nesac\n')
        script.chmod(0o755)
        return lambda: calls.read_text().splitlines()

    return write


FOUND = f'*discovery*) echo "192.0.2.9:3260,1 {TARGET}";;'
PORTAL = Portal("192.0.2.9", 3260)


def test_the_last_user_logs_out(program):
    """Two users of one target at once: one session begins, and it ends when the second leaves."""
    calls = program(f"{FOUND}\n*session*) exit 21;;")
    initiator, inside = KernelInitiator(), threading.Barrier(2)

    def use():
        with initiator.logged_in(PORTAL, OURS) as targets:
            assert targets == [TARGET]
            inside.wait(20)

    users = [threading.Thread(target=use) for _ in range(2)]
    for user in users:
        user.start()
    for user in users:
        user.join(60)
    words = [line.split()[-1] for line in calls()]
    assert words.count("--logout") == 1
    assert calls()[-1].endswith("-o delete")


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ("*discovery*) exit 21;;\n*session*) exit 21;;", TargetRefused, "does not show it"),
        (f"{FOUND}\n*session*) exit 21;;\n*--login*) exit 24;;", InitiatorFailed, "iscsid.conf"),
        ("*) echo 'iscsid is not running' >&2; exit 20;;", InitiatorFailed, "iscsid is not running"),
        ("*) exit 99;;", InitiatorFailed, "code 99: it says no more"),
    ],
)  # fmt: skip
def test_refusals_are_told_in_words(program, body, kind, words):
    """Exit codes of iscsiadm become one sentence with what to do; an unknown one is quoted."""
    program(body)
    with pytest.raises(kind, match=words), KernelInitiator().logged_in(PORTAL, OURS):
        pass


def test_a_machine_without_the_program(tmp_path, monkeypatch):
    """No iscsiadm, no name file: said before anything is attached."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "install open-iscsi" in why_unusable()
    monkeypatch.setattr("nutanix.kernel_initiator.NAME_FILE", tmp_path / "none")
    with pytest.raises(InitiatorFailed, match="cannot be read"):
        initiator_name()
    (tmp_path / "none").write_text("# nothing\n")
    with pytest.raises(InitiatorFailed, match="no line InitiatorName"):
        initiator_name()
    (tmp_path / "none").write_text("# x\nInitiatorName=iqn.1993-08.org.debian:01:a\n")
    assert initiator_name() == "iqn.1993-08.org.debian:01:a"


class Devices:
    """A directory laid out as `/dev` after logins."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for kind in ("by-path", "by-id"):
            (root / "disk" / kind).mkdir(parents=True)

    def add(self, name: str, target: str, lun: int, *, size: int = 4096, serial: str = "") -> None:
        (self.root / name).write_bytes(name.encode().ljust(size, b"\0"))
        link = f"ip-192.0.2.9:3260-iscsi-{target}-lun-{lun}"
        (self.root / "disk/by-path" / link).symlink_to(f"../../{name}")
        (self.root / "disk/by-path" / f"{link}-part1").symlink_to(f"../../{name}")
        if serial:
            (self.root / "disk/by-id" / f"scsi-{serial}").symlink_to(f"../../{name}")


@pytest.fixture
def devices(tmp_path):
    return Devices(tmp_path / "dev")


def first_bytes(devices, targets, **options):
    root = DeviceRoot(devices.root)
    with open_kernel_disks(root, targets, DISKS, timeout_s=0.1, **options) as opened:
        found = {}
        for index, disk in opened.items():
            buffer = bytearray(3)
            disk.read_into(0, buffer)
            found[index] = buffer.decode()
        return found


def test_in_one_target_the_unit_is_the_index(devices):
    """The other target of the machine, and partitions, are not looked at."""
    devices.add("sdb", TARGET, 0)
    devices.add("sdc", TARGET, 1)
    devices.add("sdd", f"{TARGET}-other", 0)
    assert first_bytes(devices, [TARGET]) == {0: "sdb", 1: "sdc"}


def test_behind_targets_of_their_own_serials_tell_disks_apart(devices):
    """Each disk is unit 0 of its own virtual target: the serial decides, whatever the order."""
    targets = [f"{TARGET}-tgt0", f"{TARGET}-tgt1"]
    devices.add("sdb", targets[0], 0, serial=DISKS[1].id)
    devices.add("sdc", targets[1], 0, serial=DISKS[0].id)
    assert first_bytes(devices, targets) == {0: "sdc", 1: "sdb"}


def test_without_serials_several_that_fit_are_refused(devices):
    """Two disks of one size behind virtual targets without a serial: none is sure, so none is used."""
    targets = [f"{TARGET}-tgt0", f"{TARGET}-tgt1"]
    for name, target in zip(("sdb", "sdc"), targets, strict=True):
        devices.add(name, target, 0)
    with pytest.raises(DeviceMismatch, match="several devices fit"):
        first_bytes(devices, targets)


def test_a_device_that_never_appears(devices):
    """The place that was looked at stands in the error."""
    with pytest.raises(DeviceNotFound, match=r"by-path/ip-\*-iscsi-iqn.*-lun-0"):
        first_bytes(devices, [TARGET])
