"""A collection planned at sizes that no test repository has: disks of 1 TiB, each of a VM of its own.

Maps, segments and commit records are real objects in a directory; of the packs there are only names
and sizes, which is all that a plan asks of packs that need no rewriting.
"""

from __future__ import annotations

import resource
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from repository import CollectSettings, Repository
from repository.layout import PACKS, pack_key
from repository.locating import read_segments
from repository.packs import StoredPack
from repository.places import PLACE, Places
from repository.rewriting import SEGMENT_ROWS_MAX
from repository.segments import Segment, encode_segment
from repository.store import ObjectInfo
from tests.bench.steps import draft, store_map

MiB = 1024 * 1024
DISK_BYTES = 1024 * 1024 * MiB
CHUNKS_PER_PACK = 64
PACKS_PER_SEGMENT = SEGMENT_ROWS_MAX // CHUNKS_PER_PACK
FORGOTTEN_EACH = 10
"""Of so many disks one is forgotten, and its time to come back is over."""


class _Packs:
    """The store, with packs that are only listed."""

    def __init__(self, inner: Any, infos: dict[str, ObjectInfo]) -> None:
        self._inner, self._infos = inner, infos

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        yield from self._infos.values() if prefix == PACKS else self._inner.list(prefix)

    def stat(self, key: str) -> ObjectInfo | None:
        return self._infos.get(key) or self._inner.stat(key)


def measure_collection(chunk_count: int) -> dict[str, Any]:
    """Open a repository of so many chunks to write, and plan a collection, with and without a cache."""
    with (
        tempfile.TemporaryDirectory(prefix="ahvault-bench-") as folder,
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,  # for its own peak memory
    ):
        with Repository.create(f"{folder}/repository") as repository:
            for number in range(-(-chunk_count * MiB // DISK_BYTES)):
                _add_disk(repository, number)
        return {"chunks": chunk_count, **pool.submit(_measure, Path(folder)).result()}


def _measure(folder: Path) -> dict[str, Any]:
    with Repository.open(f"{folder}/repository") as repository:
        infos = _listed_packs(repository)
        repository._store = _Packs(repository._store, infos)  # type: ignore[assignment]
        cost: dict[str, Any] = {"packs": len(infos)}
        start_s = time.perf_counter()
        with repository.write_session(uuid.uuid4().hex):
            cost["open_s"] = time.perf_counter() - start_s
        for name in ("plan_s", "again_s"):
            start_s = time.perf_counter()
            settings = CollectSettings(undelete_hours=0)
            report = repository.collect(settings, dry_run=True, cache=folder / "cache")
            cost[name] = time.perf_counter() - start_s
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    condemned = sum((report.object_counts or {}).values())
    return {**cost, "condemned": condemned, "peak_mib": peak_kib / 1024}


def _listed_packs(repository: Repository) -> dict[str, ObjectInfo]:
    """What a listing of the packs would say, by name."""
    infos: dict[str, ObjectInfo] = {}
    for _, segment in read_segments(repository._store, repository._records):
        assert isinstance(segment, Segment)
        for pack_id, size_bytes in segment.pack_sizes_bytes.items():
            infos[pack_key(pack_id)] = ObjectInfo(pack_key(pack_id), size_bytes)
    return infos


def _add_disk(repository: Repository, number: int) -> None:
    """One restore point of a disk of 1 TiB all of whose chunks are its own; every tenth is forgotten."""
    chooser = np.random.default_rng(number)
    packs: list[StoredPack] = []

    def window(_number: int, chunk_count: int) -> Places:
        places = _places(chooser, chunk_count)
        for start in range(0, chunk_count, CHUNKS_PER_PACK):
            own = places[start : start + CHUNKS_PER_PACK]
            packs.append(StoredPack(own["pack"][0].tobytes(), int(own["length"].sum()), own))
        return places

    record = store_map(repository, f"disk-{number}", DISK_BYTES, window)
    for start in range(0, len(packs), PACKS_PER_SEGMENT):
        _store_segment(repository, packs[start : start + PACKS_PER_SEGMENT])
    committed = draft(record).model_copy(update={"vm_id": f"vm-{number}"})
    point = repository._catalogue.commit(committed, repository._clock.now(), 0)
    if number % FORGOTTEN_EACH == 0:
        repository.forget(point)


def _places(chooser: np.random.Generator, count: int) -> Places:
    places = np.zeros(count, dtype=PLACE)
    places["id"] = np.frombuffer(chooser.bytes(32 * count), dtype="V32")
    pack_ids = [
        uuid.UUID(bytes=chooser.bytes(16), version=4).bytes
        for _ in range(0, count, CHUNKS_PER_PACK)
    ]
    places["pack"] = np.repeat(np.array(pack_ids, dtype="V16"), CHUNKS_PER_PACK)[:count]
    places["offset"] = np.arange(count) % CHUNKS_PER_PACK * 700_000 + 64
    places["length"] = chooser.integers(300_000, 700_000, count)
    return places


def _store_segment(repository: Repository, packs: list[StoredPack]) -> None:
    records = repository._records
    key, stored = encode_segment(packs, "bench", records.keys, records.sealer)
    repository._store.put_new(key, stored)
