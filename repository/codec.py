"""Compression of one chunk: bytes to bytes, no I/O."""

from __future__ import annotations

import threading

import zstandard

from repository.ports import Buffer
from repository.units import MiB

CODEC_RAW = 0
CODEC_ZSTD = 1

# At the default level and chunk size the table of hashes is halved, so that it stays in a core's own
# cache: a twentieth less CPU time for a four-hundredth more stored (docs/performance.md).
_TUNED = {(3, MiB): {"hash_log": 16}}

_WORTH_IT = 0.95  # stored raw unless at least 5 % is saved: raw reads back at memory speed


class ChunkCodec:
    """Compresses and decompresses chunks; thread-safe, each thread has contexts of its own."""

    def __init__(self, level: int, chunk_size_bytes: int = MiB) -> None:
        self._parameters = _parameters(level, chunk_size_bytes)
        self._local = threading.local()

    def compress(self, plain: Buffer) -> tuple[int, bytes]:
        """Codec and stored bytes, which never alias the input. Releases the GIL."""
        compressor = getattr(self._local, "compressor", None)
        if compressor is None:
            compressor = zstandard.ZstdCompressor(compression_params=self._parameters)
            self._local.compressor = compressor
        packed: bytes = compressor.compress(plain)
        if len(packed) > len(plain) * _WORTH_IT:
            return CODEC_RAW, bytes(plain)
        return CODEC_ZSTD, packed

    def decompress(
        self, codec: int, payload: Buffer, plain_bytes: int, scratch: memoryview | None = None
    ) -> Buffer:
        """The plain bytes; raises ValueError unless they are exactly `plain_bytes` long.

        They lie in `scratch`, if there is one that is long enough.
        """
        into = scratch[:plain_bytes] if scratch and plain_bytes <= len(scratch) else None
        if codec == CODEC_RAW:
            plain = _copied(payload, into)
        elif codec == CODEC_ZSTD:
            plain = self._decompress(payload, plain_bytes, into)
        else:
            raise ValueError(f"unknown codec {codec}")
        if len(plain) != plain_bytes:
            raise ValueError(f"it holds {len(plain)} bytes instead of {plain_bytes}")
        return plain

    def _decompress(self, payload: Buffer, plain_bytes: int, into: memoryview | None) -> Buffer:
        decompressor = getattr(self._local, "decompressor", None)
        if decompressor is None:
            # The bound keeps a damaged frame from asking for more memory than a chunk needs.
            decompressor = zstandard.ZstdDecompressor()
            self._local.decompressor = decompressor
        try:
            if zstandard.frame_content_size(payload) != plain_bytes:
                raise ValueError("its frame announces another length")
            if into is not None:
                return into[: decompressor.stream_reader(payload).readinto(into)]
            plain: bytes = decompressor.decompress(payload, max_output_size=plain_bytes)
        except zstandard.ZstdError as error:
            raise ValueError(f"it does not decompress ({error})") from error
        return plain


def _copied(payload: Buffer, into: memoryview | None) -> Buffer:
    if into is None or len(payload) != len(into):
        return payload
    into[:] = payload
    return into


def _parameters(level: int, chunk_size_bytes: int) -> zstandard.ZstdCompressionParameters:
    """The level's own for chunks of this size; no checksum, as the chunk's id proves more."""
    return zstandard.ZstdCompressionParameters.from_level(
        level,
        source_size=chunk_size_bytes,
        write_checksum=0,
        **_TUNED.get((level, chunk_size_bytes), {}),
    )
