"""What restore points use: which chunks lie where, and which packs hold nothing that anybody needs.

Exact at the level of chunks, from two sources: the disk maps say what is needed, the index segments
say what there is. A reference is a few numbers per chunk, kept in a cache per disk state, so that a
run reads only maps that are new. The cache only saves time; it is checked, and may be deleted.

Memory: 32 bytes per distinct chunk needed, three times that for a moment, and a record per pack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from blake3 import blake3

from repository.errors import CollectionRefused, RepositoryError
from repository.maps import DiskMap
from repository.places import Mask, Places, id_prefixes, is_zero, pack_runs
from repository.points import DiskRecord
from repository.references import marks_of
from repository.segments import Segment

REFERENCE = np.dtype([("mark", "<u8"), ("id", "<u8"), ("pack", "<u8")])
"""A chunk at a place, its id's first bytes, and its pack's first bytes."""

Refs: TypeAlias = np.ndarray[Any, np.dtype[np.void]]
_DIGEST_BYTES = 32


def references_of(disk_map: DiskMap) -> Refs:
    """Every chunk that the disk needs, once, by mark; raises DamagedObject."""
    parts = [np.empty(0, dtype=REFERENCE)]
    for number in range(disk_map.shape.window_count):
        places = disk_map.window(number)
        data = places[~is_zero(places)]
        part = np.empty(len(data), dtype=REFERENCE)
        part["mark"], part["id"], part["pack"] = marks_of(data), id_prefixes(data), _packs_of(data)
        parts.append(part)
    return _distinct(np.concatenate(parts))


def _packs_of(places: Places) -> np.ndarray[Any, np.dtype[np.uint64]]:
    ids, counts = pack_runs(places)
    return np.repeat(np.array([pack_prefix(each) for each in ids], dtype=np.uint64), counts)


def pack_prefix(pack_id: bytes) -> int:
    """The first bytes of a pack's random id as a number."""
    return int.from_bytes(pack_id[:8], "little")


def _distinct(refs: Refs) -> Refs:
    _, first = np.unique(refs["mark"], return_index=True)
    return refs[first]


class ReferenceCache:
    """References by disk state, in a folder; without a folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def get(self, record: DiskRecord) -> Refs | None:
        """What was kept for this disk state; None if nothing was, or if it is damaged."""
        if self._folder is None:
            return None
        try:
            data = (self._folder / _state_id(record)).read_bytes()
        except FileNotFoundError:
            return None
        body = data[_DIGEST_BYTES:]
        whole = blake3(body, key=_state_key(record)).digest() == data[:_DIGEST_BYTES]
        return np.frombuffer(body, dtype=REFERENCE) if whole else None

    def put(self, record: DiskRecord, refs: Refs) -> None:
        """Keep the references of a disk state."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        body = refs.tobytes()
        path = self._folder / _state_id(record)
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(blake3(body, key=_state_key(record)).digest() + body)
        temporary.replace(path)

    def keep_only(self, records: Iterable[DiskRecord]) -> None:
        """Remove what belongs to other disk states."""
        if self._folder is None or not self._folder.is_dir():
            return
        wanted = {_state_id(record) for record in records}
        for path in self._folder.iterdir():
            if path.name not in wanted:
                path.unlink(missing_ok=True)


def _state_key(record: DiskRecord) -> bytes:
    names = "\n".join(f"{ref.key} {ref.sha256}" for ref in record.maps)
    return blake3(f"{record.root}\n{names}".encode()).digest()


def _state_id(record: DiskRecord) -> str:
    return _state_key(record).hex()


class Needed:
    """The references of many disk states, each once."""

    def __init__(self) -> None:
        self._refs = np.empty(0, dtype=REFERENCE)
        self._new: list[Refs] = []
        self._new_count = 0

    def add(self, refs: Refs) -> None:
        """Add those of one disk state."""
        self._new.append(refs[~among(refs["mark"], self._refs["mark"])])
        self._new_count += len(self._new[-1])
        if self._new_count > len(self._refs) // 2:
            self._merge()

    def all(self) -> Refs:
        """All of them, sorted by mark."""
        self._merge()
        return self._refs

    def _merge(self) -> None:
        self._refs = _distinct(np.concatenate([self._refs, *self._new]))
        self._new, self._new_count = [], 0


Found: TypeAlias = tuple[np.ndarray[Any, np.dtype[np.intp]], Mask]


def among(values: np.ndarray[Any, Any], known: np.ndarray[Any, Any]) -> Mask:
    """Which values are in the sorted array."""
    return _find(values, known)[1]


def _find(values: np.ndarray[Any, Any], known: np.ndarray[Any, Any]) -> Found:
    """Where the values stand in the sorted array, and which of them do.

    Sought in order, which takes the processor's caches a tenth of the time that it takes at random.
    """
    at = np.zeros(len(values), dtype=np.intp)
    if not len(known):
        return at, np.zeros(len(values), dtype=np.bool_)
    order = np.argsort(values)
    at[order] = np.minimum(np.searchsorted(known, values[order]), len(known) - 1)
    return at, np.asarray(known[at] == values)


@dataclass(slots=True)
class PackUse:
    """How much of one pack is needed."""

    sessions: set[str] = field(default_factory=set)
    chunk_bytes: int = 0
    needed_bytes: int = 0

    @property
    def dead_share(self) -> float:
        """The share of its chunks' bytes that nobody needs."""
        return 1 - self.needed_bytes / self.chunk_bytes if self.chunk_bytes else 0.0


@dataclass(frozen=True, slots=True)
class SegmentUse:
    """One index segment and the packs that it names."""

    key: str
    session: str
    packs: frozenset[bytes]
    row_count: int


@dataclass(slots=True)
class Usage:
    """What is needed of what there is."""

    packs: dict[bytes, PackUse]
    """Every pack that a segment names."""
    segments: list[SegmentUse]
    rescued: set[bytes]
    """Packs that were to be avoided, but hold the only copy of something needed."""
    unindexed: set[bytes]
    """Packs that no segment names and that are needed all the same."""
    moved: np.ndarray[Any, np.dtype[np.uint64]]
    """First bytes of the ids of chunks that are not where a map says: any place of them is needed."""


Segments: TypeAlias = Callable[[], Iterable[tuple[str, Segment | RepositoryError]]]


def measure(
    refs: Refs,
    segments: Segments,
    listed: Set[bytes],
    exists: Callable[[bytes], bool],
    avoided: Set[bytes],
) -> Usage:
    """Find for every reference a place that holds it, in packs that exist and are not avoided.

    A reference whose own pack does not count is met by any other place of the chunk. Only then may
    an avoided pack serve; then one that no segment names. Raises CollectionRefused if a segment
    cannot be read, or if something needed is nowhere: on doubt nothing is deleted.
    """
    return _Measurement(refs, segments, listed, exists, avoided).run()


class _Measurement:
    def __init__(
        self,
        refs: Refs,
        segments: Segments,
        listed: Set[bytes],
        exists: Callable[[bytes], bool],
        avoided: Set[bytes],
    ) -> None:
        self._refs = refs
        self._marks = np.ascontiguousarray(refs["mark"])
        self._segments = segments
        self._listed = listed
        self._exists = exists
        self._avoided = avoided
        self._met = np.zeros(len(refs), dtype=np.bool_)
        self._there: dict[bytes, bool] = {}
        self._usage = Usage({}, [], set(), set(), np.empty(0, dtype=np.uint64))

    def run(self) -> Usage:
        for key, segment in self._read():
            self._add_segment(key, segment)
            self._by_place(segment.places)
        self._usage.moved = np.unique(self._refs["id"][~self._met])
        if not self._met.all():
            self._by_id(avoided=False)
        if not self._met.all():
            self._by_id(avoided=True)
        if not self._met.all():
            self._by_unindexed_pack()
        missing = int((~self._met).sum())
        if missing:
            raise CollectionRefused(
                f"{missing} chunks that restore points need are in no pack that the index knows; "
                "run `ahvault verify`"
            )
        return self._usage

    def _read(self) -> Iterable[tuple[str, Segment]]:
        for key, segment in self._segments():
            if isinstance(segment, RepositoryError):
                raise CollectionRefused(f"an index segment cannot be read: {segment}")
            yield key, segment

    def _add_segment(self, key: str, segment: Segment) -> None:
        ids, lengths = _bytes_by_pack(segment.places)
        for pack_id, length_bytes in zip(ids, lengths, strict=True):
            use = self._usage.packs.setdefault(pack_id, PackUse())
            use.sessions.add(segment.session)
            use.chunk_bytes += length_bytes
        rows = len(segment.places)
        self._usage.segments.append(SegmentUse(key, segment.session, frozenset(ids), rows))

    def _by_place(self, places: Places) -> None:
        """Meet references by the very places that they name."""
        marks = marks_of(places)
        at, is_wanted = _find(marks, self._marks)
        hits = is_wanted & self._counts(places, avoided=False)
        self._met[at[hits]] = True
        self._add_needed(places[hits])

    def _by_id(self, *, avoided: bool) -> None:
        """Meet what is left by other places of the same chunks."""
        wanted = np.unique(self._refs["id"][~self._met])
        found = np.zeros(len(wanted), dtype=np.bool_)
        for _, segment in self._read():
            prefixes = id_prefixes(segment.places)
            at, is_wanted = _find(prefixes, wanted)
            hits = is_wanted & self._counts(segment.places, avoided=avoided)
            found[at[hits]] = True
            self._add_needed(segment.places[hits])
            if avoided:
                self._usage.rescued |= set(pack_runs(segment.places[hits])[0])
        rows = np.flatnonzero(~self._met)
        self._met[rows] = among(self._refs["id"][rows], wanted[found])

    def _by_unindexed_pack(self) -> None:
        """What no segment names is kept whole if a map names it: the index was not complete."""
        unindexed = {pack_prefix(each): each for each in self._listed - self._usage.packs.keys()}
        for row in np.flatnonzero(~self._met):
            pack_id = unindexed.get(int(self._refs["pack"][row]))
            if pack_id is not None:
                self._usage.unindexed.add(pack_id)
                self._met[row] = True

    def _counts(self, places: Places, *, avoided: bool) -> Mask:
        """Which rows lie in packs that exist and are, or are not, to be avoided."""
        ids, counts = pack_runs(places)
        good = [(each in self._avoided) is avoided and self._is_there(each) for each in ids]
        return np.repeat(np.array(good, dtype=np.bool_), counts)

    def _is_there(self, pack_id: bytes) -> bool:
        """Whether the pack exists; one made since the listing is looked at."""
        if pack_id in self._listed:
            return True
        if pack_id not in self._there:
            self._there[pack_id] = self._exists(pack_id)
        return self._there[pack_id]

    def _add_needed(self, places: Places) -> None:
        ids, lengths = _bytes_by_pack(places)
        for pack_id, length_bytes in zip(ids, lengths, strict=True):
            # A segment may have come since the first look: then its packs are new here.
            self._usage.packs.setdefault(pack_id, PackUse()).needed_bytes += length_bytes


def _bytes_by_pack(places: Places) -> tuple[list[bytes], list[int]]:
    """The packs of consecutive rows, and the stored bytes of the rows of each."""
    ids, counts = pack_runs(places)
    if not ids:
        return [], []
    lengths = places["length"].astype(np.int64)
    return ids, np.add.reduceat(lengths, np.cumsum(counts) - counts).tolist()
