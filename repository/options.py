"""What is decided when a repository is created and never changes after."""

from __future__ import annotations

from dataclasses import dataclass

from repository.errors import InvalidInput
from repository.units import KiB, MiB


@dataclass(frozen=True, slots=True)
class RepositoryOptions:
    """The layout of a new repository; the reasons for the defaults are in docs/performance.md."""

    chunk_size_bytes: int = MiB
    """A power of two from 64 KiB to 16 MiB."""
    compression_level: int = 3
    """zstd level, 1 to 19."""
    pack_target_bytes: int = 36 * MiB
    """A pack is finished when it has reached this size; from 64 KiB to 256 MiB."""

    def __post_init__(self) -> None:
        size = self.chunk_size_bytes
        if not 64 * KiB <= size <= 16 * MiB or size & (size - 1):
            raise InvalidInput(f"chunk size {size}", "is no power of two from 64 KiB to 16 MiB")
        if not 1 <= self.compression_level <= 19:
            raise InvalidInput(f"compression level {self.compression_level}", "is not 1 to 19")
        if not 64 * KiB <= self.pack_target_bytes <= 256 * MiB:
            raise InvalidInput(f"pack target {self.pack_target_bytes}", "is not 64 KiB to 256 MiB")
