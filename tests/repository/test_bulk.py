"""Bulk data: slabs that gather it, scratch that chunks are opened into, files that it is written to."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from repository import FileTarget
from repository.buffers import SLAB_BYTES, Slabs, page_buffer
from repository.codec import CODEC_RAW, CODEC_ZSTD, ChunkCodec
from repository.units import MiB

BYTES = random.Random(7)


@pytest.mark.parametrize(
    "lengths",
    [
        [],
        [0],
        [1],
        [SLAB_BYTES],
        [SLAB_BYTES, 1],
        [SLAB_BYTES - 1, 3, SLAB_BYTES],
        [3 * SLAB_BYTES + 5, 0, 9],
    ],
)
def test_slabs_hold_what_was_put_in(lengths: list[int]) -> None:
    """Whatever the lengths are beside the slab's, in order, and free of the pieces they came from."""
    pieces = [bytearray(BYTES.randbytes(length)) for length in lengths]
    whole, slabs = b"".join(pieces), Slabs()
    for piece in pieces:
        slabs.append(piece)
        piece[:] = bytes(len(piece))
    assert b"".join(slabs.views()) == whole
    assert slabs.size_bytes == len(whole)


@pytest.mark.parametrize("plain", [BYTES.randbytes(5000), b"again and " * 500, b"x"])
def test_chunks_open_into_scratch(plain: bytes) -> None:
    """Where there is room for it, the plain chunk lies there; where not, in memory of its own."""
    codec, scratch = ChunkCodec(3), page_buffer(5000)
    kind, payload = codec.compress(plain)
    opened = codec.decompress(kind, payload, len(plain), scratch)
    assert opened == plain == scratch[: len(plain)]
    elsewhere = codec.decompress(kind, payload, len(plain), scratch[: len(plain) - 1])
    scratch[:] = bytes(len(scratch))
    assert elsewhere == plain


def test_scratch_hides_no_damage() -> None:
    """A frame that was cut, or that holds more or less than announced, is refused."""
    codec, scratch, plain = ChunkCodec(3), page_buffer(MiB), b"again and " * 500
    kind, payload = codec.compress(plain)
    assert kind == CODEC_ZSTD
    for damaged, length in [(payload[:-5], 5000), (payload, 4999), (payload, 5001), (b"", 5000)]:
        with pytest.raises(ValueError, match=r"its? "):
            codec.decompress(CODEC_ZSTD, damaged, length, scratch)
    with pytest.raises(ValueError, match=r"its? "):
        codec.decompress(CODEC_RAW, plain, 5001, scratch)


def test_a_file_takes_any_piece(tmp_path: Path) -> None:
    """Pieces of any address, offset and length arrive, those too that go past the cache in part."""
    room = page_buffer(2 * MiB)
    room[:] = BYTES.randbytes(len(room))
    expected = bytearray(4 * MiB + 123)
    with FileTarget(tmp_path / "disk", len(expected)) as target:
        for at, start, end in [
            (0, 0, MiB),
            (MiB, 1, MiB + 1),
            (2 * MiB + 512, 0, 8192),
            (3 * MiB, 4096, MiB + 4096),
            (4 * MiB, 8192, 8192 + 123),
            (4096, 0, 4096 + 777),
            (12288, 7, 8),
        ]:
            target.write_at(at, room[start:end])
            expected[at : at + end - start] = room[start:end]
        target.write_zeros(MiB + 100, MiB // 2)
        expected[MiB + 100 : MiB + 100 + MiB // 2] = bytes(MiB // 2)
        target.flush()
    assert (tmp_path / "disk").read_bytes() == expected


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="this system has no O_DIRECT")
def test_a_file_whose_cache_cannot_be_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without such a way, or on a device with larger units, everything goes through the cache."""
    room = page_buffer(MiB)
    room[:] = BYTES.randbytes(MiB)
    monkeypatch.delattr(os, "O_DIRECT")
    with FileTarget(tmp_path / "disk", MiB) as target:
        target.write_at(0, room)
    assert (tmp_path / "disk").read_bytes() == room
