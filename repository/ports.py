"""The plain shapes through which bytes come in and go out; structural, so nobody has to inherit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias, runtime_checkable

Buffer: TypeAlias = bytes | bytearray | memoryview

Pace: TypeAlias = Callable[[int], None]
"""Called with a number of bytes before they are sent to a store; returns when they may go."""


class DiskSource(Protocol):
    """A disk that can be read: an attached disk, a file, a restore point's disk."""

    @property
    def size_bytes(self) -> int: ...

    def read_into(self, offset_bytes: int, buffer: memoryview) -> None:
        """Fill the whole buffer with the bytes at the offset, or raise.

        Called from several threads at once. The buffer is the engine's again once this returns.
        """
        ...


@runtime_checkable
class ReadsAhead(Protocol):
    """A source that can fetch while nobody waits for it. Optional: what cannot is read as it comes."""

    def read_ahead(self, offset_bytes: int, length_bytes: int) -> None:
        """Begin to fetch a range that `read_into` will ask for; return at once and never raise.

        Called from one thread, in the order of the reads. A range may never be asked for: on an
        error, or a stop, the disk is closed before.
        """
        ...


class DiskTarget(Protocol):
    """A disk that can be written. Calls come from several threads, in any order, disjoint."""

    @property
    def size_bytes(self) -> int: ...

    def write_at(self, offset_bytes: int, data: Buffer) -> None:
        """Write all of the data or raise; the target must not keep the buffer."""
        ...

    def write_zeros(self, offset_bytes: int, length_bytes: int) -> None:
        """Make the range read as zeros; may punch a hole."""
        ...

    def flush(self) -> None:
        """Return once everything written is durable."""
        ...


class Throttle(Protocol):
    """A limit on the bytes that move between this machine and the store."""

    def acquire(self, length_bytes: int) -> None:
        """Block until this many bytes may flow. Called from several threads at once.

        Asked right before the bytes move: by stores that send an object in parts for each part,
        else for the whole object or range. May raise Stopped, and nothing else.
        """
        ...
