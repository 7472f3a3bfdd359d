"""Memory for bulk data: whole pages of its own, huge ones where the system gives them.

The system copies between its cache and memory that begins on a page several times as fast as between
its cache and a `bytes` object, whose data begins 32 bytes into something (docs/performance.md).
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Sequence

from repository.ports import Buffer
from repository.units import MiB

SLAB_BYTES = 4 * MiB


def page_buffer(length_bytes: int) -> memoryview:
    """Zeroed writable memory of this many bytes, at least one; freed with its last view."""
    memory = mmap.mmap(-1, length_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    advice = getattr(mmap, "MADV_HUGEPAGE", None)  # Linux only
    if advice is not None:
        memory.madvise(advice)
    return memoryview(memory)


class ThreadBuffers:
    """Memory that each thread has for itself and uses again. Thread-safe."""

    def __init__(self) -> None:
        self._local = threading.local()

    def get(self, length_bytes: int) -> memoryview:
        """This thread's memory, of so many bytes or more; holds until the thread asks again."""
        buffer: memoryview | None = getattr(self._local, "buffer", None)
        if buffer is None or len(buffer) < length_bytes:
            buffer = self._local.buffer = page_buffer(length_bytes)
        return buffer


class Slabs:
    """Bytes that are gathered piece by piece, by copying; used by one thread at a time."""

    def __init__(self) -> None:
        self._slabs: list[memoryview] = []
        self.size_bytes = 0

    def append(self, data: Buffer) -> None:
        """Copy the data to the end."""
        view = memoryview(data).cast("B")
        while view:
            used = self.size_bytes % SLAB_BYTES
            if not used:
                self._slabs.append(page_buffer(SLAB_BYTES))
            part = view[: SLAB_BYTES - used]
            self._slabs[-1][used : used + len(part)] = part
            self.size_bytes += len(part)
            view = view[len(part) :]

    def views(self) -> Sequence[memoryview]:
        """All of it in order, in views that stay as they are for as long as nothing is appended."""
        last_bytes = self.size_bytes - (len(self._slabs) - 1) * SLAB_BYTES
        return [*self._slabs[:-1], *(slab[:last_bytes] for slab in self._slabs[-1:])]
