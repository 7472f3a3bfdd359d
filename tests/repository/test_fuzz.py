"""Readers against bytes that nobody wrote: a typed error, or exactly the truth; little memory and time.

Two kinds of mutants. Damaged ones fail their digest: they must be refused, every one. Forged ones
carry valid digests and seals, as an attacker with the keys or a broken writer would make them: they
must be refused by type or read as something that later checks judge.
"""

from __future__ import annotations

import hashlib
import json
import random
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from repository import RepositoryError, RestorePoint
from repository.catalogue import Catalogue
from repository.codec import ChunkCodec
from repository.description import Description
from repository.keyring import KeyRing
from repository.maps import open_disk_map
from repository.packs import ChunkOpener, _footer, read_pack_table
from repository.segments import decode_segment
from repository.store import ObjectInfo

CHUNK = 64 * 1024
SECONDS_PER_MUTANT_MAX = 5.0
MEMORY_MIB_MAX = 256
_TAIL_BYTES = 78
_FOOTER_BYTES = 76
_EXTREMES = [b"\xff" * 4, b"\xff" * 8, b"\x7f" + b"\xff" * 3, b"\0" * 8, b"\xff\xff\xff\x7f"]
_WEIRD: list[Any] = [
    None,
    -1,
    0,
    2**63,
    2**200,
    1e308,
    "",
    "x",
    "\0",
    "00" * 16,
    [],
    {},
    [[]],
    True,
]

MakeDisk = Callable[..., Any]


def mutated(sound: bytes, chooser: random.Random) -> bytes:
    """The bytes after one to three small misfortunes; never the same as before."""
    data = bytearray(sound)
    while data == sound:
        for _ in range(chooser.choice([1, 1, 1, 2, 3])):
            at = chooser.randrange(len(data) + 1)
            length = min(chooser.choice([1, 4, 8, 64, 4096]), len(data) - at)
            misfortune = chooser.randrange(7)
            if misfortune == 0 and at < len(data):
                data[at] ^= 1 << chooser.randrange(8)
            elif misfortune == 1:
                del data[at:]
            elif misfortune == 2:
                del data[at : at + length]
            elif misfortune == 3:
                data[at:at] = data[at : at + length]
            elif misfortune == 4:
                data[at : at + length] = chooser.randbytes(length)
            elif misfortune == 5:
                extreme = chooser.choice(_EXTREMES)
                data[at : at + len(extreme)] = extreme
            else:
                data += chooser.randbytes(chooser.choice([1, 76, 78]))
    return bytes(data)


def mutated_json(prefix: bytes, chooser: random.Random) -> bytes:
    """A record's members with one of them, at any depth, gone or turned into something else."""
    members = json.loads(prefix + b"}")
    place = members
    while True:
        key = chooser.choice(list(place) if isinstance(place, dict) else list(range(len(place))))
        below = place[key]
        if not isinstance(below, dict | list) or not below or chooser.random() < 0.3:
            break
        place = below
    if chooser.random() < 0.2:
        del place[key]
    else:
        place[key] = chooser.choice(_WEIRD)
    return json.dumps(members, separators=(",", ":")).encode()[:-1]


def forged_table(table: bytes, chooser: random.Random) -> bytes:
    """A Parquet file whose pages are mutated, or its footer, the length and magic of which fit."""
    pages_bytes = len(table) - int.from_bytes(table[-8:-4], "little") - 8
    pages, footer = table[:pages_bytes], table[pages_bytes:-8]
    if chooser.random() < 0.5:
        return mutated(pages, chooser) + table[pages_bytes:]
    footer = mutated(footer, chooser)
    return pages + footer + len(footer).to_bytes(4, "little") + table[-4:]


@dataclass
class Reader:
    """One kind of stored object: its bytes, how they are read, and how a forger makes others."""

    sound: bytes
    read: Callable[[bytes], object]
    forge: Callable[[random.Random], bytes]
    read_forged: Callable[[bytes], object]
    """Like `read`, with the digests of names and references set to those of the forgery."""


class OneObject:
    """A store that holds one object."""

    url = "one object"

    def __init__(self, key: str, data: bytes) -> None:
        self._key, self._data = key, data

    def get(self, key: str) -> bytes:
        assert key == self._key
        return self._data

    def get_range(self, key: str, offset_bytes: int, length_bytes: int) -> bytes:
        return self.get(key)[offset_bytes : offset_bytes + length_bytes]

    def list(self, prefix: str) -> list[ObjectInfo]:
        return [ObjectInfo(self._key, len(self._data))] if self._key.startswith(prefix) else []


class Scene:
    """A repository with one restore point, and the readers of its objects."""

    def __init__(self, bench: Any, make_disk: MakeDisk) -> None:
        self.data = random.Random(1).randbytes(5 * CHUNK) + bytes(3 * CHUNK) + b"text " * 20_000
        self.bench = bench
        self.point: RestorePoint = bench.commit(bench.write(make_disk(self.data)))
        self.store = bench.repository._store
        self.records = bench.repository._records
        self.keys, self.sealer = self.records.keys, self.records.sealer

    def key(self, prefix: str) -> str:
        return str(next(iter(self.store.list(prefix))).key)

    def pack(self) -> Reader:
        name = self.key("data/")
        sound, pack_id = self.store.get(name), bytes.fromhex(name.rpartition("/")[2])
        opener = ChunkOpener(self.keys, self.sealer, ChunkCodec(3)).for_pack(pack_id)
        whole = {self.data[at : at + CHUNK] for at in range(0, len(self.data), CHUNK)}

        def read(data: bytes) -> None:
            for entry in read_pack_table(data, pack_id, self.keys):
                piece = memoryview(data)[entry.offset_bytes :][: entry.length_bytes]
                assert bytes(opener.open(entry.chunk_id, piece)) in whole

        def forge(chooser: random.Random) -> bytes:
            body = mutated(sound[:-_FOOTER_BYTES], chooser)
            count = int.from_bytes(sound[-_FOOTER_BYTES:][:4], "little")
            count = chooser.choice([count, count, 0, 1, 2**32 - 1])
            return body + _footer(self.keys, pack_id, count, blake3(body).digest())

        return Reader(sound, read, forge, read)

    def map(self) -> Reader:
        record = self.point.disks[0]
        (ref,) = record.maps
        sound = self.store.get(ref.key)
        plain = bytes(self.sealer.open_object(ref.key, sound))
        truth = open_disk_map(self.store, record, self.keys, self.sealer).window(0)["id"].tobytes()

        def read(data: bytes, sha256: str = ref.sha256) -> None:
            changed = ref.model_copy(update={"size_bytes": len(data), "sha256": sha256})
            disk = record.model_copy(update={"maps": (changed,)})
            store: Any = OneObject(ref.key, data)
            assert (
                open_disk_map(store, disk, self.keys, self.sealer).window(0)["id"].tobytes()
                == truth
            )

        def forge(chooser: random.Random) -> bytes:
            return bytes(self.sealer.close_object(ref.key, forged_table(plain, chooser)))

        return Reader(sound, read, forge, lambda data: read(data, hashlib.sha256(data).hexdigest()))

    def segment(self) -> Reader:
        name = self.key("index/")
        sound, stem = self.store.get(name), name.rpartition("-")[0]
        plain = bytes(self.sealer.open_object(f"{stem}-.parquet", sound))

        def read(data: bytes, name: str = name) -> None:
            decode_segment(name, data, self.keys, self.sealer)

        def forge(chooser: random.Random) -> bytes:
            return bytes(self.sealer.close_object(f"{stem}-.parquet", forged_table(plain, chooser)))

        def read_forged(data: bytes) -> None:
            read(data, f"{stem}-{hashlib.sha256(data).hexdigest()}.parquet")

        return Reader(sound, read, forge, read_forged)

    def commit_record(self) -> Reader:
        name = self.point.key
        sound = self.store.get(name)
        prefix = bytes(self.sealer.open_object(name, sound))[:-_TAIL_BYTES]

        def read(data: bytes) -> None:
            store: Any = OneObject(name, data)
            point = Catalogue(store, self.records).read_anew(name)
            assert (point.id, point.vm_id) == (self.point.id, self.point.vm_id)

        def forge(chooser: random.Random) -> bytes:
            changed = mutated_json(prefix, chooser)
            tail = f',"digest":"{self.keys.record_mac(changed).hex()}"}}\n'
            return bytes(self.sealer.close_object(name, changed + tail.encode()))

        return Reader(sound, read, forge, read)

    def description(self) -> Reader:
        sound = self.store.get("repo.json")

        def read(data: bytes) -> None:
            Description.decode("url", data)

        return Reader(sound, read, lambda chooser: openly_signed(sound, chooser), read)

    def key_wrap(self) -> Reader:
        name, description = self.key("keys/"), self.store.get("repo.json")
        sound = self.store.get(name)

        def read(data: bytes) -> None:
            store: Any = OneObject(name, data)
            ring = KeyRing(store, self.keys.repository_id, description)
            ring.wraps()
            assert ring.unlock(self.bench.secret) == self.bench.repository._master_key

        return Reader(sound, read, lambda chooser: openly_signed(sound, chooser), read)


def openly_signed(sound: bytes, chooser: random.Random) -> bytes:
    prefix = mutated_json(sound[:-_TAIL_BYTES], chooser)
    return prefix + f',"digest":"{blake3(prefix).hexdigest()}"}}\n'.encode()


def judge(reader: Reader, name: str, seeds: range, count: Callable[[str, int], None]) -> None:
    """Both kinds of mutants, one of each per seed."""
    peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reader.read(reader.sound)
    refused = 0
    for seed in seeds:
        chooser = random.Random(seed)
        start_s = time.process_time()
        with pytest.raises(RepositoryError):
            reader.read(mutated(reader.sound, chooser))
        try:
            reader.read_forged(reader.forge(chooser))
        except RepositoryError:
            refused += 1
        assert time.process_time() - start_s < SECONDS_PER_MUTANT_MAX, seed
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_before) / 1024
    assert grown_mib < MEMORY_MIB_MAX
    count(f"fuzz {name}: damaged, all refused", len(seeds))
    count(f"fuzz {name}: forged", len(seeds))
    count(f"fuzz {name}: forged and refused", refused)


KINDS = ["pack", "map", "segment", "commit_record", "description"]
SEEDS = [range(150), pytest.param(range(1000, 21_000), marks=pytest.mark.long)]


@pytest.mark.parametrize("seeds", SEEDS, ids=["short", "20000"])
@pytest.mark.parametrize("kind", KINDS)
def test_readers_refuse_what_nobody_wrote(
    any_bench: Any, make_disk: MakeDisk, kind: str, seeds: range, count: Callable[[str, int], None]
) -> None:
    """Damaged: always a typed error. Forged: a typed error or the truth. Memory and time stay small."""
    scene = Scene(any_bench, make_disk)
    judge(getattr(scene, kind)(), kind, seeds, count)


@pytest.mark.parametrize("seeds", SEEDS, ids=["short", "20000"])
def test_key_wraps_refuse_what_nobody_wrote(
    encrypted_bench: Any, make_disk: MakeDisk, seeds: range, count: Callable[[str, int], None]
) -> None:
    """The same for key wraps, that anybody can forge as their digest has no key."""
    judge(Scene(encrypted_bench, make_disk).key_wrap(), "key wrap", seeds, count)


@pytest.mark.parametrize(
    "flips", [40, pytest.param(10_000, marks=pytest.mark.long)], ids=["short", "10,000"]
)
def test_flipped_bits_of_an_encrypted_repository(
    encrypted_bench: Any, make_disk: MakeDisk, flips: int, count: Callable[[str, int], None]
) -> None:
    """Random single-bit flips in any object: verify, or opening, names that object every time."""
    Scene(encrypted_bench, make_disk)
    encrypted_bench.repository.save_report("session", {"text": "x"})
    store = encrypted_bench.repository._store
    objects = {info.key: store.get(info.key) for info in store.list("")}
    sizes = [len(data) + 1000 for data in objects.values()]
    chooser = random.Random(10_000)
    for _ in range(flips):
        (name,) = chooser.choices(list(objects), sizes)
        path, sound = Path(encrypted_bench.url) / name, objects[name]
        bit = chooser.randrange(len(sound) * 8)
        damaged = bytearray(sound)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            report = encrypted_bench.reopened().verify(remembers=False)
            found = {each.key for each in report.findings}
        except RepositoryError as error:
            found = {getattr(error, "key", "")}
        assert name in found, (name, bit)
        path.write_bytes(sound)
    count("bits flipped in an encrypted repository, all found", flips)
