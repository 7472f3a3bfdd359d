"""Reading one disk of a restore point: at random, or all of it to a target."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from time import perf_counter

import numpy as np

from repository.buffers import ThreadBuffers
from repository.concurrency import run_in_order
from repository.controls import TransferControls
from repository.counters import TransferCounters
from repository.errors import DamagedObject, InvalidInput, ObjectNotFound
from repository.extents import Extent, ExtentKind
from repository.fetching import RANGE_BYTES_MAX, ChunkFetcher, FetchRange, plan_fetches
from repository.maps import WINDOW_CHUNKS, DiskMap, DiskShape
from repository.places import Mask, Places, differ, is_zero
from repository.ports import Buffer, DiskTarget, Throttle
from repository.units import MiB

_WHAT = "the restore"
_WINDOWS_KEPT = 4
_CHUNK_BYTES_KEPT = 16 * MiB
_FETCHES_AT_ONCE_NEAR = 2  # beyond the cores: some wait for the disk while the others decode
_FETCHES_AT_ONCE_FAR = 16


class DiskReader:
    """One disk of one restore point, itself a DiskSource; made by `Repository.open_disk`.

    Thread-safe. Every chunk handed out was proven against its id, and the map that names it against
    the root hash in the commit record. Memory stays flat whatever the disk's size.
    """

    def __init__(
        self,
        disk_map: DiskMap,
        fetcher: ChunkFetcher,
        *,
        high_latency: bool,
        throttle: Throttle | None = None,
    ) -> None:
        self._throttle = throttle
        self._map = disk_map
        self._shape = disk_map.shape
        self._fetcher = fetcher
        cores = os.cpu_count() or 1
        self._threads = _FETCHES_AT_ONCE_FAR if high_latency else cores + _FETCHES_AT_ONCE_NEAR
        self._guard = threading.Lock()
        self._windows: OrderedDict[int, Places] = OrderedDict()
        self._chunks: OrderedDict[int, Buffer] = OrderedDict()
        self._chunks_kept = max(1, _CHUNK_BYTES_KEPT // self._shape.chunk_size_bytes)

    @property
    def size_bytes(self) -> int:
        return self._shape.size_bytes

    def read_into(self, offset_bytes: int, buffer: memoryview) -> None:
        """Fill the buffer with the disk's bytes at the offset.

        Raises InvalidInput for a range outside the disk, DamagedObject, or the store's errors.
        """
        end = offset_bytes + len(buffer)
        if offset_bytes < 0 or end > self.size_bytes:
            raise InvalidInput(f"read of [{offset_bytes}, {end})", "is outside the disk")
        size = self._shape.chunk_size_bytes
        step = max(1, RANGE_BYTES_MAX // size)
        for first in range(offset_bytes // size, -(-end // size), step):
            last = min(first + step, -(-end // size))
            for chunk, plain in self._plain_chunks(first, last):
                _copy_overlap(
                    buffer, offset_bytes, plain, chunk * size, self._shape.chunk_bytes(chunk)
                )

    def extents(self) -> list[Extent]:
        """The whole disk as DATA and ZERO extents, sorted, in whole chunks."""
        found: list[Extent] = []
        for number in range(self._shape.window_count):
            zero = is_zero(self._window(number))
            edges = np.flatnonzero(np.diff(zero.astype(np.int8))) + 1
            bounds = [0, *edges.tolist(), len(zero)]
            for start, end in pairwise(bounds):
                kind = ExtentKind.ZERO if zero[start] else ExtentKind.DATA
                self._add_extent(found, number * WINDOW_CHUNKS + start, end - start, kind)
        return found

    def extents_changed_since(self, older: DiskReader) -> list[Extent]:
        """What differs from another state of the same repository, sorted, in whole chunks.

        Everything behind the end of the older state is named. Costs maps only, and of those only
        the windows that differ. Raises DamagedObject.
        """
        found: list[Extent] = []
        for number in range(self._shape.window_count):
            changed = self._changed_rows(older, number)
            if not changed.any():
                continue
            kinds = np.where(changed, 1 + is_zero(self._window(number)), 0).astype(np.int8)
            edges = np.flatnonzero(np.diff(kinds)) + 1
            for start, end in pairwise([0, *edges.tolist(), len(kinds)]):
                if kinds[start]:
                    kind = ExtentKind.DATA if kinds[start] == 1 else ExtentKind.ZERO
                    found.append(self._extent(number * WINDOW_CHUNKS + start, end - start, kind))
        return found

    def _changed_rows(self, older: DiskReader, number: int) -> Mask:
        """Which chunks of a window the older state lacks, or has with other bytes."""
        changed = np.ones(self._shape.chunks_in_window(number), dtype=np.bool_)
        if number < older._shape.window_count:
            known = older._map.window_digests[number]
            if known == self._map.window_digests[number]:
                changed[:] = False
            else:
                before, after = older._window(number), self._window(number)
                shared = min(len(before), len(after))
                changed[:shared] = differ(before[:shared], after[:shared])
        if self.size_bytes != older.size_bytes:  # the chunk of the shorter end has another length
            end = min(self.size_bytes, older.size_bytes) // self._shape.chunk_size_bytes
            if 0 <= end - number * WINDOW_CHUNKS < len(changed):
                changed[end - number * WINDOW_CHUNKS] = True
        return changed

    def restore_to(
        self,
        target: DiskTarget,
        *,
        target_is_blank: bool,
        counters: TransferCounters | None = None,
        throttle: Throttle | None = None,
        stop: threading.Event | None = None,
        on_damage: Callable[[Extent], None] | None = None,
    ) -> None:
        """Write the whole disk to the target and flush it.

        On a target that is known to read as zeros, zero chunks are skipped; on any other they are
        written. A target larger than the disk keeps its bytes behind the disk's end. Errors:
        InvalidInput for a smaller target, DamagedObject, Stopped, the store's errors, and whatever
        the target raises; the target then holds part of the disk.

        With `on_damage` a chunk that cannot be read is no error: it is written as zeros and its
        extent told, from several threads and in any order. Damaged maps still are.
        """
        if target.size_bytes < self.size_bytes:
            raise InvalidInput(
                "restore target",
                f"has {target.size_bytes} bytes, the disk {self.size_bytes}",
            )
        controls = TransferControls.of(counters, throttle, stop)
        controls.counters.total_bytes = self.size_bytes
        restore = _Restore(target, self._fetcher, self._shape, controls, on_damage)
        steps = self._restore_steps(restore, target_is_blank=target_is_blank)
        with ThreadPoolExecutor(self._threads, "ahvault-restore") as pool:
            results = run_in_order(pool, restore.fetch_and_write, steps, 2 * self._threads)
            with closing(results):
                for _ in results:
                    controls.check_stop(_WHAT)
        target.flush()

    def _restore_steps(self, restore: _Restore, *, target_is_blank: bool) -> Iterator[FetchRange]:
        for number in range(self._shape.window_count):
            places = self._window(number)
            first = number * WINDOW_CHUNKS
            zero = is_zero(places)
            for extent in self._zero_extents(first, zero):
                restore.zeros(extent, write=not target_is_blank)
            data = np.flatnonzero(~zero)
            yield from plan_fetches(data + first, places[data])

    def _zero_extents(self, first_chunk: int, zero: Mask) -> Iterator[Extent]:
        edges = np.flatnonzero(np.diff(np.concatenate([[False], zero, [False]]).astype(np.int8)))
        for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            yield self._extent(first_chunk + start, end - start, ExtentKind.ZERO)

    def _extent(self, first_chunk: int, count: int, kind: ExtentKind) -> Extent:
        start = first_chunk * self._shape.chunk_size_bytes
        end = min(start + count * self._shape.chunk_size_bytes, self.size_bytes)
        return Extent(start, end, kind)

    def _add_extent(
        self, found: list[Extent], first_chunk: int, count: int, kind: ExtentKind
    ) -> None:
        extent = self._extent(first_chunk, count, kind)
        if found and found[-1].kind is kind:
            extent = Extent(found.pop().start_bytes, extent.end_bytes, kind)
        found.append(extent)

    def _plain_chunks(self, first: int, end: int) -> Iterator[tuple[int, Buffer | None]]:
        """Chunks `[first, end)` in any order; None stands for zeros."""
        wanted = []
        for chunk in range(first, end):
            place = self._place(chunk)
            kept = self._kept(chunk)
            if not place["length"] or kept is not None:
                yield chunk, kept
            else:
                wanted.append((chunk, place))
        if not wanted:
            return
        numbers = np.array([chunk for chunk, _ in wanted])
        for fetch in plan_fetches(numbers, np.array([place for _, place in wanted])):
            if self._throttle is not None:
                self._throttle.acquire(fetch.end_bytes - fetch.start_bytes)
            for chunk, plain in self._fetcher.open(self._fetcher.fetch(fetch)):
                self._keep(chunk, plain)
                yield chunk, plain

    def _place(self, chunk: int) -> np.void:
        row: np.void = self._window(chunk // WINDOW_CHUNKS)[chunk % WINDOW_CHUNKS]
        return row

    def _window(self, number: int) -> Places:
        with self._guard:
            if number in self._windows:
                self._windows.move_to_end(number)
                return self._windows[number]
            places = self._windows[number] = self._map.window(number)
            if len(self._windows) > _WINDOWS_KEPT:
                self._windows.popitem(last=False)
            return places

    def _kept(self, chunk: int) -> Buffer | None:
        with self._guard:
            return self._chunks.get(chunk)

    def _keep(self, chunk: int, plain: Buffer) -> None:
        with self._guard:
            self._chunks[chunk] = plain
            if len(self._chunks) > self._chunks_kept:
                self._chunks.popitem(last=False)


class _Restore:
    """What the threads of one restore share."""

    def __init__(
        self,
        target: DiskTarget,
        fetcher: ChunkFetcher,
        shape: DiskShape,
        controls: TransferControls,
        on_damage: Callable[[Extent], None] | None,
    ) -> None:
        self._target = target
        self._fetcher = fetcher
        self._shape = shape
        self._chunk_size_bytes = shape.chunk_size_bytes
        self._controls = controls
        self._on_damage = on_damage
        self._scratch = ThreadBuffers()

    def zeros(self, extent: Extent, *, write: bool) -> None:
        """Make the extent read as zeros, or trust that it does."""
        self._controls.check_stop(_WHAT)
        if write:
            with self._controls.counters.timing("upload_s"):
                self._target.write_zeros(extent.start_bytes, extent.length_bytes)
        chunks = -(-extent.length_bytes // self._chunk_size_bytes)
        self._controls.counters.add(zero_bytes=extent.length_bytes, zero_chunks=chunks)

    def fetch_and_write(self, wanted: FetchRange) -> None:
        """One ranged read, decoded and written; runs in the pool's threads."""
        try:
            self._fetch_and_write(wanted)
        except (DamagedObject, ObjectNotFound):
            if self._on_damage is None:
                raise
            self._save_what_reads(wanted, self._on_damage)

    def _save_what_reads(self, wanted: FetchRange, on_damage: Callable[[Extent], None]) -> None:
        """Chunk by chunk, with zeros for those that do not read."""
        for row, chunk in enumerate(wanted.chunks):
            (alone,) = plan_fetches(np.array([chunk]), wanted.places[row : row + 1])
            try:
                self._fetch_and_write(alone)
            except (DamagedObject, ObjectNotFound):
                start_bytes = chunk * self._chunk_size_bytes
                length_bytes = self._shape.chunk_bytes(chunk)
                self._target.write_zeros(start_bytes, length_bytes)
                on_damage(Extent(start_bytes, start_bytes + length_bytes, ExtentKind.DATA))

    def _fetch_and_write(self, wanted: FetchRange) -> None:
        counters = self._controls.counters
        self._controls.check_stop(_WHAT)
        self._controls.acquire(wanted.end_bytes - wanted.start_bytes)
        with counters.timing("read_s"):
            fetched = self._fetcher.fetch(wanted)
        counters.add(stored_bytes=sum(len(part.stored) for part in fetched), requests=len(fetched))
        scratch = self._scratch.get(self._chunk_size_bytes)
        start_s, write_s, plain_bytes = perf_counter(), 0.0, 0
        for chunk, plain in self._fetcher.open(fetched, scratch):
            self._controls.check_stop(_WHAT)
            write_start_s = perf_counter()
            self._target.write_at(chunk * self._chunk_size_bytes, plain)
            write_s += perf_counter() - write_start_s
            plain_bytes += len(plain)
        counters.add(
            read_bytes=plain_bytes,
            new_bytes=plain_bytes,
            read_chunks=len(wanted.chunks),
            new_chunks=len(wanted.chunks),
            compute_s=perf_counter() - start_s - write_s,
            upload_s=write_s,
        )


def _copy_overlap(
    buffer: memoryview, buffer_start: int, plain: Buffer | None, chunk_start: int, chunk_bytes: int
) -> None:
    """Copy what the chunk (None: zeros) and the buffer have in common."""
    start = max(buffer_start, chunk_start)
    end = min(buffer_start + len(buffer), chunk_start + chunk_bytes)
    target = buffer[start - buffer_start : end - buffer_start]
    if plain is None:
        target[:] = bytes(end - start)
    else:
        target[:] = memoryview(plain)[start - chunk_start : end - chunk_start]
