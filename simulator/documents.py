"""The simulator's memory: JSON documents by kind and id, all changes in transactions.

Reads come from memory and take no lock: a document is never changed in place, only replaced. Every
change is committed to SQLite before `change()` returns, so a simulator that is killed comes back with
whole changes only. What the documents mean is no business of this file.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Document = dict[str, Any]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    kind TEXT NOT NULL, ext_id TEXT NOT NULL, sequence INTEGER NOT NULL, revision INTEGER NOT NULL,
    document TEXT NOT NULL, private TEXT NOT NULL, PRIMARY KEY (kind, ext_id)) WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True)
class Record:
    """One document with what only the simulator knows of the same thing.

    `document` is what the API shows; `private` never leaves. `revision` grows by one per change of
    either, over the life of the id.
    """

    ext_id: str
    sequence: int
    revision: int
    document: Document
    private: Document


class Documents:
    """Documents in memory, mirrored in one SQLite file.

    `change()` serialises writers; within it a thread sees its own writes. Other threads may see a
    change a moment before it is durable, never half of a document.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._undo: dict[tuple[str, str], Record | None] = {}
        self._afterwards: list[Callable[[], None]] = []
        self._kinds: dict[str, dict[str, Record]] = {}
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.execute(_SCHEMA)
        self._sequence = 0
        self._load()

    def _load(self) -> None:
        rows = self._database.execute(
            "SELECT kind, ext_id, sequence, revision, document, private FROM documents ORDER BY sequence"
        )
        for kind, ext_id, sequence, revision, document, private in rows:
            record = Record(ext_id, sequence, revision, json.loads(document), json.loads(private))
            self._kinds.setdefault(kind, {})[ext_id] = record
            self._sequence = max(self._sequence, sequence)

    def find(self, kind: str, ext_id: str) -> Record | None:
        """The record, or None."""
        return self._kinds.get(kind, {}).get(ext_id)

    def all(self, kind: str) -> list[Record]:
        """Every record of a kind, oldest first."""
        return list(self._kinds.get(kind, {}).values())

    def put(
        self, kind: str, ext_id: str, document: Document, private: Document | None = None
    ) -> Record:
        """Write a document; `private` None keeps what is there. Only within `change()`."""
        old = self._remember(kind, ext_id)
        if old is None:
            self._sequence += 1
            record = Record(ext_id, self._sequence, 1, document, private or {})
        else:
            kept = old.private if private is None else private
            record = Record(ext_id, old.sequence, old.revision + 1, document, kept)
        self._kinds.setdefault(kind, {})[ext_id] = record
        return record

    def delete(self, kind: str, ext_id: str) -> None:
        """Forget a document; one that is not there is no error. Only within `change()`."""
        self._remember(kind, ext_id)
        self._kinds.get(kind, {}).pop(ext_id, None)

    def _remember(self, kind: str, ext_id: str) -> Record | None:
        if self._depth == 0:
            raise RuntimeError("documents change only within change()")
        old = self.find(kind, ext_id)
        self._undo.setdefault((kind, ext_id), old)
        return old

    def after_commit(self, step: Callable[[], None]) -> None:
        """Do something once the current change is durable, and not at all if it is undone."""
        self._afterwards.append(step)

    @contextmanager
    def change(self) -> Iterator[None]:
        """All or nothing: durable when the block ends, undone when it raises. Blocks may nest."""
        with self._lock:
            self._depth += 1
            try:
                yield
                if self._depth == 1:
                    self._commit()
            except BaseException:
                if self._depth == 1:
                    self._roll_back()
                raise
            finally:
                self._depth -= 1
            if self._depth == 0:
                steps, self._afterwards = self._afterwards, []
                for step in steps:
                    step()

    def _commit(self) -> None:
        if not self._undo:
            return
        self._database.execute("BEGIN")
        try:
            for kind, ext_id in self._undo:
                self._write(kind, ext_id)
            self._database.execute("COMMIT")
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._undo = {}

    def _write(self, kind: str, ext_id: str) -> None:
        record = self.find(kind, ext_id)
        if record is None:
            self._database.execute(
                "DELETE FROM documents WHERE kind = ? AND ext_id = ?", (kind, ext_id)
            )
            return
        row = (kind, ext_id, record.sequence, record.revision)
        texts = (json.dumps(record.document), json.dumps(record.private))
        self._database.execute(
            "INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?, ?)", row + texts
        )

    def _roll_back(self) -> None:
        for (kind, ext_id), old in self._undo.items():
            if old is None:
                self._kinds.get(kind, {}).pop(ext_id, None)
            else:
                self._kinds.setdefault(kind, {})[ext_id] = old
        self._undo, self._afterwards = {}, []

    def close(self) -> None:
        """Close the database; the documents stay readable."""
        with self._lock:
            self._database.close()
