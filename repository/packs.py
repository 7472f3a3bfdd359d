"""Packs: many chunks of one disk in one object that describes itself twice.

    header | (chunk header, payload) ... | table | footer

Every chunk has a header of its own, so that what remains of a damaged pack can be found again; the
table repeats them all, so that an index is rebuilt from two small reads per pack. The footer's
digest covers every byte before it and needs no key; its authenticator makes it ours.
Field by field in docs/repository-format.md, Packs.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass

import numpy as np
from blake3 import blake3

from repository.buffers import Slabs
from repository.codec import ChunkCodec
from repository.errors import DamagedObject, UnsupportedFormat
from repository.keys import RepositoryKeys
from repository.layout import pack_key
from repository.places import PLACE, Places
from repository.ports import Buffer
from repository.sealing import PackSealer, Sealer

PACK_MAGIC = b"AHVPACK1"
CHUNK_MAGIC = b"AHVC"
FOOTER_MAGIC = b"AHVPEND1"

# magic, repository id, pack id, epoch of the data key (0), reserved (0)
_HEADER = struct.Struct("<8s16s16sII")
# magic, ordinal in the pack, plain bytes, stored payload bytes, codec, seal, reserved (0), chunk id
CHUNK_HEADER = struct.Struct("<4sIIIBBH32s")
# chunk id, offset of the chunk header, plain bytes, stored payload bytes, codec, seal, reserved (0)
_ENTRY = struct.Struct("<32sIIIBBH")
# entries in the table, digest of everything before the footer, authenticator of it, magic
_FOOTER = struct.Struct("<I32s32s8s")


@dataclass(frozen=True, slots=True)
class PackEntry:
    """One chunk as the table names it."""

    chunk_id: bytes
    offset_bytes: int
    plain_bytes: int
    stored_bytes: int
    codec: int
    seal: int

    @property
    def length_bytes(self) -> int:
        """Header and payload."""
        return CHUNK_HEADER.size + self.stored_bytes


@dataclass(frozen=True, slots=True)
class StoredPack:
    """A pack as the index knows it."""

    pack_id: bytes
    size_bytes: int
    places: Places


class PackBuilder:
    """Collects chunks until the pack is big enough; used by one thread at a time."""

    def __init__(self, keys: RepositoryKeys, sealer: Sealer) -> None:
        self.pack_id = uuid.uuid4().bytes
        self._keys = keys
        self._sealer = sealer.for_pack(self.pack_id)
        self._slabs = Slabs()
        self._slabs.append(_header(keys, self.pack_id))
        self._entries: list[PackEntry] = []

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        """What the pack has so far, without table and footer."""
        return self._slabs.size_bytes

    def append(self, chunk_id: bytes, plain_bytes: int, codec: int, payload: Buffer) -> PackEntry:
        """Add a chunk at the end; the payload is copied."""
        seal = self._sealer.seal
        stored_bytes = len(payload) + self._sealer.overhead_bytes
        ordinal = len(self._entries)
        header = CHUNK_HEADER.pack(
            CHUNK_MAGIC, ordinal, plain_bytes, stored_bytes, codec, seal, 0, chunk_id
        )
        entry = PackEntry(chunk_id, self.size_bytes, plain_bytes, stored_bytes, codec, seal)
        self._slabs.append(header)
        self._slabs.append(self._sealer.close(ordinal, header, payload))
        self._entries.append(entry)
        return entry

    def finish(self) -> tuple[StoredPack, list[Buffer]]:
        """The finished pack and its bytes in pieces."""
        table = b"".join(
            _ENTRY.pack(
                e.chunk_id, e.offset_bytes, e.plain_bytes, e.stored_bytes, e.codec, e.seal, 0
            )
            for e in self._entries
        )
        self._slabs.append(table)
        digest = blake3()
        for view in self._slabs.views():
            digest.update(view)
        self._slabs.append(_footer(self._keys, self.pack_id, len(self._entries), digest.digest()))
        places = places_of(self.pack_id, self._entries)
        return StoredPack(self.pack_id, self.size_bytes, places), list(self._slabs.views())


def places_of(pack_id: bytes, entries: list[PackEntry]) -> Places:
    """The entries of one pack as rows."""
    rows = [(entry.chunk_id, pack_id, entry.offset_bytes, entry.length_bytes) for entry in entries]
    return np.array(rows, dtype=PLACE)


def _header(keys: RepositoryKeys, pack_id: bytes) -> bytes:
    return _HEADER.pack(PACK_MAGIC, keys.repository_id.bytes, pack_id, 0, 0)


def _footer(keys: RepositoryKeys, pack_id: bytes, count: int, digest: bytes) -> bytes:
    authenticator = keys.record_mac(_header(keys, pack_id) + count.to_bytes(4, "little") + digest)
    return _FOOTER.pack(count, digest, authenticator, FOOTER_MAGIC)


def read_pack_table(data: bytes, pack_id: bytes, keys: RepositoryKeys) -> list[PackEntry]:
    """The entries of a whole pack, every stored byte of which was checked (level V2).

    Raises DamagedObject, or UnsupportedFormat for a pack that names a newer format.
    """
    key = pack_key(pack_id)
    if len(data) < _HEADER.size + _FOOTER.size:
        raise DamagedObject(key, f"it has only {len(data)} bytes")
    count, digest, _, _ = _FOOTER.unpack_from(data, len(data) - _FOOTER.size)
    body = memoryview(data)[: -_FOOTER.size]
    if blake3(body).digest() != digest:
        raise DamagedObject(key, "its bytes do not match its digest")
    if data[-_FOOTER.size :] != _footer(keys, pack_id, count, digest):
        raise DamagedObject(key, "its footer is not one that this repository wrote")
    if data[: _HEADER.size] != _header(keys, pack_id):
        raise UnsupportedFormat(key, "another pack header")
    table_start = len(body) - count * _ENTRY.size
    if table_start < _HEADER.size:
        raise DamagedObject(key, f"it is too short for {count} entries")
    return [PackEntry(*fields[:-1]) for fields in _ENTRY.iter_unpack(body[table_start:])]


class ChunkOpener:
    """Turns the stored bytes of one chunk into plain ones and proves them; thread-safe."""

    def __init__(self, keys: RepositoryKeys, sealer: Sealer, codec: ChunkCodec) -> None:
        self._keys = keys
        self._sealer = sealer
        self._codec = codec

    def for_pack(self, pack_id: bytes) -> PackOpener:
        """The opener of one pack's chunks; worth keeping for several chunks."""
        return PackOpener(pack_id, self._keys, self._sealer.for_pack(pack_id), self._codec)


class PackOpener:
    """Opens chunks of one pack; thread-safe."""

    def __init__(
        self, pack_id: bytes, keys: RepositoryKeys, sealer: PackSealer, codec: ChunkCodec
    ) -> None:
        self._pack_id = pack_id
        self._keys = keys
        self._sealer = sealer
        self._codec = codec

    def open(
        self, chunk_id: bytes, stored: memoryview, scratch: memoryview | None = None
    ) -> Buffer:
        """The plain bytes of the chunk whose header and payload these are.

        With `scratch` they lie in it, if it is long enough, until it is used again. Raises
        DamagedObject, naming the pack, unless they are exactly what the id names.
        """
        return self._opened(chunk_id, stored, scratch)[0]

    def payload(self, chunk_id: bytes, stored: memoryview) -> tuple[int, int, Buffer]:
        """Plain length, codec and unsealed payload of the chunk, proven: to put it into a new pack.

        Raises DamagedObject as `open` does.
        """
        plain, codec, payload = self._opened(chunk_id, stored)
        return len(plain), codec, payload

    def _opened(
        self, chunk_id: bytes, stored: memoryview, scratch: memoryview | None = None
    ) -> tuple[Buffer, int, Buffer]:
        try:
            return self._decoded(chunk_id, stored, scratch)
        except (ValueError, struct.error) as error:
            raise DamagedObject(
                pack_key(self._pack_id), f"chunk {chunk_id.hex()[:16]}: {error}"
            ) from error

    def _decoded(
        self, chunk_id: bytes, stored: memoryview, scratch: memoryview | None
    ) -> tuple[Buffer, int, Buffer]:
        header = bytes(stored[: CHUNK_HEADER.size])
        magic, ordinal, plain_bytes, stored_bytes, codec, seal, reserved, found_id = (
            CHUNK_HEADER.unpack(header)
        )
        payload = stored[CHUNK_HEADER.size :]
        if magic != CHUNK_MAGIC or reserved or seal != self._sealer.seal:
            raise ValueError("it has no chunk header")
        if found_id != chunk_id:
            raise ValueError(f"another chunk, {found_id.hex()[:16]}, lies there")
        if stored_bytes != len(payload):
            raise ValueError(f"it has {len(payload)} stored bytes instead of {stored_bytes}")
        unsealed = self._sealer.open(ordinal, header, payload)
        plain = self._codec.decompress(codec, unsealed, plain_bytes, scratch)
        if self._keys.chunk_id(plain) != chunk_id:
            raise ValueError("its bytes do not match its id")
        return plain, codec, unsealed
