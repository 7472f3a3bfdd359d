"""What restore points refer to: which packs, which places in them, and who is concerned by damage.

Many restore points share disks that did not change; a disk state is looked at once, however many
restore points have it. Memory: 4 bytes per pack and state, 8 bytes per distinct reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from repository.extents import Extent, ExtentKind
from repository.findings import Concerned
from repository.maps import WINDOW_CHUNKS, DiskMap
from repository.places import PACK_ID_BYTES, Mask, Places, id_prefixes, is_zero
from repository.points import DiskRecord, RestorePoint

Marks: TypeAlias = np.ndarray[Any, np.dtype[np.uint64]]

# Odd constants with well mixed bits (the golden ratio and two of splitmix64's multipliers).
_MIX_ID = np.uint64(0x9E3779B97F4A7C15)
_MIX_PACK = np.uint64(0xBF58476D1CE4E5B9)
_MIX_RANGE = np.uint64(0x94D049BB133111EB)


def marks_of(places: Places) -> Marks:
    """An 8-byte mark of each reference: same id, pack, offset and length give the same mark."""
    packs = np.ascontiguousarray(places["pack"]).view(np.uint8).reshape(-1, PACK_ID_BYTES)
    pack_prefixes = np.ascontiguousarray(packs[:, :8]).view("<u8").reshape(-1)
    ranges = places["offset"].astype(np.uint64) << np.uint64(32)
    ranges |= places["length"].astype(np.uint64)
    mixed = id_prefixes(places) * _MIX_ID
    mixed ^= pack_prefixes * _MIX_PACK
    return np.asarray(mixed ^ (ranges * _MIX_RANGE), dtype=np.uint64)


@dataclass(slots=True)
class DiskState:
    """One state of one disk, and the restore points that have it."""

    record: DiskRecord
    points: list[RestorePoint] = field(default_factory=list)

    def concerned(self, extents: Sequence[Extent] = ()) -> list[Concerned]:
        """Every restore point with this state, all of the disk or the extents of it."""
        return [
            Concerned(point.id, point.vm_name, self.record.disk_id, tuple(extents))
            for point in self.points
        ]


def disk_states(points: Sequence[RestorePoint]) -> list[DiskState]:
    """The distinct states of the disks of these restore points."""
    states: dict[tuple[object, ...], DiskState] = {}
    for point in points:
        for record in point.disks:
            identity = (record.disk_id, record.root, record.maps)
            states.setdefault(identity, DiskState(record)).points.append(point)
    return list(states.values())


def data_places(disk_map: DiskMap) -> Iterator[tuple[int, Places]]:
    """Per window the number of its first chunk and all its rows; raises DamagedObject."""
    for number in range(disk_map.shape.window_count):
        yield number * WINDOW_CHUNKS, disk_map.window(number)


class References:
    """Everything that disk states refer to."""

    def __init__(self, *, with_marks: bool) -> None:
        self._numbers: dict[bytes, int] = {}
        self._packs_of: list[tuple[DiskState, np.ndarray[Any, np.dtype[np.uint32]]]] = []
        self._marks: list[Marks] = []
        self._with_marks = with_marks

    def add(self, state: DiskState, disk_map: DiskMap) -> None:
        """Gather what a state refers to; raises DamagedObject, having gathered nothing of it."""
        numbers: set[int] = set()
        marks: list[Marks] = []
        for _, places in data_places(disk_map):
            data = places[~is_zero(places)]
            packs = {bytes(pack) for pack in data["pack"].tolist()}
            numbers |= {self._numbers.setdefault(pack, len(self._numbers)) for pack in packs}
            if self._with_marks:
                marks.append(marks_of(data))
        self._packs_of.append((state, np.array(sorted(numbers), dtype=np.uint32)))
        if marks:
            self._marks = [np.unique(np.concatenate([*self._marks, *marks]))]

    @property
    def pack_ids(self) -> list[bytes]:
        """All packs referred to."""
        return list(self._numbers)

    @property
    def marks(self) -> Marks:
        """The marks of all references, sorted."""
        return self._marks[0] if self._marks else np.empty(0, dtype=np.uint64)

    def states_with(self, pack_id: bytes) -> list[DiskState]:
        """The states that refer to a pack."""
        number = self._numbers.get(pack_id)
        if number is None:
            return []
        return [state for state, packs in self._packs_of if number in packs]

    @property
    def states(self) -> list[DiskState]:
        """All states gathered."""
        return [state for state, _ in self._packs_of]


def matching_extents(disk_map: DiskMap, matches: Callable[[Places], Mask]) -> list[Extent]:
    """The extents of a disk whose chunks match; raises DamagedObject."""
    shape = disk_map.shape
    extents: list[Extent] = []
    for first, places in data_places(disk_map):
        hits = matches(places) & ~is_zero(places)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], hits, [False]]).astype(np.int8)))
        for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            start_bytes = (first + start) * shape.chunk_size_bytes
            end_bytes = min((first + end) * shape.chunk_size_bytes, shape.size_bytes)
            extents.append(Extent(start_bytes, end_bytes, ExtentKind.DATA))
    return extents
