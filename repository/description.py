"""`repo.json`: what a repository is, decided once. Its absence means that there is none."""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass, field
from typing import Any

from repository.errors import DamagedObject, UnsupportedFormat
from repository.layout import FEATURES, REPOSITORY_FILE
from repository.options import RepositoryOptions
from repository.records import decode_open_record, encode_open_record
from repository.store import Store

_KIND = "repository"
_PLAIN = "none"
_ENCRYPTED = "aes-256-gcm"
_ALGORITHMS = {"chunk_id": "blake3-keyed", "compression": "zstd"}
# What a version must be able to do before it may read, write or delete; none needed in format 1.
_OPERATIONS = ("read", "write", "delete", "verify")


@dataclass(frozen=True, slots=True)
class Description:
    """The contents of `repo.json`."""

    repository_id: uuid.UUID
    created_at: dt.datetime
    options: RepositoryOptions
    master_key: bytes | None = field(repr=False)
    """None in an encrypted repository: then it is in the key wraps."""

    def encode(self) -> bytes:
        """The stored bytes."""
        return encode_open_record(
            _KIND,
            {
                "repository": self.repository_id.hex,
                "created_at": self.created_at.astimezone(dt.UTC).isoformat(),
                "algorithms": _ALGORITHMS,
                "chunk_size_bytes": self.options.chunk_size_bytes,
                "compression_level": self.options.compression_level,
                "pack_target_bytes": self.options.pack_target_bytes,
                "encryption": self._encryption(),
                "features": {operation: [] for operation in _OPERATIONS},
            },
        )

    def _encryption(self) -> dict[str, str]:
        if self.master_key is None:
            return {"mode": _ENCRYPTED}
        return {"mode": _PLAIN, "master_key": self.master_key.hex()}

    @classmethod
    def decode(cls, url: str, data: bytes) -> Description:
        """Read the stored bytes; raises DamagedObject or UnsupportedFormat."""
        record = decode_open_record(REPOSITORY_FILE, _KIND, data)
        try:
            _check_abilities(url, record)
            return cls(
                repository_id=uuid.UUID(record["repository"]),
                created_at=dt.datetime.fromisoformat(record["created_at"]),
                options=RepositoryOptions(
                    chunk_size_bytes=record["chunk_size_bytes"],
                    compression_level=record["compression_level"],
                    pack_target_bytes=record["pack_target_bytes"],
                ),
                master_key=_plain_master_key(url, record["encryption"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DamagedObject(REPOSITORY_FILE, f"its members cannot be ({error})") from error


def _check_abilities(url: str, record: dict[str, Any]) -> None:
    needed = {feature for features in record["features"].values() for feature in features}
    if needed:
        raise UnsupportedFormat(url, f"the features {', '.join(sorted(needed))}")
    if record["algorithms"] != _ALGORITHMS:
        raise UnsupportedFormat(url, f"the algorithms {record['algorithms']}")


def _plain_master_key(url: str, encryption: dict[str, Any]) -> bytes | None:
    if encryption["mode"] == _PLAIN:
        return bytes.fromhex(encryption["master_key"])
    if encryption["mode"] == _ENCRYPTED:
        return None
    raise UnsupportedFormat(url, f"encryption mode {encryption['mode']}")


def features_needed(store: Store, operation: str) -> list[str]:
    """Abilities that were demanded of an operation after the repository was made.

    Format 1 has none of them, so a list that is not empty means: do not. Raises DamagedObject.
    """
    needed = []
    for info in store.list(FEATURES):
        record = decode_open_record(info.key, "feature", store.get(info.key))
        if operation in record.get("operations", _OPERATIONS):
            needed.append(str(record.get("name", info.key)))
    return needed
