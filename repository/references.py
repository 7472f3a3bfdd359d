"""What restore points refer to: which packs, which places in them, and who is concerned by damage.

Many restore points share disks that did not change; a disk state is looked at once, however many
restore points have it. Memory: 4 bytes per pack and state, 12 bytes per distinct reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from repository.extents import Extent, ExtentKind
from repository.findings import Concerned
from repository.maps import WINDOW_CHUNKS, DiskMap
from repository.places import (
    PACK_ID_BYTES,
    Mask,
    Places,
    id_prefixes,
    in_packs,
    is_zero,
    pack_runs,
)
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

    def __init__(self, *, marked: Set[bytes] | None) -> None:
        """`marked` are the packs whose references are kept one by one; None stands for all."""
        self._numbers: dict[bytes, int] = {}
        self._packs_of: list[tuple[DiskState, np.ndarray[Any, np.dtype[np.uint32]]]] = []
        self._marks: Marks = np.empty(0, dtype=np.uint64)
        self._pack_of_mark: np.ndarray[Any, np.dtype[np.uint32]] = np.empty(0, dtype=np.uint32)
        self._marked = marked

    def add(self, state: DiskState, disk_map: DiskMap) -> None:
        """Gather what a state refers to; raises DamagedObject, having gathered nothing of it."""
        numbers: set[int] = set()
        marks, packs_of_marks = [self._marks], [self._pack_of_mark]
        for _, places in data_places(disk_map):
            data = places[~is_zero(places)]
            numbers |= {self._number(pack_id) for pack_id in pack_runs(data)[0]}
            if self._marked is not None:
                data = data[in_packs(data, self._marked)]
            ids, counts = pack_runs(data)
            marks.append(marks_of(data))
            own_numbers = np.array([self._number(each) for each in ids], dtype=np.uint32)
            packs_of_marks.append(np.repeat(own_numbers, counts))
        self._packs_of.append((state, np.array(sorted(numbers), dtype=np.uint32)))
        self._marks, first = np.unique(np.concatenate(marks), return_index=True)
        self._pack_of_mark = np.concatenate(packs_of_marks)[first]

    def _number(self, pack_id: bytes) -> int:
        return self._numbers.setdefault(pack_id, len(self._numbers))

    @property
    def pack_ids(self) -> list[bytes]:
        """All packs referred to."""
        return list(self._numbers)

    def marks_in(self, packs: Set[bytes]) -> Marks:
        """The marks of all references into these packs, sorted."""
        numbers = [self._numbers[pack_id] for pack_id in packs if pack_id in self._numbers]
        wanted = np.isin(self._pack_of_mark, np.array(numbers, dtype=np.uint32))
        return np.asarray(self._marks[wanted])

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
