"""Small records beside the backups: mutable ones under `live/`, and session reports."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from repository.creating import create_own
from repository.errors import DamagedObject, ObjectNotFound, UnsupportedFormat
from repository.layout import LIVE, REPORTS, live_key, report_key, safe_name, stamp
from repository.points import DamagedRecord
from repository.records import RecordCodec
from repository.store import Store
from repository.units import Clock

_LIVE_KIND = "live"
_REPORT_KIND = "report"
_READS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class LiveListing:
    """The records of one kind by key, and those that cannot be read."""

    records: dict[str, dict[str, Any]]
    damaged: list[DamagedRecord]


class LiveRecords:
    """Small mutable JSON records, the only objects ever replaced. Thread-safe; last writer wins."""

    def __init__(self, store: Store, records: RecordCodec) -> None:
        self._store = store
        self._records = records

    def put(self, kind: str, key: str, record: Mapping[str, Any]) -> None:
        """Write or replace a record; durable on return."""
        name = live_key(kind, key)
        self._store.put(name, self._records.encode(name, _LIVE_KIND, record))

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        """The record, or None; raises DamagedObject or the store's errors."""
        name = live_key(kind, key)
        try:
            return self._records.decode(name, _LIVE_KIND, self._store.get(name))
        except ObjectNotFound:
            return None

    def list(self, kind: str) -> LiveListing:
        """All records of a kind, by key; a damaged one does not hide the others."""
        prefix = f"{LIVE}{safe_name(kind)}/"
        listing = LiveListing({}, [])
        for info in self._store.list(prefix):
            key = unquote(info.key.removeprefix(prefix).removesuffix(".json"))
            try:
                record = self.get(kind, key)
            except (DamagedObject, UnsupportedFormat) as error:
                listing.damaged.append(DamagedRecord(info.key, str(error)))
                continue
            if record is not None:  # else deleted since it was listed
                listing.records[key] = record
        return listing

    def keys(self, kind: str) -> tuple[str, ...]:
        """The keys of all records of a kind, sorted; none is read."""
        prefix = f"{LIVE}{safe_name(kind)}/"
        names = (info.key.removeprefix(prefix) for info in self._store.list(prefix))
        return tuple(sorted(unquote(name.removesuffix(".json")) for name in names))

    def delete(self, kind: str, key: str) -> None:
        """Remove a record; silently done if there is none."""
        self._store.delete(live_key(kind, key))


@dataclass(frozen=True, slots=True)
class ReportListing:
    """Session reports, oldest first, and those that cannot be read."""

    reports: list[dict[str, Any]]
    damaged: list[DamagedRecord]


class SessionReports:
    """What sessions did, kept with the repository; each report is written once."""

    def __init__(self, store: Store, records: RecordCodec, clock: Clock) -> None:
        self._store = store
        self._records = records
        self._clock = clock

    def save(self, session_id: str, report: Mapping[str, Any]) -> None:
        """Store the report of a session; durable on return."""
        key = report_key(session_id, self._clock.now(), uuid.uuid4().hex)
        create_own(self._store, key, self._records.encode(key, _REPORT_KIND, report))

    def list(self, *, since: dt.datetime | None, newest: int | None) -> ReportListing:
        """Reports, oldest first; with bounds, only as many are read as the bounds let through."""
        keys = sorted(info.key for info in self._store.list(REPORTS))
        if since is not None:
            keys = [key for key in keys if key >= f"{REPORTS}{stamp(since)}"]
        if newest is not None:
            keys = keys[-newest:]
        listing = ReportListing([], [])
        with ThreadPoolExecutor(_READS_AT_ONCE, "ahvault-reports") as pool:
            for found in pool.map(self._read_or_tell, keys):
                if isinstance(found, DamagedRecord):
                    listing.damaged.append(found)
                else:
                    listing.reports.append(found)
        return listing

    def read(self, key: str) -> dict[str, Any]:
        """One report by its object name; raises DamagedObject."""
        return self._records.decode(key, _REPORT_KIND, self._store.get(key))

    def _read_or_tell(self, key: str) -> dict[str, Any] | DamagedRecord:
        try:
            return self.read(key)
        except (DamagedObject, UnsupportedFormat) as error:
            return DamagedRecord(key, str(error))
