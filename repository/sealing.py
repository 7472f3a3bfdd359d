"""Sealing: what turns plain stored bytes into ones that only a key holder reads, and back.

Two kinds of bytes are sealed. A chunk's payload is sealed inside its pack under a key of that pack,
with its ordinal as nonce and its header as authenticated data: a pack id is random and never used
twice, so no nonce ever repeats. A whole object (record, map, segment) is sealed under a key of its
own, made from a random salt, with the object's name as authenticated data, so that two objects
cannot be exchanged. Algorithm: AES-256-GCM, 16-byte tag at the end.
"""

from __future__ import annotations

import secrets
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from repository.errors import DamagedObject
from repository.keys import RepositoryKeys, derive_key
from repository.ports import Buffer

SEAL_NONE = 0
SEAL_AES_256_GCM = 1

SEALED_MAGIC = b"AHVSEAL1"
_SALT_BYTES = 16
_NONCE_BYTES = 12
_FRAME_BYTES = len(SEALED_MAGIC) + _SALT_BYTES


class PackSealer(Protocol):
    """Seals and opens the payloads of one pack."""

    @property
    def seal(self) -> int:
        """The code that stands in each chunk's header."""
        ...

    @property
    def overhead_bytes(self) -> int:
        """How much longer a payload gets."""
        ...

    def close(self, ordinal: int, header: bytes, payload: Buffer) -> Buffer: ...

    def open(self, ordinal: int, header: bytes, payload: Buffer) -> Buffer:
        """The payload as it was before; raises ValueError if any byte of it or the header differs."""
        ...


class Sealer(Protocol):
    """Seals and opens everything a repository stores."""

    def for_pack(self, pack_id: bytes) -> PackSealer: ...

    def close_object(self, key: str, data: Buffer) -> Buffer: ...

    def open_object(self, key: str, data: Buffer) -> Buffer:
        """The object as it was before sealing; raises DamagedObject."""
        ...


class PlainPack:
    """No sealing: payloads are stored as they are."""

    seal = SEAL_NONE
    overhead_bytes = 0

    def close(self, ordinal: int, header: bytes, payload: Buffer) -> Buffer:  # noqa: ARG002 - the protocol's
        return payload

    def open(self, ordinal: int, header: bytes, payload: Buffer) -> Buffer:  # noqa: ARG002 - the protocol's
        return payload


class PlainSealer:
    """A repository without encryption."""

    _pack = PlainPack()

    def for_pack(self, pack_id: bytes) -> PackSealer:  # noqa: ARG002 - the protocol's
        return self._pack

    def close_object(self, key: str, data: Buffer) -> Buffer:  # noqa: ARG002 - the protocol's
        return data

    def open_object(self, key: str, data: Buffer) -> Buffer:  # noqa: ARG002 - the protocol's
        return data


class AesGcmPack:
    """Payloads of one pack under a key that is this pack's alone."""

    seal = SEAL_AES_256_GCM
    overhead_bytes = 16

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def close(self, ordinal: int, header: bytes, payload: Buffer) -> Buffer:
        return self._cipher.encrypt(ordinal.to_bytes(_NONCE_BYTES, "little"), payload, header)

    def open(self, ordinal: int, header: bytes, payload: Buffer) -> Buffer:
        nonce = ordinal.to_bytes(_NONCE_BYTES, "little")
        try:
            return self._cipher.decrypt(nonce, payload, header)
        except InvalidTag as error:
            raise ValueError("its authentication tag does not match") from error


class AesGcmSealer:
    """An encrypted repository."""

    def __init__(self, keys: RepositoryKeys) -> None:
        self._keys = keys

    def for_pack(self, pack_id: bytes) -> PackSealer:
        return AesGcmPack(derive_key(self._keys.data_key, pack_id, "pack"))

    def close_object(self, key: str, data: Buffer) -> Buffer:
        salt = secrets.token_bytes(_SALT_BYTES)
        return (
            SEALED_MAGIC
            + salt
            + self._cipher(salt).encrypt(bytes(_NONCE_BYTES), data, key.encode())
        )

    def open_object(self, key: str, data: Buffer) -> Buffer:
        if len(data) < _FRAME_BYTES or data[: len(SEALED_MAGIC)] != SEALED_MAGIC:
            raise DamagedObject(key, "it is not sealed, in an encrypted repository")
        salt = bytes(data[len(SEALED_MAGIC) : _FRAME_BYTES])
        try:
            sealed = memoryview(data)[_FRAME_BYTES:]
            return self._cipher(salt).decrypt(bytes(_NONCE_BYTES), sealed, key.encode())
        except InvalidTag as error:
            raise DamagedObject(key, "its authentication tag does not match") from error

    def _cipher(self, salt: bytes) -> AESGCM:
        return AESGCM(derive_key(self._keys.meta_key, salt, "object"))
