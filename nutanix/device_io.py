"""The one system call that Python lacks: turning a range of a file or device into zeros."""

from __future__ import annotations

import ctypes
import errno
import os
from ctypes.util import find_library

FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02
UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV})

_libc = ctypes.CDLL(find_library("c"), use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong)


def punch_hole(descriptor: int, offset_bytes: int, length_bytes: int) -> bool:
    """Make `[offset, offset + length)` read as zeros and give its space back.

    `False` when this file or device cannot; then nothing happened and zeros must be written. On a
    block device Linux promises zeros afterwards or an error, never a mere hint. Raises `OSError` for
    real failures.
    """
    mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
    while _libc.fallocate(descriptor, mode, offset_bytes, length_bytes) != 0:
        code = ctypes.get_errno()
        if code == errno.EINTR:
            continue
        if code in UNSUPPORTED:
            return False
        raise OSError(code, os.strerror(code))
    return True
