"""Plain files as disks: a raw image to read, a sparse file to restore or export into."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from repository.buffers import page_buffer
from repository.errors import InvalidInput
from repository.extents import Extent, ExtentKind
from repository.past_cache import PastCache
from repository.ports import Buffer
from repository.units import MiB

_ZEROS = page_buffer(MiB).toreadonly()


class _OpenFile:
    """A file descriptor that is closed once, and only after the last use."""

    def __init__(self, path: Path, flags: int, mode: int = 0o600) -> None:
        self.path = path
        self._descriptor = os.open(path, flags, mode)
        self._closing = threading.Lock()

    def close(self) -> None:
        with self._closing:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class FileSource(_OpenFile):
    """A raw image file as a DiskSource. Thread-safe; raises OSError as the system does."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(Path(path), os.O_RDONLY | os.O_CLOEXEC)
        self._size_bytes = os.lseek(self._descriptor, 0, os.SEEK_END)

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def read_into(self, offset_bytes: int, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            count = os.preadv(self._descriptor, [buffer[done:]], offset_bytes + done)
            if count == 0:
                raise EOFError(f"{self.path} ends at {offset_bytes + done}, inside the disk")
            done += count

    def read_ahead(self, offset_bytes: int, length_bytes: int) -> None:
        """Let the system begin to read into its cache."""
        with suppress(OSError):
            os.posix_fadvise(self._descriptor, offset_bytes, length_bytes, os.POSIX_FADV_WILLNEED)

    def extents(self) -> list[Extent]:
        """What the file system knows of holes, as DATA and ZERO extents of the whole file."""
        found: list[Extent] = []
        position = 0
        while position < self._size_bytes:
            start = self._seek_data(position)
            if start > position:
                found.append(Extent(position, start, ExtentKind.ZERO))
            if start < self._size_bytes:
                end = os.lseek(self._descriptor, start, os.SEEK_HOLE)
                found.append(Extent(start, end, ExtentKind.DATA))
                position = end
            else:
                position = start
        return found

    def _seek_data(self, position: int) -> int:
        try:
            return os.lseek(self._descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data after the position
                return self._size_bytes
            raise


class FileTarget(_OpenFile):
    """A new sparse file as a DiskTarget; refuses a path that exists. Thread-safe.

    Raises FileExistsError if the path exists, OSError as the system does.
    """

    def __init__(self, path: str | os.PathLike[str], size_bytes: int) -> None:
        if size_bytes < 0:
            raise InvalidInput(f"size {size_bytes}", "is negative")
        super().__init__(Path(path), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
        self._size_bytes = size_bytes
        self._buffered = threading.Lock()
        self._past_cache = PastCache(self.path)
        try:
            os.ftruncate(self._descriptor, size_bytes)
        except OSError:
            self.close()
            self.path.unlink()
            raise

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def write_at(self, offset_bytes: int, data: Buffer) -> None:
        view = memoryview(data).cast("B")
        done = self._past_cache.write(offset_bytes, view)
        if done == len(view):
            return
        # The system lets one thread at a time write to a file, and the others wait for it at work.
        with self._buffered:
            while done < len(view):
                done += os.pwrite(self._descriptor, view[done:], offset_bytes + done)
        # Starts writing back now, beside the decoding of the next chunks, instead of all in flush;
        # and a restored disk does not push everything else out of the page cache.
        os.posix_fadvise(self._descriptor, offset_bytes, len(view), os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        with self._closing:
            self._past_cache.close()
        super().close()

    def write_zeros(self, offset_bytes: int, length_bytes: int) -> None:
        end = offset_bytes + length_bytes
        while offset_bytes < end:
            count = min(len(_ZEROS), end - offset_bytes)
            self.write_at(offset_bytes, _ZEROS[:count])
            offset_bytes += count

    def flush(self) -> None:
        os.fsync(self._descriptor)
