"""A realistic disk for the bench: a sparse ext4 file system over real files, and changes to it."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sysconfig
from pathlib import Path

from repository import Extent, ExtentKind, FileSource

MiB = 1024 * 1024
CHANGE_BYTES = 64 * 1024


def default_tree() -> Path:
    """Real files that every machine with this project has: its installed packages."""
    return Path(sysconfig.get_paths()["purelib"])


def make_disk(path: Path, size_bytes: int, tree: Path) -> None:
    """A sparse file of this size with an ext4 file system that holds the tree."""
    with path.open("wb") as file:
        file.truncate(size_bytes)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(path)], check=True)


def change_disk(old: Path, new: Path, share: float, seed: int = 1) -> list[Extent]:
    """A copy of the disk with this share of its data overwritten in 64 KiB pieces; the changes."""
    subprocess.run(["cp", "--sparse=always", str(old), str(new)], check=True)
    data = data_extents(old)
    count = max(1, int(sum(extent.length_bytes for extent in data) * share / CHANGE_BYTES))
    chooser = random.Random(seed)
    starts = set()
    while len(starts) < count:
        extent = chooser.choice(data)
        start = chooser.randrange(extent.start_bytes, extent.end_bytes)
        starts.add(start // CHANGE_BYTES * CHANGE_BYTES)
    text = b"".join(b"%d bytes of a log line\n" % number for number in range(CHANGE_BYTES // 20))
    with new.open("r+b") as file:
        for start in sorted(starts):
            file.seek(start)
            file.write(chooser.randbytes(CHANGE_BYTES // 2) + text[: CHANGE_BYTES // 2])
    return [Extent(start, start + CHANGE_BYTES) for start in sorted(starts)]


def data_extents(path: Path) -> list[Extent]:
    """The extents of the file that are not holes."""
    with FileSource(path) as source:
        return [extent for extent in source.extents() if extent.kind is ExtentKind.DATA]


def write_dense(disk: Path, dense: Path) -> int:
    """The disk's data extents one after the other, for zstd to work on; returns the bytes."""
    with disk.open("rb") as source, dense.open("wb") as target:
        for extent in data_extents(disk):
            source.seek(extent.start_bytes)
            left = extent.length_bytes
            while left:
                piece = source.read(min(8 * MiB, left))
                target.write(piece)
                left -= len(piece)
    return dense.stat().st_size


def same_content(left: Path, right: Path) -> bool:
    """Whether two files hold the same bytes."""
    return (
        subprocess.run(
            [shutil.which("cmp") or "cmp", "-s", os.fspath(left), os.fspath(right)], check=False
        ).returncode
        == 0
    )
