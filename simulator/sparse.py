"""Sparse files: where their data lies, and copying them at the price of that data.

Extents are half-open byte ranges `(start, end)`, in lists that are sorted and do not touch or overlap.
Nothing here knows what a virtual disk is.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

KiB = 1024
MiB = 1024 * KiB
GiB = 1024 * MiB

Extent = tuple[int, int]

# From linux/fs.h: _IOW(0x94, 9, int). Other systems answer with an error and get a plain copy.
_FICLONE = 0x40049409
# From linux/falloc.h.
_KEEP_SIZE_AND_PUNCH_HOLE = 0x01 | 0x02
_COPY_STEP_BYTES = 4 * MiB


def merge(extents: Iterable[Extent]) -> list[Extent]:
    """Sort, drop what is empty, and join what touches or overlaps."""
    merged: list[Extent] = []
    for start, end in sorted(extents):
        if start >= end:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def align(extents: Iterable[Extent], block_bytes: int) -> list[Extent]:
    """Widen every extent to whole blocks; the last one may then end past the end of the disk."""
    return merge((s - s % block_bytes, e + -e % block_bytes) for s, e in extents if s < e)


def clip(extents: Iterable[Extent], start: int, end: int) -> list[Extent]:
    """The parts of sorted extents inside `[start, end)`."""
    return [(max(s, start), min(e, end)) for s, e in extents if s < end and e > start]


def gaps(extents: Iterable[Extent], start: int, end: int) -> list[Extent]:
    """What of `[start, end)` sorted extents leave out."""
    left, at = [], start
    for s, e in clip(extents, start, end):
        if s > at:
            left.append((at, s))
        at = e
    if at < end:
        left.append((at, end))
    return left


def data_extents(path: Path, start: int = 0, end: int | None = None) -> Iterator[Extent]:
    """Allocated ranges of a file within `[start, end)`, in order, found without reading data."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        stop = size if end is None else min(end, size)
        at = start
        while at < stop:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # no data from here on
                    return
                raise
            if at >= stop:
                return
            hole = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            yield at, min(hole, stop)
            at = hole


def create_sparse(path: Path, size_bytes: int) -> None:
    """Make a file of nothing but a hole. FileExistsError if there is one already."""
    with path.open("xb") as file:
        file.truncate(size_bytes)


def copy_sparse(source: Path, target: Path, size_bytes: int | None = None) -> None:
    """Copy a file, replacing the target: by reference where the file system can, else only its data.

    The copy is exactly `size_bytes` long (default: as long as the source): cut, or extended by a hole.
    Safe while nobody writes to the source.
    """
    with source.open("rb") as reader, target.open("wb") as writer:
        size = os.fstat(reader.fileno()).st_size
        wanted = size if size_bytes is None else size_bytes
        if not _cloned(reader.fileno(), writer.fileno()):
            writer.truncate(size)
            for start, end in data_extents(source, 0, min(size, wanted)):
                _copy_range(reader.fileno(), writer.fileno(), start, end)
        writer.truncate(wanted)


def punch(path: Path, start: int, end: int) -> None:
    """Give a range of a file back to the file system; it reads as zeros from then on."""
    with path.open("r+b") as file:
        libc = ctypes.CDLL(None, use_errno=True)
        result = libc.fallocate(
            file.fileno(),
            _KEEP_SIZE_AND_PUNCH_HOLE,
            ctypes.c_int64(start),
            ctypes.c_int64(end - start),
        )
        if result != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))


def differing_extents(old: Path, new: Path, block_bytes: int) -> list[Extent]:
    """Blocks in which two files differ in bytes or in being allocated; a longer tail differs.

    Costs what is allocated in either file, not their length.
    """
    old_size, new_size = old.stat().st_size, new.stat().st_size
    old_data, new_data = list(data_extents(old)), list(data_extents(new))
    shared = min(old_size, new_size)
    candidates = clip(align([*old_data, *new_data], block_bytes), 0, shared)
    different: list[Extent] = []
    with old.open("rb") as before, new.open("rb") as after:
        for start, end in candidates:
            for at in range(start, end, block_bytes):
                stop = min(at + block_bytes, end)
                length = stop - at
                if os.pread(before.fileno(), length, at) != os.pread(after.fileno(), length, at):
                    different.append((at, stop))
    # A block of zeros that was given back reads the same, yet its region type is another one.
    different += clip(_only_in_one(old_data, new_data, block_bytes), 0, shared)
    if new_size > old_size:
        different.append((old_size, new_size))
    return merge(different)


def _only_in_one(one: list[Extent], other: list[Extent], block_bytes: int) -> list[Extent]:
    first, second = align(one, block_bytes), align(other, block_bytes)
    end = max((e for _, e in [*first, *second]), default=0)
    only_first = [hole for s, e in first for hole in gaps(second, s, e)]
    only_second = [hole for s, e in second for hole in gaps(first, s, e)]
    return clip(merge([*only_first, *only_second]), 0, end)


def _cloned(source_fd: int, target_fd: int) -> bool:
    try:
        fcntl.ioctl(target_fd, _FICLONE, source_fd)
    except OSError:
        return False
    return True


def _copy_range(source_fd: int, target_fd: int, start: int, end: int) -> None:
    at = start
    while at < end:
        step = min(_COPY_STEP_BYTES, end - at)
        try:
            copied = os.copy_file_range(source_fd, target_fd, step, at, at)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise
            copied = os.pwrite(target_fd, os.pread(source_fd, step, at), at)
        if copied == 0:
            raise OSError(errno.EIO, "the source became shorter while it was copied")
        at += copied
