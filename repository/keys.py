"""The keys of a repository: one random master key, and what is derived from it.

A repository without encryption has the same keys; its master key stands in `repo.json`, so that
there is one code path and ids are keyed everywhere.
"""

from __future__ import annotations

import secrets
import uuid
from dataclasses import dataclass, field

from blake3 import blake3
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32


def new_master_key() -> bytes:
    """A fresh random master key."""
    return secrets.token_bytes(KEY_BYTES)


def derive_key(secret: bytes, salt: bytes, purpose: str) -> bytes:
    """HKDF-SHA256 (RFC 5869) of the secret; 32 bytes. The purpose separates keys of one secret."""
    return HKDF(SHA256(), KEY_BYTES, salt=salt, info=f"ahvault/1/{purpose}".encode()).derive(secret)


@dataclass(frozen=True, slots=True)
class RepositoryKeys:
    """All keys that reading and writing need. The repr shows none."""

    repository_id: uuid.UUID
    chunk_id_key: bytes = field(repr=False)
    """Makes chunk ids: without it an id says nothing of the bytes."""
    record_key: bytes = field(repr=False)
    """Authenticates records and packs."""
    meta_key: bytes = field(repr=False)
    """Seals records, maps and segments."""
    data_key: bytes = field(repr=False)
    """Seals chunks."""

    @classmethod
    def from_master(cls, master_key: bytes, repository_id: uuid.UUID) -> RepositoryKeys:
        """Derive them all; the repository's id is the salt."""
        derived = {
            name: derive_key(master_key, repository_id.bytes, name)
            for name in ("chunk-id", "record", "meta", "data")
        }
        return cls(
            repository_id,
            chunk_id_key=derived["chunk-id"],
            record_key=derived["record"],
            meta_key=derived["meta"],
            data_key=derived["data"],
        )

    def chunk_id(self, plain: bytes | bytearray | memoryview) -> bytes:
        """The 32-byte id of a chunk: keyed BLAKE3 of its plain bytes. Releases the GIL."""
        return blake3(plain, key=self.chunk_id_key).digest()

    def record_mac(self, data: bytes) -> bytes:
        """The 32-byte authenticator of a record's bytes."""
        return blake3(data, key=self.record_key).digest()
