"""What a running worker sees of the disks attached to it: a folder that stands for its `/dev`.

Names are those that Linux gives: the lowest free `sdX`, `disk/by-path` with SCSI index and LUN, and
`disk/by-id` with the serial that AHV puts on vdisks (nutanix-v4 §12, §16). The devices are hard links to the live files of the
disks, so a write through one is a write to the disk.
"""

from __future__ import annotations

import os
import shutil
import string
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class AttachedDisk:
    """One disk as the worker's SCSI bus shows it."""

    vdisk_id: str
    target: int
    lun: int
    live_path: Path


def serial_of(vdisk_id: str) -> str:
    """The name that the hypervisor gives a vdisk."""
    return f"NFS_3_0_389_{vdisk_id.replace('-', '_')}"


def _letters() -> Iterable[str]:
    yield from string.ascii_lowercase
    for first in string.ascii_lowercase:
        for second in string.ascii_lowercase:
            yield first + second


class DeviceFolders:
    """The device folders of all workers. Thread-safe; a folder belongs to nobody else."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._names: dict[str, dict[str, str]] = {}

    def folder(self, name: str) -> Path:
        """The folder that stands for `/dev` of the worker with this name."""
        return self._root / name

    def prepare(self, names: Iterable[str]) -> None:
        """Begin with empty folders, whatever an earlier run left."""
        for name in names:
            shutil.rmtree(self.folder(name), ignore_errors=True)
            self.folder(name).mkdir(parents=True)

    def show(self, name: str, disks: Iterable[AttachedDisk]) -> None:
        """Make a folder show exactly these disks; those that stay keep their names."""
        wanted = {disk.vdisk_id: disk for disk in disks}
        with self._lock:
            names = self._names.setdefault(name, {})
            for vdisk_id in [v for v in names if v not in wanted]:
                self._remove(self.folder(name), names.pop(vdisk_id))
            for disk in wanted.values():
                if disk.vdisk_id not in names:
                    names[disk.vdisk_id] = self._free_name(names)
                    self._add(self.folder(name), names[disk.vdisk_id], disk)

    @staticmethod
    def _free_name(names: Mapping[str, str]) -> str:
        taken = set(names.values())
        return next(f"sd{letters}" for letters in _letters() if f"sd{letters}" not in taken)

    @staticmethod
    def _add(folder: Path, device: str, disk: AttachedDisk) -> None:
        os.link(disk.live_path, folder / device)
        links = {
            "by-path": f"pci-0000:00:05.0-scsi-0:0:{disk.target}:{disk.lun}",
            "by-id": f"scsi-SNUTANIX_{serial_of(disk.vdisk_id)}",
        }
        for kind, link in links.items():
            parent = folder / "disk" / kind
            parent.mkdir(parents=True, exist_ok=True)
            # A link left by a disk that used this address before would point at nothing.
            (parent / link).unlink(missing_ok=True)
            (parent / link).symlink_to(Path("../..") / device)

    @staticmethod
    def _remove(folder: Path, device: str) -> None:
        for link in folder.glob("disk/*/*"):
            if link.readlink().name == device:
                link.unlink()
        (folder / device).unlink(missing_ok=True)
