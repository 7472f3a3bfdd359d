"""The chunk index against a plain dictionary, in memory and in mapped files."""

from __future__ import annotations

import random

import numpy as np
import pytest

from repository import index
from repository.index import ChunkIndex
from repository.places import PLACE


@pytest.mark.parametrize(("mapped_min", "merge_rows"), [(2**18, 2**20), (40, 16), (1, 1)])
def test_the_index_finds_what_was_added(
    monkeypatch: pytest.MonkeyPatch, mapped_min: int, merge_rows: int
) -> None:
    """Segments of any size and order, ids with equal prefixes, ids twice: found, and others are not."""
    monkeypatch.setattr(index, "_MAPPED_ROWS_MIN", mapped_min)
    monkeypatch.setattr(index, "_MERGE_ROWS", merge_rows)
    chooser = random.Random(5)
    prefixes = [chooser.randbytes(8) for _ in range(40)]
    known: dict[bytes, set[tuple[bytes, int]]] = {}
    chunks = ChunkIndex()
    for segment in range(60):
        places = np.zeros(chooser.randrange(60), dtype=PLACE)
        for row in range(len(places)):
            start = chooser.choice(prefixes) if chooser.random() < 0.3 else chooser.randbytes(8)
            chunk_id = start + (chooser.randbytes(24) if chooser.random() < 0.9 else bytes(24))
            places[row] = (chunk_id, segment.to_bytes(16, "big"), row, 100)
            known.setdefault(chunk_id, set()).add((segment.to_bytes(16, "big"), row))
        chunks.add(places)
        wanted = [*chooser.sample(list(known), min(20, len(known))), chooser.randbytes(32)]
        for chunk_id, place in zip(wanted, chunks.find(wanted), strict=True):
            if chunk_id not in known:
                assert place is None
                continue
            assert place is not None
            assert place["id"][0].tobytes() == chunk_id
            assert (place["pack"][0].tobytes(), int(place["offset"][0])) in known[chunk_id]
    assert len(chunks) == sum(len(places) for places in known.values())
    everything = chunks.find(list(known))
    assert all(place is not None for place in everything)
    chunks.close()
