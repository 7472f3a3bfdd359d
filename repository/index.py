"""The index of one process: chunk id to place, flat in memory whatever the repository's size.

Rows live in an unnamed temporary file. Beside them stand runs of 12 bytes per chunk (an 8-byte id
prefix and a row number, sorted), that is 12 MiB per TiB at 1 MiB chunks; runs of more than a quarter
million chunks are mapped temporary files too, which the system may drop from memory. New rows come
as sorted runs; runs merge so that each is at least twice the next, which keeps both adding and
looking up logarithmic. Large runs merge in slices.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from repository.places import ID_BYTES, PLACE, Places, id_prefixes

_Prefixes: TypeAlias = np.ndarray[Any, np.dtype[np.uint64]]
_RowNumbers: TypeAlias = np.ndarray[Any, np.dtype[np.uint32]]

_MAPPED_ROWS_MIN = 2**18
_MERGE_ROWS = 2**20


class _Run(NamedTuple):
    prefixes: _Prefixes
    rows: _RowNumbers


class ChunkIndex:
    """Chunks known to be stored. Thread-safe: adding swaps the runs, looking up uses what it saw."""

    def __init__(self) -> None:
        self._spool = tempfile.TemporaryFile(prefix="ahvault-index-")  # noqa: SIM115 - closed by close()
        self._row_count = 0
        self._runs: tuple[_Run, ...] = ()
        self._adding = threading.Lock()

    def __len__(self) -> int:
        return self._row_count

    def add(self, places: Places) -> None:
        """Make these chunks known. Their packs must be stored: others will refer to them."""
        if not len(places):
            return
        with self._adding:
            first_row = self._row_count
            _append(self._spool.fileno(), places, first_row)
            self._row_count += len(places)
            self._runs = _merged((*self._runs, _sorted_run(places, first_row)))

    def find(self, chunk_ids: Sequence[bytes]) -> list[Places | None]:
        """For each id a row of one place that holds it, or None."""
        found: list[Places | None] = [None] * len(chunk_ids)
        prefixes = np.array([int.from_bytes(i[:8], "big") for i in chunk_ids], dtype=np.uint64)
        for run in self._runs:
            positions = np.searchsorted(run.prefixes, prefixes)
            for number, position in enumerate(positions.tolist()):
                if found[number] is None:
                    found[number] = self._row_in(run, position, chunk_ids[number])
        return found

    def close(self) -> None:
        """Give the temporary files back."""
        self._runs = ()
        self._spool.close()

    def _row_in(self, run: _Run, position: int, chunk_id: bytes) -> Places | None:
        prefix = int.from_bytes(chunk_id[:8], "big")
        while position < len(run.prefixes) and int(run.prefixes[position]) == prefix:
            offset = int(run.rows[position]) * PLACE.itemsize
            row = os.pread(self._spool.fileno(), PLACE.itemsize, offset)
            if row[:ID_BYTES] == chunk_id:
                return np.frombuffer(row, dtype=PLACE)
            position += 1
        return None


def _append(descriptor: int, places: Places, first_row: int) -> None:
    data = memoryview(places.tobytes())
    offset = first_row * PLACE.itemsize
    while data:
        written = os.pwrite(descriptor, data, offset)
        data = data[written:]
        offset += written


def _sorted_run(places: Places, first_row: int) -> _Run:
    prefixes = id_prefixes(places)
    order = np.argsort(prefixes, kind="stable")
    return _Run(prefixes[order], (order + first_row).astype(np.uint32))


def _merged(runs: tuple[_Run, ...]) -> tuple[_Run, ...]:
    while len(runs) > 1 and len(runs[-2].rows) < 2 * len(runs[-1].rows):
        runs = (*runs[:-2], _merged_pair(runs[-2], runs[-1]))
    return runs


def _merged_pair(older: _Run, newer: _Run) -> _Run:
    merged = _room_for(len(older.rows) + len(newer.rows))
    written = taken = 0
    for start in range(0, len(older.rows), _MERGE_ROWS):
        end = min(start + _MERGE_ROWS, len(older.rows))
        is_last = end == len(older.rows)
        # Ids are hashes, spread evenly, so that a slice of one run meets a slice of the other.
        upto = None if is_last else int(np.searchsorted(newer.prefixes, older.prefixes[end]))
        prefixes = np.concatenate([older.prefixes[start:end], newer.prefixes[taken:upto]])
        order = np.argsort(prefixes, kind="stable")
        rows = np.concatenate([older.rows[start:end], newer.rows[taken:upto]])
        merged.prefixes[written : written + len(order)] = prefixes[order]
        merged.rows[written : written + len(order)] = rows[order]
        written += len(order)
        taken = len(newer.rows) if upto is None else upto
    return merged


def _room_for(count: int) -> _Run:
    """A run to be filled: in memory if it is small, else in mapped files without names."""
    if count < _MAPPED_ROWS_MIN:
        return _Run(np.empty(count, np.uint64), np.empty(count, np.uint32))
    with (
        tempfile.TemporaryFile(prefix="ahvault-run-") as prefixes,
        tempfile.TemporaryFile(prefix="ahvault-run-") as rows,
    ):
        return _Run(
            np.memmap(prefixes, np.uint64, "w+", shape=(count,)),
            np.memmap(rows, np.uint32, "w+", shape=(count,)),
        )
