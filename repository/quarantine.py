"""Quarantine: packs and segments that are known to be bad and are kept, but not relied on.

Nothing is deleted when damage is found: what is bad today may be mended, or read by other means,
tomorrow. A record names the object instead. From then on nothing is deduplicated against a
quarantined pack, and readers look for its chunks in the index first; so a chunk is healed as soon as
any backup stores it again. Collection deletes nothing that is under quarantine, even when nothing needs
it any more, until an operator says so (`CollectSettings.discard_quarantined`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from repository.creating import create
from repository.layout import PACKS, QUARANTINE, SEGMENTS, quarantine_key
from repository.records import RecordCodec
from repository.store import Store

KIND = "quarantine"


def quarantine(
    store: Store, records: RecordCodec, object_key: str, facts: Mapping[str, Any]
) -> None:
    """Put a pack or a segment under quarantine; nothing happens if it is. Durable on return."""
    key = quarantine_key(object_id(object_key))
    create(store, key, records.encode(key, KIND, {"key": object_key, **facts}))


def quarantined(store: Store) -> frozenset[str]:
    """The ids of all objects under quarantine: the names alone say so."""
    return frozenset(
        info.key.removeprefix(QUARANTINE).removesuffix(".json") for info in store.list(QUARANTINE)
    )


def quarantined_packs(store: Store) -> frozenset[bytes]:
    """The same as ids of packs; ids of segments are among them and match no pack."""
    return frozenset(bytes.fromhex(found) for found in quarantined(store) if _is_id(found))


def _is_id(name: str) -> bool:
    """Whether it is a UUID; names that are not known are left alone."""
    return len(name) == 32 and set(name) <= set("0123456789abcdef")


def object_id(key: str) -> str:
    """The UUID in the name of a pack or a segment."""
    if key.startswith(SEGMENTS):
        return key.removeprefix(SEGMENTS).partition("-")[0]
    return key.removeprefix(PACKS).partition("/")[2]
