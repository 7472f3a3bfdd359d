"""Marks on restore points: forgotten, lost or restored (tombs), held or released (holds).

Commit records never change, so what becomes of a restore point later stands in objects of its own,
each written once. Marks of one point are numbered; the highest number holds, and of two with the
same number (two hosts at once) the one that keeps the point. Number and state stand in the name, so
that one listing tells the state of everything; the record inside says when and why.
"""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass

from repository.creating import create
from repository.errors import CommitFailed, DamagedObject
from repository.layout import HOLDS, TOMBS, mark_key, safe_name
from repository.points import RestorePoint
from repository.records import RecordCodec
from repository.store import Store


@dataclass(frozen=True, slots=True)
class MarkFamily:
    """What sort of marks these are."""

    prefix: str
    kind: str
    marked: frozenset[str]
    """The states that the mark is made for."""
    unmarked: str
    """The state of a point without any mark."""
    keeping: str
    """Which of the two keeps a point: it wins ties."""


FORGOTTEN = "forgotten"
LOST = "lost"
"""An operator has given the damaged point up: collection need not know what it refers to."""
TOMB_MARKS = MarkFamily(TOMBS, "tomb", frozenset({FORGOTTEN, LOST}), "restored", keeping="restored")
HOLD_MARKS = MarkFamily(HOLDS, "hold", frozenset({"held"}), "released", keeping="held")


@dataclass(frozen=True, slots=True)
class MarkName:
    """A mark as its name tells it."""

    key: str
    point_id: str
    number: int
    state: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark as its record tells it."""

    state: str
    at: dt.datetime
    reason: str


class Marks:
    """The marks of one family. Thread-safe."""

    def __init__(self, store: Store, records: RecordCodec, family: MarkFamily) -> None:
        self._store = store
        self._records = records
        self._family = family

    def names(self, vm_id: str | None = None) -> list[MarkName]:
        """All marks of one VM's points, or of all, from one listing; what is no mark is left out."""
        prefix = self._family.prefix + (f"{safe_name(vm_id)}/" if vm_id is not None else "")
        parsed = (self._parsed(info.key) for info in self._store.list(prefix))
        return [name for name in parsed if name is not None]

    def newest(self, vm_id: str | None = None) -> dict[str, MarkName]:
        """The mark that holds, by restore point."""
        newest: dict[str, MarkName] = {}
        for name in self.names(vm_id):
            known = newest.get(name.point_id)
            if known is None or self._rank(name) > self._rank(known):
                newest[name.point_id] = name
        return newest

    def marked(self, vm_id: str | None = None) -> dict[str, MarkName]:
        """The restore points that are forgotten, or held, and the mark that says so."""
        newest = self.newest(vm_id)
        return {point: name for point, name in newest.items() if name.state in self._family.marked}

    def put(self, point: RestorePoint, state: str, at: dt.datetime, reason: str) -> None:
        """Set the point's state; durable on return. Nothing is written if it is so already."""
        self.put_on(point.vm_id, point.id, state, at, reason)

    def put_on(self, vm_id: str, point_id: str, state: str, at: dt.datetime, reason: str) -> None:
        """The same for a point whose record cannot be read."""
        newest = self.newest(vm_id).get(point_id)
        if (newest.state if newest else self._family.unmarked) == state:
            return
        number = newest.number + 1 if newest else 1
        key = mark_key(self._family.prefix, vm_id, point_id, number, state, uuid.uuid4().hex)
        body = {"point_id": point_id, "state": state, "at": at.isoformat(), "reason": reason}
        if not create(self._store, key, self._records.encode(key, self._family.kind, body)):
            raise CommitFailed(key, "another object has its random name")

    def read(self, name: MarkName) -> Mark:
        """When and why; raises DamagedObject, also for a record that its name contradicts."""
        body = self._records.decode(name.key, self._family.kind, self._store.get(name.key))
        try:
            mark = Mark(body["state"], dt.datetime.fromisoformat(body["at"]), body["reason"])
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedObject(name.key, f"its members cannot be ({error})") from error
        if (body.get("point_id"), mark.state) != (name.point_id, name.state):
            raise DamagedObject(name.key, "it does not say what its name says")
        if mark.at.utcoffset() is None:
            raise DamagedObject(name.key, "its time has no time zone")
        return mark

    def _rank(self, name: MarkName) -> tuple[int, bool]:
        return name.number, name.state == self._family.keeping

    def _parsed(self, key: str) -> MarkName | None:
        parts = key.removeprefix(self._family.prefix).removesuffix(".json").split("/")
        fields = parts[-1].split("-")
        if len(parts) != 3 or len(fields) != 3 or not fields[0].isdigit():
            return None
        if fields[1] not in {*self._family.marked, self._family.unmarked}:
            return None
        return MarkName(key, parts[1], int(fields[0]), fields[1])
