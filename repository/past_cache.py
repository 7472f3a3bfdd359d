"""Writing to a file past the system's cache: from memory to the disk, without a copy by the processor.

What is written so is not in the cache afterwards, and pushes nothing else out of it. It takes memory,
offset and length in the device's units; whatever does not fit them is the caller's to write otherwise.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np

UNIT_BYTES = 4096
"""Of offset, length and address, for devices that are common."""
_NOT_SO = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}
"""The device wants larger units, or the file system has no such way although it let itself be opened."""


class PastCache:
    """An existing file, once more, for writes past the cache. Thread-safe but for `close`."""

    def __init__(self, path: Path) -> None:
        """Where there is no such way, every write writes nothing."""
        self._descriptor = -1
        flag = getattr(os, "O_DIRECT", 0)
        if flag:
            try:
                self._descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flag)
            except OSError:
                return

    @property
    def is_open(self) -> bool:
        """Whether there is such a way, as far as the file system has said."""
        return self._descriptor >= 0

    def write(self, offset_bytes: int, view: memoryview) -> int:
        """How many of the bytes have been written, from the first; 0 where that cannot be.

        Durable only with an fsync of the file. Raises OSError as the system does.
        """
        length_bytes = len(view) // UNIT_BYTES * UNIT_BYTES
        if not self.is_open or not length_bytes or offset_bytes % UNIT_BYTES:
            return 0
        if np.frombuffer(view, np.uint8).ctypes.data % UNIT_BYTES:
            return 0
        try:
            return os.pwrite(self._descriptor, view[:length_bytes], offset_bytes)
        except OSError as error:
            if error.errno not in _NOT_SO:
                raise
            return 0

    def close(self) -> None:
        """No write may be under way."""
        if self.is_open:
            os.close(self._descriptor)
            self._descriptor = -1
