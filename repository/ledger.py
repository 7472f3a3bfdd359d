"""The verify ledger: when each pack was last read whole, how deep, and whether it was sound.

    ledger/<UUID>-<sha256>.parquet   one row per pack: seen_at, stored_at, content_at, is_sound

A verification adds an object with what it looked at; several are merged when they have become many.
The newest check of a pack holds. The ledger is advice: it decides what a verification with a budget
reads first, and what is reported as covered. Nothing else rests on it. Losing it, or part of it,
costs reading again; a damaged object of it is left out, and removed with the next merge.

Memory: about 250 bytes per pack, that is 8 MiB per TiB stored.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import logging
import threading
import uuid
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from repository.creating import create_own
from repository.errors import DamagedObject, ObjectNotFound, StoreDenied, UnsupportedFormat
from repository.findings import VerifyLevel
from repository.layout import LEDGER, digest_in_name, ledger_key
from repository.places import PACK_ID_BYTES, fixed_binary, void_column
from repository.records import RecordCodec
from repository.store import Store
from repository.tables import describe, open_table

_LOG = logging.getLogger(__name__)

NEVER = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
OBJECTS_MAX = 16
"""With more objects than this, the next one written takes the place of all."""
_MOMENT = pa.timestamp("us", tz="UTC")
_SCHEMA = pa.schema(
    [
        pa.field("pack", pa.binary(PACK_ID_BYTES), nullable=False),
        pa.field("seen_at", _MOMENT, nullable=False),
        pa.field("stored_at", _MOMENT, nullable=False),
        pa.field("content_at", _MOMENT, nullable=False),
        pa.field("is_sound", pa.bool_(), nullable=False),
    ]
)


class PackCheck(NamedTuple):
    """What is known of one pack."""

    seen_at: dt.datetime
    """When a verification first met the pack."""
    stored_at: dt.datetime = NEVER
    """When its stored bytes were last read."""
    content_at: dt.datetime = NEVER
    """When its chunks were last decoded."""
    is_sound: bool = True
    """False if it was not what was written when it was last read."""

    def checked_at(self, level: VerifyLevel) -> dt.datetime:
        """When it was last looked at so deep, whatever came of it; NEVER if it was not."""
        return self.content_at if level >= VerifyLevel.CONTENT else self.stored_at

    def proven_at(self, level: VerifyLevel) -> dt.datetime:
        """When it was last found sound, so deep; NEVER if it was not."""
        return self.checked_at(level) if self.is_sound else NEVER


def _joined(known: PackCheck | None, found: PackCheck) -> PackCheck:
    """What two rows say together: the later checks, the earlier sight."""
    if known is None:
        return found
    return PackCheck(
        seen_at=min(known.seen_at, found.seen_at),
        stored_at=max(known.stored_at, found.stored_at),
        content_at=max(known.content_at, found.content_at),
        is_sound=max(known, found, key=lambda check: check.stored_at).is_sound,
    )


class Ledger:
    """The ledger of one repository as one verification sees and extends it. Thread-safe."""

    def __init__(self, store: Store, records: RecordCodec) -> None:
        self._store = store
        self._records = records
        self._guard = threading.Lock()
        self._known: dict[bytes, PackCheck] = {}
        self._new: dict[bytes, PackCheck] = {}
        self._objects: set[str] = set()
        self.has_gaps = False
        """Whether part of the ledger could not be read."""

    @classmethod
    def load(cls, store: Store, records: RecordCodec) -> Ledger:
        """Read all of it; what is damaged is left out. Raises the store's errors."""
        ledger = cls(store, records)
        for info in store.list(LEDGER):
            ledger._objects.add(info.key)
            try:
                rows = _decoded(info.key, store.get(info.key), records)
            except ObjectNotFound:
                continue  # merged into another one since it was listed
            except (DamagedObject, UnsupportedFormat) as error:
                _LOG.warning("part of the verify ledger is left out: %s", error)
                ledger.has_gaps = True
                continue
            for pack_id, check in rows:
                ledger._known[pack_id] = _joined(ledger._known.get(pack_id), check)
        return ledger

    def get(self, pack_id: bytes) -> PackCheck | None:
        """What is known of a pack."""
        with self._guard:
            return self._known.get(pack_id)

    def see(self, pack_ids: Iterable[bytes], now: dt.datetime) -> None:
        """Note that these packs are there; those that are known stay as they are."""
        with self._guard:
            for pack_id in pack_ids:
                if pack_id not in self._known:
                    self._add(pack_id, PackCheck(now))

    def note(self, pack_id: bytes, level: VerifyLevel, now: dt.datetime, *, is_sound: bool) -> None:
        """Note that a pack was read, and what came of it."""
        with self._guard:
            content_at = now if level >= VerifyLevel.CONTENT else NEVER
            self._add(pack_id, PackCheck(now, now, content_at, is_sound))

    def _add(self, pack_id: bytes, check: PackCheck) -> None:
        self._known[pack_id] = _joined(self._known.get(pack_id), check)
        self._new[pack_id] = self._known[pack_id]

    def write(self, listed: frozenset[bytes] | None = None) -> None:
        """Store what is new; durable on return. Raises the store's errors.

        With the ids of all packs that there are, rows of others go when objects are merged.
        """
        with self._guard:
            new, self._new = self._new, {}
            if not new:
                return
            is_due = len(self._objects) >= OBJECTS_MAX or self.has_gaps
            if listed is None or not is_due:
                self._objects.add(self._store_rows(new))
                return
            superseded = self._objects
            kept = {pack: check for pack, check in self._known.items() if pack in listed}
            self._objects = {self._store_rows(kept)}
            self.has_gaps = False
        self._remove(superseded)

    def _store_rows(self, rows: Mapping[bytes, PackCheck]) -> str:
        ledger_id = uuid.uuid4()
        plain = _table_bytes(rows, self._records.keys.repository_id.hex)
        # The name carries the digest of the stored bytes, so sealing cannot bind the name whole.
        stored = self._records.sealer.close_object(ledger_key(ledger_id, ""), plain)
        key = ledger_key(ledger_id, hashlib.sha256(stored).hexdigest())
        create_own(self._store, key, stored)
        return key

    def _remove(self, keys: Iterable[str]) -> None:
        """Delete what a merged object holds; where deleting is denied they stay, to no harm."""
        try:
            for key in keys:
                self._store.delete(key)
        except StoreDenied as error:
            _LOG.info("superseded parts of the verify ledger stay: %s", error)


def _table_bytes(rows: Mapping[bytes, PackCheck], repository: str) -> bytes:
    packs = np.array([np.void(pack_id) for pack_id in rows], dtype=f"V{PACK_ID_BYTES}")
    checks = rows.values()
    columns = [
        fixed_binary(packs),
        pa.array([check.seen_at for check in checks], _MOMENT),
        pa.array([check.stored_at for check in checks], _MOMENT),
        pa.array([check.content_at for check in checks], _MOMENT),
        pa.array([check.is_sound for check in checks], pa.bool_()),
    ]
    sink = io.BytesIO()
    options = {"compression": "zstd", "use_dictionary": False, "store_schema": False}
    with pq.ParquetWriter(sink, _SCHEMA, **options) as writer:
        writer.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA))
        describe(writer, {"kind": "ledger", "repository": repository})
    return sink.getvalue()


def _decoded(key: str, stored: bytes, records: RecordCodec) -> list[tuple[bytes, PackCheck]]:
    """The rows of one object; raises DamagedObject or UnsupportedFormat."""
    digest = hashlib.sha256(stored).hexdigest()
    if digest != digest_in_name(key):
        raise DamagedObject(key, "its bytes do not match the digest in its name")
    plain = records.sealer.open_object(key.replace(digest, ""), stored)
    file, description = open_table(key, "ledger", pa.BufferReader(plain), _SCHEMA)
    try:
        if description["repository"] != records.keys.repository_id.hex:
            raise DamagedObject(key, "it belongs to another repository")
        table = file.read(use_threads=False)
        packs = [pack.tobytes() for pack in void_column(table["pack"], PACK_ID_BYTES)]
        columns = ("seen_at", "stored_at", "content_at", "is_sound")
        checks = map(PackCheck, *(table[name].to_pylist() for name in columns))
        return list(zip(packs, checks, strict=True))
    except (pa.ArrowException, ValueError, KeyError, TypeError, OSError, OverflowError) as error:
        raise DamagedObject(key, f"it does not read as a ledger ({error})") from error


def check_ledger_object(key: str, stored: bytes, records: RecordCodec) -> None:
    """Prove one object of the ledger; raises DamagedObject or UnsupportedFormat."""
    _decoded(key, stored, records)
