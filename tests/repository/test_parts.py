"""The engine's parts, each alone: records, sealing, packs, segments, index, map layers, live records."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from repository import DamagedObject, InvalidInput, RepositoryOptions, UnsupportedFormat
from repository.codec import ChunkCodec
from repository.errors import RepositoryError
from repository.fetching import GAP_BYTES_MAX, RANGE_BYTES_MAX, plan_fetches
from repository.index import ChunkIndex
from repository.keys import RepositoryKeys
from repository.layout import live_key, pack_key, safe_name
from repository.packs import ChunkOpener, PackBuilder, read_pack_table
from repository.places import PLACE
from repository.records import RecordCodec
from repository.sealing import AesGcmSealer, PlainSealer, Sealer
from repository.segments import decode_segment, encode_segment

KEYS = RepositoryKeys.from_master(bytes(range(32)), uuid.UUID(int=0x1234))
SEALERS: list[Sealer] = [PlainSealer(), AesGcmSealer(KEYS)]


def pack_of(sealer: Sealer, *chunks: bytes) -> tuple[Any, bytes]:
    builder, codec = PackBuilder(KEYS, sealer), ChunkCodec(level=3)
    for chunk in chunks:
        builder.append(KEYS.chunk_id(chunk), len(chunk), *codec.compress(chunk))
    pack, pieces = builder.finish()
    return pack, b"".join(pieces)


def test_keys_are_as_the_format_page_says() -> None:
    """Known answers: HKDF and keyed BLAKE3 give these keys and ids for this master key."""
    import hashlib
    import hmac

    salt = KEYS.repository_id.bytes
    extracted = hmac.digest(salt, bytes(range(32)), hashlib.sha256)
    expected = hmac.digest(extracted, b"ahvault/1/chunk-id\x01", hashlib.sha256)
    assert KEYS.chunk_id_key == expected
    assert KEYS.chunk_id(b"some bytes") == blake3(b"some bytes", key=expected).digest()
    assert len({KEYS.chunk_id_key, KEYS.record_key, KEYS.meta_key, KEYS.data_key}) == 4


def test_keys_do_not_show() -> None:
    """No repr of anything that holds keys shows one."""
    shown = repr(KEYS) + repr(RecordCodec(KEYS, PlainSealer()))
    for key in (KEYS.chunk_id_key, KEYS.record_key, KEYS.meta_key, KEYS.data_key):
        assert key.hex() not in shown
        assert repr(key) not in shown


@pytest.mark.parametrize("sealer", SEALERS)
def test_every_bit_of_a_record_counts(sealer: Sealer) -> None:
    """A record decodes to what was encoded; with any one bit flipped it is refused."""
    codec = RecordCodec(KEYS, sealer)
    stored = bytes(codec.encode("points/x.json", "point", {"text": "ä\n", "number": 1}))
    assert codec.decode("points/x.json", "point", stored) == {"text": "ä\n", "number": 1}
    for bit in range(len(stored) * 8):
        damaged = bytearray(stored)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((DamagedObject, UnsupportedFormat)):
            codec.decode("points/x.json", "point", bytes(damaged))
    with pytest.raises(DamagedObject):
        codec.decode("points/x.json", "report", stored)
    with pytest.raises(DamagedObject):
        codec.decode("points/x.json", "point", b"")


def test_sealed_objects_cannot_be_exchanged() -> None:
    """An object sealed under one name does not open under another, and nothing plain shows."""
    sealer = AesGcmSealer(KEYS)
    sealed = bytes(sealer.close_object("a", b"secret plans"))
    assert sealer.open_object("a", sealed) == b"secret plans"
    assert b"secret" not in sealed
    with pytest.raises(DamagedObject, match="tag"):
        sealer.open_object("b", sealed)
    with pytest.raises(DamagedObject, match="not sealed"):
        sealer.open_object("a", b"secret plans")


@pytest.mark.parametrize("sealer", SEALERS)
def test_packs_describe_themselves(sealer: Sealer) -> None:
    """The table names every chunk; each opens from its range alone; every byte is covered."""
    chunks = [b"text " * 1000, random.Random(1).randbytes(3000), b"x"]
    pack, data = pack_of(sealer, *chunks)
    assert len(data) == pack.size_bytes
    entries = read_pack_table(data, pack.pack_id, KEYS)
    assert [entry.codec for entry in entries] == [1, 0, 0]
    opener = ChunkOpener(KEYS, sealer, ChunkCodec(level=1)).for_pack(pack.pack_id)
    for entry, chunk in zip(entries, chunks, strict=True):
        stored = data[entry.offset_bytes : entry.offset_bytes + entry.length_bytes]
        assert opener.open(entry.chunk_id, memoryview(stored)) == chunk
    for byte in range(len(data)):
        damaged = bytearray(data)
        damaged[byte] ^= 1 << byte % 8
        with pytest.raises((DamagedObject, UnsupportedFormat)):
            read_pack_table(bytes(damaged), pack.pack_id, KEYS)
    with pytest.raises((DamagedObject, UnsupportedFormat)):
        read_pack_table(data, uuid.uuid4().bytes, KEYS)


@pytest.mark.parametrize("sealer", SEALERS)
def test_no_damaged_chunk_opens_wrongly(sealer: Sealer) -> None:
    """A chunk read alone with a byte changed is refused by name, or opens to the right bytes.

    The latter happens without sealing only: zstd frames and our header have bits that decoding does
    not need. A chunk cut short is always refused.
    """
    chunk = b"text " * 300
    pack, data = pack_of(sealer, chunk)
    entry = read_pack_table(data, pack.pack_id, KEYS)[0]
    stored = data[entry.offset_bytes : entry.offset_bytes + entry.length_bytes]
    opener = ChunkOpener(KEYS, sealer, ChunkCodec(level=1)).for_pack(pack.pack_id)
    refused = []
    for byte in range(len(stored)):
        damaged = bytearray(stored)
        damaged[byte] ^= 0x10
        try:
            assert opener.open(entry.chunk_id, memoryview(damaged)) == chunk
        except DamagedObject as error:
            refused.append(error.key)
    assert set(refused) == {pack_key(pack.pack_id)}
    assert len(refused) == len(stored) if isinstance(sealer, AesGcmSealer) else len(refused) > 50
    for length in range(0, len(stored), 7):
        with pytest.raises(DamagedObject):
            opener.open(entry.chunk_id, memoryview(stored)[:length])


@given(st.binary(max_size=400))
def test_readers_survive_any_bytes(data: bytes) -> None:
    """Arbitrary bytes given to any reader raise its typed error, never another, never success."""
    opener = ChunkOpener(KEYS, PlainSealer(), ChunkCodec(level=1)).for_pack(bytes(16))
    attempts: list[Callable[[], object]] = [
        lambda: read_pack_table(data, bytes(16), KEYS),
        lambda: opener.open(bytes(32), memoryview(data)),
        lambda: RecordCodec(KEYS, PlainSealer()).decode("k", "point", data),
        lambda: decode_segment("index/0-0.parquet", data, KEYS, PlainSealer()),
        lambda: AesGcmSealer(KEYS).open_object("k", data),
    ]
    for attempt in attempts:
        with pytest.raises(RepositoryError):
            attempt()


@pytest.mark.parametrize("sealer", SEALERS)
def test_segments_come_back(sealer: Sealer) -> None:
    """A segment gives back every place and every pack's size, and no bit of it can change."""
    packs = [pack_of(sealer, b"a" * 5000, b"b" * 6000)[0], pack_of(sealer, b"c" * 100)[0]]
    key, stored = encode_segment(packs, "session-1", KEYS, sealer)
    segment = decode_segment(key, bytes(stored), KEYS, sealer)
    assert segment.pack_sizes_bytes == {pack.pack_id: pack.size_bytes for pack in packs}
    assert np.array_equal(segment.places, np.concatenate([pack.places for pack in packs]))
    for bit in random.Random(2).sample(range(len(stored) * 8), 300):
        damaged = bytearray(stored)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedObject):
            decode_segment(key, bytes(damaged), KEYS, sealer)


@given(st.lists(st.lists(st.integers(0, 300), max_size=40), max_size=12))
def test_the_index_finds_what_a_dict_finds(additions: list[list[int]]) -> None:
    """Whatever is added in whatever portions, lookups agree with a dict; prefixes may collide."""
    index, model = ChunkIndex(), set()
    ids = [bytes([number % 7]) * 8 + number.to_bytes(24, "big") for number in range(301)]
    for addition in additions:
        rows = [(ids[number], bytes(16), number, 1) for number in addition]
        index.add(np.array(rows, dtype=PLACE))
        model |= set(addition)
    found = index.find(ids)
    index.close()
    for number, place in enumerate(found):
        assert (place is not None) == (number in model)
        if place is not None:
            assert int(place["offset"][0]) == number


def test_reads_merge_by_gap_and_size() -> None:
    """Neighbours in a pack are read at once, unless the gap or the range grows too large."""
    places = np.zeros(6, dtype=PLACE)
    places["pack"] = [bytes([1] * 16)] * 5 + [bytes([2] * 16)]
    step = 1000
    places["offset"] = [
        2 * step,
        0,
        step,
        3 * step + GAP_BYTES_MAX,
        4 * step + 2 * GAP_BYTES_MAX + 1,
        0,
    ]
    places["length"] = step
    ranges = plan_fetches(np.arange(6), places)
    assert [fetch.chunks for fetch in ranges] == [(1, 2, 0, 3), (4,), (5,)]
    assert (ranges[0].start_bytes, ranges[0].end_bytes) == (0, 4 * step + GAP_BYTES_MAX)
    places["offset"][:5] = np.arange(5) * (RANGE_BYTES_MAX // 2)
    places["length"][:5] = RANGE_BYTES_MAX // 2
    assert [fetch.chunks for fetch in plan_fetches(np.arange(6), places)] == [
        (0, 1),
        (2, 3),
        (4,),
        (5,),
    ]


@pytest.mark.parametrize(
    ("text", "name"), [("a-b_c.d", "a-b_c.d"), ("../x", "%2E.%2Fx"), ("ü /", "%C3%BC%20%2F")]
)
def test_names_stay_inside_their_folder(text: str, name: str) -> None:
    """Whatever the layers above call things, names have no path of their own and no leading dot."""
    assert safe_name(text) == name
    assert live_key("kind", text) == f"live/kind/{name}.json"


@pytest.mark.parametrize(
    "options",
    [
        {"chunk_size_bytes": 100_000},
        {"chunk_size_bytes": 32 * 1024},
        {"compression_level": 0},
        {"pack_target_bytes": 1},
    ],
)
def test_impossible_options_are_refused(options: dict[str, int]) -> None:
    """Options outside their bounds are refused with the bounds."""
    with pytest.raises(InvalidInput, match="is no"):
        RepositoryOptions(**options)


def test_live_records_live(any_bench: Any) -> None:
    """Put, replace, list, delete; kinds and odd keys kept apart; a damaged one hides no other."""
    live = any_bench.repository.live
    live.put("journal", "vm/1 ü", {"step": 1})
    live.put("journal", "vm/1 ü", {"step": 2})
    live.put("journal", "other", {})
    live.put("lease", "other", {"x": None})
    reopened = any_bench.reopened().live
    assert reopened.get("journal", "vm/1 ü") == {"step": 2}
    assert reopened.get("journal", "nothing") is None
    assert reopened.list("journal").records == {"vm/1 ü": {"step": 2}, "other": {}}
    any_bench.repository._store.put("live/journal/other.json", b"{}")
    listing = reopened.list("journal")
    assert list(listing.records) == ["vm/1 ü"]
    assert [damaged.key for damaged in listing.damaged] == ["live/journal/other.json"]
    live.delete("journal", "vm/1 ü")
    live.delete("journal", "vm/1 ü")
    assert reopened.get("journal", "vm/1 ü") is None


def test_reports_are_kept_in_order(any_bench: Any) -> None:
    """Every report of every session is listed, and a damaged one hides no other."""
    for number in range(3):
        any_bench.repository.save_report("nightly", {"number": number})
    assert {r["number"] for r in any_bench.reopened().reports().reports} == {0, 1, 2}


def test_no_file_of_the_store_is_readable_by_others(bench: Any) -> None:
    """Disk contents are nobody else's business: files are 0600, folders 0700."""
    bench.repository.save_report("s", {})
    for path in Path(bench.url).rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
