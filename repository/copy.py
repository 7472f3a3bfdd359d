"""Copying restore points to a second repository: another store, another key, other chunk ids.

Chunk ids are keyed, so those of one repository say nothing in another: a chunk must be opened in
the source and named anew. What need not be read at all is known from the maps: where an earlier
state of the disk was copied before, only what differs between the two states is read, on top of
the earlier copy. The rest is an ordinary backup with the source's disk as its source. So a copy
that was killed is resumed like any session: what it stored is found by its chunks' ids, and read
again but not stored again.

A copy keeps what identifies the restore point (VM, job, session, moment, source) and names the one
that it was copied from, by repository and id. A copy of a copy names the original.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from repository.counters import TransferCounters
from repository.errors import DamagedObject, InvalidInput, ObjectNotFound
from repository.extents import Extent
from repository.points import CopyOrigin, DiskRecord, DiskSpec, PointDraft, RestorePoint
from repository.ports import Throttle
from repository.reader import DiskReader
from repository.repository import Repository
from repository.session import WriteSession

OnDisk = Callable[[RestorePoint, TransferCounters], None]


@dataclass(frozen=True, slots=True)
class PointCopy:
    """A restore point of the source and its copy in the target."""

    point: RestorePoint
    copy: RestorePoint


@dataclass(frozen=True, slots=True)
class CopyFailure:
    """A restore point that could not be copied because it is damaged; the others were."""

    point: RestorePoint
    error: DamagedObject | ObjectNotFound


@dataclass(slots=True)
class CopyReport:
    """What became of the restore points asked for, each oldest first."""

    copied: list[PointCopy] = field(default_factory=list)
    already_there: list[PointCopy] = field(default_factory=list)
    failed: list[CopyFailure] = field(default_factory=list)


def copy_points(
    source: Repository,
    target: Repository,
    points: Sequence[RestorePoint],
    *,
    session_id: str,
    on_disk: OnDisk | None = None,
    throttle: Throttle | None = None,
    source_throttle: Throttle | None = None,
    stop: threading.Event | None = None,
) -> CopyReport:
    """Copy restore points that the target lacks, oldest first; each exists once it is committed.

    A restore point that is damaged in the source is reported and does not stop the others. To be
    run again after any error or kill: what was committed is skipped, what was stored is reused.
    `on_disk` is called before each disk with the counters that its transfer will fill. `throttle`
    holds for what is sent to the target, `source_throttle` for what is fetched from the source.
    Raises InvalidInput if both are one repository, Stopped, UnsupportedFormat, or the errors of
    either store.
    """
    if source.id == target.id:
        raise InvalidInput("copy", f"{source.url} and {target.url} are the same repository")
    with target.write_session(session_id) as session:
        copier = _Copier(source, target, session, on_disk, throttle, source_throttle, stop)
        for point in sorted(points, key=_age):
            copier.take(point)
    return copier.report


def origin_of(repository: Repository, point: RestorePoint) -> CopyOrigin:
    """The restore point that a backup made, of which this is a copy or which it is."""
    itself = CopyOrigin(repository_id=repository.id, point_id=point.id)
    return point.copied_from or itself


def _age(point: RestorePoint) -> tuple[object, ...]:
    return (point.created_at, point.committed_at, point.id)


@dataclass(frozen=True, slots=True)
class _Base:
    """An earlier state of a disk in the source, and its copy in the target."""

    reader: DiskReader
    copy: DiskRecord


class _Copier:
    """Copies one restore point after the other into one session."""

    def __init__(
        self,
        source: Repository,
        target: Repository,
        session: WriteSession,
        on_disk: OnDisk | None,
        throttle: Throttle | None,
        source_throttle: Throttle | None,
        stop: threading.Event | None,
    ) -> None:
        self.report = CopyReport()
        self._source = source
        self._session = session
        self._on_disk = on_disk
        self._throttle = throttle
        self._source_throttle = source_throttle
        self._stop = stop
        self._history = source.points().points
        self._copies = {origin_of(target, point): point for point in target.points().points}

    def take(self, point: RestorePoint) -> None:
        """Copy the point unless the target has it."""
        origin = origin_of(self._source, point)
        known = self._copies.get(origin)
        if known is not None:
            self.report.already_there.append(PointCopy(point, known))
            return
        try:
            disks = tuple(self._copied_disk(point, record) for record in point.disks)
        except (DamagedObject, ObjectNotFound) as error:
            self.report.failed.append(CopyFailure(point, error))
            return
        copy = self._session.commit(self._draft(point, origin, disks))
        self._copies[origin] = copy
        self.report.copied.append(PointCopy(point, copy))

    def _draft(
        self, point: RestorePoint, origin: CopyOrigin, disks: tuple[DiskRecord, ...]
    ) -> PointDraft:
        facts = {name: getattr(point, name) for name in PointDraft.model_fields}
        previous = next(
            (each for each in self._history if each.id == point.previous_point_id), None
        )
        copy = self._copies.get(origin_of(self._source, previous)) if previous else None
        return PointDraft.model_validate(
            {
                **facts,
                "disks": disks,
                "previous_point_id": copy.id if copy else None,
                "copied_from": origin,
            }
        )

    def _copied_disk(self, point: RestorePoint, record: DiskRecord) -> DiskRecord:
        try:
            return self._written(point, record, self._base(point, record))
        except (DamagedObject, ObjectNotFound):
            # The earlier state may be what is damaged, here or there: do without it.
            return self._written(point, record, None)

    def _written(self, point: RestorePoint, record: DiskRecord, base: _Base | None) -> DiskRecord:
        reader = self._source.open_disk(point, record.disk_id, throttle=self._source_throttle)
        counters = TransferCounters()
        if self._on_disk is not None:
            self._on_disk(point, counters)
        return self._session.write_disk(
            DiskSpec(disk_id=record.disk_id, size_bytes=record.size_bytes, label=record.label),
            reader,
            self._extents(reader, base),
            base.copy if base else None,
            counters=counters,
            throttle=self._throttle,
            stop=self._stop,
            read_method=record.read_method,
            read_reason=record.read_reason,
            source_facts=record.source_facts,
        )

    def _extents(self, reader: DiskReader, base: _Base | None) -> list[Extent]:
        return reader.extents_changed_since(base.reader) if base else reader.extents()

    def _base(self, point: RestorePoint, record: DiskRecord) -> _Base | None:
        """The newest earlier state of the disk that was copied; raises DamagedObject."""
        for older in reversed(self._history):
            copy = self._copies.get(origin_of(self._source, older))
            if older.vm_id != point.vm_id or _age(older) >= _age(point) or copy is None:
                continue
            known, copied = older.disk(record.disk_id), copy.disk(record.disk_id)
            if known is not None and copied is not None:
                return _Base(self._source.open_disk(older, record.disk_id), copied)
        return None
