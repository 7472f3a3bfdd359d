"""Records: JSON objects that prove by themselves to be whole and ours.

The bytes are one JSON object whose last member is `digest`. The digest covers every byte before
the comma in front of it, and the bytes after that comma have exactly one form, so that any flipped
bit shows. It is keyed BLAKE3 under the record key; for `repo.json` and key wraps, which are read
before there is a key, it is BLAKE3 without one.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from repository.errors import DamagedObject, UnsupportedFormat
from repository.keys import RepositoryKeys
from repository.ports import Buffer
from repository.sealing import Sealer

FORMAT = 1
_MARK = b',"digest":"'
_END = b'"}\n'
_TAIL_BYTES = len(_MARK) + 64 + len(_END)


def encode_open_record(kind: str, body: Mapping[str, Any]) -> bytes:
    """The bytes of a record that is read before there is a key."""
    prefix = _prefix({"ahvault": kind, "format": FORMAT, **body})
    return _with_digest(prefix, blake3(prefix).hexdigest())


def decode_open_record(key: str, kind: str, data: bytes) -> dict[str, Any]:
    """The members of such a record; raises DamagedObject or UnsupportedFormat."""
    prefix = data[:-_TAIL_BYTES]
    return _checked(key, kind, data, blake3(prefix).hexdigest())


@dataclass(frozen=True, slots=True)
class RecordCodec:
    """Encodes and decodes the records of one repository."""

    keys: RepositoryKeys
    sealer: Sealer = field(repr=False)

    def encode(self, key: str, kind: str, body: Mapping[str, Any]) -> Buffer:
        """The stored bytes of a record that will be named `key`."""
        head = {"ahvault": kind, "format": FORMAT, "repository": self.keys.repository_id.hex}
        prefix = _prefix({**head, "body": body})
        return self.sealer.close_object(
            key, _with_digest(prefix, self.keys.record_mac(prefix).hex())
        )

    def decode(self, key: str, kind: str, stored: Buffer) -> dict[str, Any]:
        """The body of a record; raises DamagedObject or UnsupportedFormat."""
        data = bytes(self.sealer.open_object(key, stored))
        prefix = data[:-_TAIL_BYTES]
        record = _checked(key, kind, data, self.keys.record_mac(prefix).hex())
        if record.get("repository") != self.keys.repository_id.hex:
            raise DamagedObject(key, "it belongs to another repository")
        body = record.get("body")
        if not isinstance(body, dict):
            raise DamagedObject(key, "it has no body")
        return body


def _prefix(members: Mapping[str, Any]) -> bytes:
    text = json.dumps(members, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")[:-1]


def _with_digest(prefix: bytes, digest: str) -> bytes:
    return prefix + _MARK + digest.encode("ascii") + _END


def _checked(key: str, kind: str, data: bytes, digest: str) -> dict[str, Any]:
    expected = _with_digest(b"", digest)
    if not hmac.compare_digest(data[-_TAIL_BYTES:], expected):
        raise DamagedObject(key, "its digest does not match its bytes")
    try:
        record = json.loads(data)
    except ValueError as error:
        raise DamagedObject(key, f"it is not JSON ({error})") from error
    if not isinstance(record, dict) or record.get("ahvault") != kind:
        raise DamagedObject(key, f"it is no {kind} record")
    if record.get("format") != FORMAT:
        raise UnsupportedFormat(key, f"record format {record.get('format')}")
    return record
