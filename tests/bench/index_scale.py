"""The chunk index at sizes that no test repository has: filled, looked up, and how much memory it is."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from repository.index import ChunkIndex
from repository.places import PLACE

MILLION = 1_000_000
LOOKUPS = 100_000
CHUNKS_PER_LOOKUP = 8  # as many as a batch of the pipeline asks for


def measure_index(chunk_count: int) -> dict[str, Any]:
    """Fill an index from segments of a million chunks; look known and unknown ids up, half and half."""
    chooser = np.random.default_rng(1)
    index = ChunkIndex()
    known: list[bytes] = []
    adding_s = 0.0
    for _ in range(0, chunk_count, MILLION):
        places = np.zeros(MILLION, dtype=PLACE)
        places["id"] = np.frombuffer(chooser.bytes(32 * MILLION), "V32")
        places["length"] = 1
        known += [each.tobytes() for each in places["id"][:: 2 * chunk_count // LOOKUPS]]
        start_s = time.perf_counter()
        index.add(places)
        adding_s += time.perf_counter() - start_s
    del places
    wanted = [*known[: LOOKUPS // 2], *(os.urandom(32) for _ in range(LOOKUPS // 2))]
    start_s = time.perf_counter()
    found = 0
    for first in range(0, len(wanted), CHUNKS_PER_LOOKUP):
        places_found = index.find(wanted[first : first + CHUNKS_PER_LOOKUP])
        found += sum(place is not None for place in places_found)
    lookup_s = time.perf_counter() - start_s
    if found != len(known[: LOOKUPS // 2]):
        raise SystemExit(f"the index found {found} of {len(known)} chunks")
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    index.close()
    return {
        "chunks": chunk_count,
        "adding_s": adding_s,
        "lookup_s": lookup_s,
        "own_mib": int(status["RssAnon"].split()[0]) / 1024,
        "mapped_mib": int(status["RssFile"].split()[0]) / 1024,
        "peak_mib": int(status["VmHWM"].split()[0]) / 1024,
    }
