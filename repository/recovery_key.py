"""Recovery keys: a key file's bytes as a text to print, lay into a safe, and type in again.

`AHVR-` and fourteen groups of four characters: base32 (RFC 4648) of 32 random bytes and the first
three bytes of their BLAKE3, so that a typing error is told from a key that opens nothing. Case,
spaces and hyphens do not count.
"""

from __future__ import annotations

import base64
import binascii

from blake3 import blake3

from repository.errors import InvalidInput
from repository.keyring import KeyFile, Passphrase, Secret

_PREFIX = "AHVR"
_GROUP = 4
_CHECK_BYTES = 3
_CHARACTERS = 56


def recovery_key_text(key: KeyFile) -> str:
    """The text of a key file of 32 bytes, as `KeyFile.generate` makes it."""
    check = blake3(key.content).digest()[:_CHECK_BYTES]
    text = base64.b32encode(key.content + check).decode("ascii")
    groups = [text[start : start + _GROUP] for start in range(0, len(text), _GROUP)]
    return "-".join([_PREFIX, *groups])


def read_passphrase(text: str) -> Secret:
    """What a person gave as passphrase: a recovery key if it is written as one, else itself.

    Raises InvalidInput for a recovery key with a typing error, and for an empty passphrase.
    """
    return _recovery_key(text) or Passphrase(text)


def read_key_file(content: bytes) -> Secret:
    """The content of a key file; one that holds a recovery key's text counts as that key.

    Raises InvalidInput for one that is too short, and for a recovery key with a typing error.
    """
    if len(content) <= 2 * _CHARACTERS and content.isascii():
        recovery_key = _recovery_key(content.decode("ascii"))
        if recovery_key is not None:
            return recovery_key
    return KeyFile(content)


def _recovery_key(text: str) -> KeyFile | None:
    """The key that the text spells, or None if it is not meant as one."""
    letters = "".join(text.split()).replace("-", "").upper()
    if not letters.startswith(_PREFIX) or len(letters) != len(_PREFIX) + _CHARACTERS:
        return None
    try:
        data = base64.b32decode(letters.removeprefix(_PREFIX))
    except binascii.Error as error:
        raise InvalidInput("recovery key", "has a typing error") from error
    key = KeyFile(data[:-_CHECK_BYTES])
    if blake3(key.content).digest()[:_CHECK_BYTES] != data[-_CHECK_BYTES:]:
        raise InvalidInput("recovery key", "has a typing error")
    return key
