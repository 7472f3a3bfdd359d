"""The part of a verification that reads all but the packs: records, index segments, disk maps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

from repository.catalogue import Catalogue
from repository.description import Description
from repository.errors import DamagedObject, ObjectNotFound, Stopped, UnsupportedFormat
from repository.findings import Concerned
from repository.generations import Generations
from repository.keyring import read_wrap
from repository.layout import (
    GENERATIONS,
    HOLDS,
    KEYS,
    LEDGER,
    LIVE,
    POINTS,
    QUARANTINE,
    REPORTS,
    REPOSITORY_FILE,
    SEGMENTS,
    TOMBS,
    point_id_of,
)
from repository.ledger import check_ledger_object
from repository.maps import DiskMap
from repository.marks import LOST, TOMB_MARKS, Marks
from repository.points import DiskRecord, RestorePoint
from repository.quarantine import object_id, quarantined
from repository.records import RecordCodec
from repository.references import DiskState, References
from repository.segments import decode_segment
from repository.sightings import Sightings
from repository.store import Store
from repository.verify_packs import BAD, finding_of

_SIDE_RECORDS = (
    (REPORTS, "report"),
    (LIVE, "live"),
    (TOMBS, "tomb"),
    (HOLDS, "hold"),
    (QUARANTINE, "quarantine"),
)


class RecordVerifier:
    """Reads records, segments and maps, and adds to what was seen; every call may raise Stopped."""

    def __init__(
        self,
        store: Store,
        records: RecordCodec,
        catalogue: Catalogue,
        seen: Sightings,
        chosen: Sequence[RestorePoint] | None,
        stop: threading.Event,
    ) -> None:
        """`chosen` are the restore points to look at; None for all."""
        self._store = store
        self._records = records
        self._catalogue = catalogue
        self._seen = seen
        self._chosen = chosen
        self._stop = stop

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Stopped("the verification")

    def check_points(self) -> list[RestorePoint]:
        """The restore points whose records read back; findings for those that do not.

        Nobody is told of points that an operator has given up.
        """
        if self._chosen is None:
            tombs = Marks(self._store, self._records, TOMB_MARKS).marked()
            lost = {point_id for point_id, tomb in tombs.items() if tomb.state == LOST}
            listed = (info.key for info in self._store.list(POINTS))
            keys = [key for key in listed if point_id_of(key) not in lost]
        else:
            keys = [point.key for point in self._chosen]
        points = []
        for key in keys:
            self._check_stop()
            self._seen.looked_at.add(key)
            try:
                points.append(self._catalogue.read_anew(key))
            except BAD as error:
                chosen = self._chosen or ()
                vm_name = next((point.vm_name for point in chosen if point.key == key), "")
                concerned = (Concerned(point_id_of(key), vm_name),)
                self._seen.add(finding_of(key, error, concerned))
        return points

    def check_segments(self) -> dict[bytes, int]:
        """The packs' sizes in bytes; a bad segment costs no restore point anything."""
        bad = quarantined(self._store)
        pack_sizes_bytes: dict[bytes, int] = {}
        for info in self._store.list(SEGMENTS):
            self._check_stop()
            if object_id(info.key) in bad:
                continue
            try:
                stored = self._store.get(info.key)
                segment = decode_segment(info.key, stored, self._records.keys, self._records.sealer)
            except ObjectNotFound:
                continue  # written anew and swept since it was listed
            except BAD as error:
                if self._chosen is None:
                    self._seen.add(finding_of(info.key, error))
                continue
            finally:
                if self._chosen is None:
                    self._seen.looked_at.add(info.key)
            pack_sizes_bytes.update(segment.pack_sizes_bytes)
        return pack_sizes_bytes

    def check_side_records(self) -> None:
        """`repo.json`, key wraps, reports, live records, marks, generations and the ledger."""
        self._check_object(REPOSITORY_FILE, partial(Description.decode, self._store.url))
        for info in self._store.list(KEYS):
            self._check_object(info.key, partial(read_wrap, info.key))
        for prefix, kind in _SIDE_RECORDS:
            for info in self._store.list(prefix):
                self._check_object(info.key, partial(self._records.decode, info.key, kind))
        generations = Generations(self._store, self._records)
        for info in self._store.list(GENERATIONS):
            if info.key.endswith(".json"):
                self._check_object(info.key, partial(generations.check, info.key))
        for info in self._store.list(LEDGER):
            decode = partial(check_ledger_object, info.key, records=self._records)
            self._check_object(info.key, decode)

    def _check_object(self, key: str, decode: Callable[[bytes], object]) -> None:
        self._check_stop()
        self._seen.looked_at.add(key)
        try:
            decode(self._store.get(key))
        except ObjectNotFound:
            return  # a live record, deleted since it was listed
        except BAD as error:
            self._seen.add(finding_of(key, error))

    def check_map(
        self, state: DiskState, references: References, open_map: Callable[[DiskRecord], DiskMap]
    ) -> None:
        """Read the whole map of a disk state and gather what it refers to."""
        self._check_stop()
        self._seen.looked_at |= {ref.key for ref in state.record.maps}
        try:
            references.add(state, open_map(state.record))
        except BAD as error:
            if isinstance(error, ObjectNotFound) and self._has_been_swept(state):
                return
            self._seen.add(finding_of(_key_of(error), error, state.concerned()))

    def _has_been_swept(self, state: DiskState) -> bool:
        """Whether collection has deleted all restore points of the state since they were listed."""
        return all(self._store.stat(point.key) is None for point in state.points)


def _key_of(error: DamagedObject | ObjectNotFound | UnsupportedFormat) -> str:
    return error.url if isinstance(error, UnsupportedFormat) else error.key
