"""Writing one disk: from extents and a base to a disk record.

Goes through the disk window by window. A window that the plan does not touch is inherited with its
digest; a window that it does touch is loaded, overlaid with what was read, and what differs becomes
rows of the delta. After many or large deltas a new base is written from the merged windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from repository.concurrency import run_in_order
from repository.controls import TransferControls
from repository.errors import InvalidInput
from repository.extents import ChunkAction, ChunkRun, Extent, plan_chunks
from repository.maps import (
    WINDOW_CHUNKS,
    DiskMap,
    DiskShape,
    LayerWriter,
    MapLayer,
    layer_description,
    root_hash,
    store_layer,
    window_digest,
)
from repository.pipeline import (
    BATCH_BYTES,
    Batch,
    BatchReader,
    NewChunk,
    Outcome,
    PackStream,
    Tools,
)
from repository.places import PLACE, Mask, Places, differ
from repository.points import DiskRecord, DiskSpec, ObjectRef
from repository.ports import DiskSource
from repository.store import Store

DELTAS_MAX = 8
DELTA_SHARE_MAX = 0.25
# Below this many rows a layer costs less than the request that fetches it: never merged for size.
REBASE_ROWS_MIN = 4096


@dataclass(frozen=True, slots=True)
class BaseDisk:
    """The disk as it was, that extents are relative to."""

    record: DiskRecord
    map: DiskMap


class DiskWriter:
    """Writes one disk once."""

    def __init__(
        self,
        store: Store,
        tools: Tools,
        spec: DiskSpec,
        chunk_size_bytes: int,
        base: BaseDisk | None,
        controls: TransferControls,
    ) -> None:
        self._store = store
        self._tools = tools
        self._spec = spec
        self._shape = DiskShape(spec.size_bytes, chunk_size_bytes)
        self._base = base
        self._controls = controls
        self._packs = PackStream(tools, controls)

    def write(
        self,
        source: DiskSource,
        extents: Sequence[Extent],
        *,
        read_method: str,
        read_reason: str,
        source_facts: Mapping[str, Any],
    ) -> DiskRecord:
        """Read, store and map the disk; durable on return."""
        if source.size_bytes != self._spec.size_bytes:
            raise InvalidInput(
                f"disk {self._spec.disk_id}",
                f"its source has {source.size_bytes} bytes, expected {self._spec.size_bytes}",
            )
        runs = self._plan(extents)
        layer = LayerWriter()
        try:
            digests = self._write_windows(source, runs, layer)
            self._packs.finish()
            maps = self._store_map(layer, digests)
        except BaseException:
            self._packs.abandon()
            raise
        finally:
            layer.close()
        return DiskRecord(
            disk_id=self._spec.disk_id,
            label=self._spec.label,
            size_bytes=self._shape.size_bytes,
            chunk_size_bytes=self._shape.chunk_size_bytes,
            maps=maps,
            root=root_hash(self._shape, digests),
            read_method=read_method,
            read_reason=read_reason,
            source_facts=dict(source_facts),
            figures=self._controls.counters.figures(),
        )

    def _plan(self, extents: Sequence[Extent]) -> list[ChunkRun]:
        base_size_bytes = self._base.record.size_bytes if self._base else None
        runs = plan_chunks(
            extents,
            self._shape.size_bytes,
            self._shape.chunk_size_bytes,
            base_size_bytes=base_size_bytes,
        )
        read_chunks = sum(run.count for run in runs if run.action is ChunkAction.READ)
        self._controls.counters.total_bytes = min(
            read_chunks * self._shape.chunk_size_bytes, self._shape.size_bytes
        )
        return runs

    def _write_windows(
        self, source: DiskSource, runs: list[ChunkRun], layer: LayerWriter
    ) -> list[bytes]:
        """Write every window's rows into the layer; returns the digests of all windows."""
        digests = self._inherited_digests()
        reader = BatchReader(self._tools, self._shape, source, self._controls)
        windows = self._touched_windows(runs)
        results = run_in_order(
            self._tools.compute,
            lambda step: reader.process(step[1]) if step[1] else [],
            self._steps(windows, reader),
            self._tools.batches_in_flight,
        )
        with closing(results):
            for (window, batch), outcomes in results:
                if batch is None:
                    digests[window.number] = window.write_to(layer)
                else:
                    self._accept(window, batch, outcomes)
        return digests

    def _steps(
        self, windows: dict[int, list[ChunkRun]], reader: BatchReader
    ) -> Iterator[tuple[_Window, Batch | None]]:
        """All batches in disk order, each window's followed by a step that ends the window."""
        batch_chunks = max(1, BATCH_BYTES // self._shape.chunk_size_bytes)
        for number, runs in windows.items():
            base = (
                self._base.map.window(number) if self._base_chunks(number) and self._base else None
            )
            window = _Window(number, base, self._shape.chunks_in_window(number))
            for run in runs:
                if run.action is ChunkAction.ZERO:
                    window.set_zero(run)
                    continue
                for first in range(run.first, run.end, batch_chunks):
                    count = min(batch_chunks, run.end - first)
                    batch = Batch(first, count, window.base_of(first, count))
                    reader.expect(batch)
                    yield window, batch
            yield window, None

    def _inherited_digests(self) -> list[bytes]:
        known = self._base.map.window_digests if self._base else []
        count = self._shape.window_count
        return [*known[:count], *[b""] * (count - len(known))]

    def _touched_windows(self, runs: list[ChunkRun]) -> dict[int, list[ChunkRun]]:
        """Windows to be looked into, rising, each with the runs inside it."""
        windows: dict[int, list[ChunkRun]] = {}
        for run in runs:
            position = run.first
            while position < run.end:
                number = position // WINDOW_CHUNKS
                end = min(run.end, (number + 1) * WINDOW_CHUNKS)
                windows.setdefault(number, []).append(
                    ChunkRun(position, end - position, run.action)
                )
                position = end
        for number in range(self._shape.window_count):
            if self._base_chunks(number) != self._shape.chunks_in_window(number):
                windows.setdefault(number, [])
        return dict(sorted(windows.items()))

    def _base_chunks(self, window: int) -> int:
        return self._base.map.shape.chunks_in_window(window) if self._base else 0

    def _accept(self, window: _Window, batch: Batch, outcomes: list[Outcome]) -> None:
        self._controls.check_stop(f"the transfer of disk {self._spec.disk_id}")
        self._tools.keep_alive()
        zero_bytes = known_bytes = zero_chunks = known_chunks = 0
        for chunk, outcome in enumerate(outcomes, start=batch.first_chunk):
            if isinstance(outcome, NewChunk):
                window.set(chunk, self._packs.place(outcome))
                continue
            window.set(chunk, outcome)
            if outcome["length"][0]:
                known_bytes += self._shape.chunk_bytes(chunk)
                known_chunks += 1
            else:
                zero_bytes += self._shape.chunk_bytes(chunk)
                zero_chunks += 1
        self._controls.counters.add(
            zero_bytes=zero_bytes,
            zero_chunks=zero_chunks,
            known_bytes=known_bytes,
            known_chunks=known_chunks,
        )

    def _store_map(self, layer: LayerWriter, digests: list[bytes]) -> tuple[ObjectRef, ...]:
        """Store the layer, or nothing if nothing changed, or a new base; returns all layers."""
        if self._base is None:
            return (self._store_layer(layer, digests, is_base=True),)
        unchanged = not layer.row_count and self._base.map.shape == self._shape
        if unchanged:
            return self._base.record.maps
        if self._has_grown_long(self._base.map, layer):
            return (self._store_merged(self._base.map, layer, digests),)
        return (*self._base.record.maps, self._store_layer(layer, digests, is_base=False))

    def _has_grown_long(self, base: DiskMap, layer: LayerWriter) -> bool:
        """Whether the layers have become so many or so large that a new base is cheaper to read."""
        if len(base.layers) > DELTAS_MAX:
            return True
        delta_rows = layer.row_count + sum(below.row_count for below in base.layers[1:])
        share = delta_rows / max(1, base.layers[0].row_count)
        return bool(delta_rows >= REBASE_ROWS_MIN and share > DELTA_SHARE_MAX)

    def _store_merged(self, base: DiskMap, layer: LayerWriter, digests: list[bytes]) -> ObjectRef:
        keys = self._tools.keys
        description = layer_description(
            self._spec.disk_id, self._shape, digests, is_base=False, keys=keys
        )
        newest = MapLayer("the new delta", pa.BufferReader(layer.finish(description)), keys)
        merged = DiskMap(self._shape, [*base.layers, newest])
        whole = LayerWriter()
        try:
            for number in range(self._shape.window_count):
                places = merged.window(number)
                whole.write_window(number, places, np.ones(len(places), dtype=np.bool_))
            return self._store_layer(whole, digests, is_base=True)
        finally:
            whole.close()

    def _store_layer(self, layer: LayerWriter, digests: list[bytes], *, is_base: bool) -> ObjectRef:
        self._controls.counters.add(requests=1)
        with self._controls.sending() as pace:
            return store_layer(
                self._store,
                layer,
                self._spec.disk_id,
                self._shape,
                digests,
                is_base=is_base,
                keys=self._tools.keys,
                sealer=self._tools.sealer,
                pace=pace,
            )


class _Window:
    """One window while it is being rewritten."""

    def __init__(self, number: int, base: Places | None, count: int) -> None:
        self.number = number
        self._base = base
        self._places = np.zeros(count, dtype=PLACE)
        if base is not None:
            shared = min(count, len(base))
            self._places[:shared] = base[:shared]

    def base_of(self, chunk: int, count: int) -> Places | None:
        """The base's rows of these chunks, if it has them all."""
        first = chunk - self.number * WINDOW_CHUNKS
        if self._base is None or first + count > len(self._base):
            return None
        return self._base[first : first + count]

    def set(self, chunk: int, place: Places) -> None:
        self._places[chunk - self.number * WINDOW_CHUNKS] = place[0]

    def set_zero(self, run: ChunkRun) -> None:
        first = run.first - self.number * WINDOW_CHUNKS
        self._places[first : first + run.count] = np.zeros(1, dtype=PLACE)

    def write_to(self, layer: LayerWriter) -> bytes:
        """Write what differs from the base into the layer; returns the window's digest."""
        layer.write_window(self.number, self._places, self._changed())
        return window_digest(self._places)

    def _changed(self) -> Mask:
        """Rows that differ from the base; all that the base does not have (a grown disk)."""
        changed = np.ones(len(self._places), dtype=np.bool_)
        if self._base is not None:
            shared = min(len(self._places), len(self._base))
            changed[:shared] = differ(self._places[:shared], self._base[:shared])
        return changed
