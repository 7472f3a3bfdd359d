"""One contract, every store: what the engine asks of the place that holds its objects."""

from __future__ import annotations

import errno
import os
import random
import threading
from pathlib import Path

import pytest

from repository.buffers import SLAB_BYTES, Slabs
from repository.errors import (
    DamagedObject,
    InvalidInput,
    ObjectExists,
    ObjectNotFound,
    Stopped,
    StoreDenied,
    StoreFull,
    StoreUnavailable,
)
from repository.pacing import PART_BYTES, paced
from repository.past_cache import PastCache
from repository.store import ObjectInfo, Store
from repository.stores import FsspecStore, creates_exclusively, open_store


class TestContract:
    """Holds for every store."""

    def test_what_was_put_is_got(self, store: Store) -> None:
        """Pieces come back as one object, empty and many pieces included."""
        store.put_new("data/ab/one", b"he", bytearray(b"l"), memoryview(b"lo"))
        store.put_new("data/ab/none")
        store.put_new("data/ab/many", *[b"%d," % number for number in range(3000)])
        assert store.get("data/ab/one") == b"hello"
        assert store.get("data/ab/none") == b""
        assert store.get("data/ab/many") == b"".join(b"%d," % number for number in range(3000))

    @pytest.mark.parametrize("is_paced", [False, True])
    def test_bulk_is_got_as_it_was_put(self, store: Store, *, is_paced: bool) -> None:
        """Slabs of whole pages with odd pieces around them: what goes past the cache, and what cannot."""
        slabs = Slabs()
        slabs.append(random.Random(8).randbytes(2 * SLAB_BYTES + 3 * 4096 + 5))
        for key, pieces in {
            "data/ab/pack": [*slabs.views(), b"end"],
            "data/ab/odd": [b"begin", *slabs.views()],
        }.items():
            store.put_new(key, *pieces, pace=(lambda _: None) if is_paced else None)
            assert store.get(key) == b"".join(pieces)

    def test_every_byte_is_asked_for_before_it_is_sent(self, store: Store) -> None:
        """The pace hears of the whole object, piece borders or not, and the object is what it was."""
        asked: list[int] = []
        pieces = [bytes([number]) * (PART_BYTES // 3 + number) for number in range(100)]
        store.put_new("data/ab/one", *pieces, pace=asked.append)
        assert sum(asked) == sum(map(len, pieces))
        assert store.get("data/ab/one") == b"".join(pieces)

    def test_a_pace_that_raises_ends_the_put(self, store: Store) -> None:
        """Whoever stops a transfer that waits for a limit leaves no part of an object behind."""
        asked: list[int] = []

        def stop_at_the_third(length_bytes: int) -> None:
            asked.append(length_bytes)
            if len(asked) > 2 or length_bytes > PART_BYTES:
                raise Stopped("the transfer")

        with pytest.raises(Stopped):
            store.put_new("data/ab/one", bytes(5 * PART_BYTES), pace=stop_at_the_third)
        assert store.stat("data/ab/one") is None
        assert list(store.list("data/")) == []

    def test_put_new_never_replaces(self, store: Store) -> None:
        """The second creation is refused and changes nothing; `put` replaces."""
        store.put_new("live/a/b.json", b"first")
        with pytest.raises(ObjectExists):
            store.put_new("live/a/b.json", b"second")
        assert store.get("live/a/b.json") == b"first"
        store.put("live/a/b.json", b"third")
        assert store.get("live/a/b.json") == b"third"

    def test_fifty_creators_have_one_winner(self, store: Store) -> None:
        """Of fifty threads that create one object at once, exactly one succeeds."""
        start, winners = threading.Barrier(50), []

        def create(number: int) -> None:
            start.wait()
            try:
                store.put_new("repo.json", b"%d" % number)
            except ObjectExists:
                return
            winners.append(number)

        threads = [threading.Thread(target=create, args=(number,)) for number in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert creates_exclusively(store)
        assert [b"%d" % number for number in winners] == [store.get("repo.json")]

    def test_ranges_are_exact(self, store: Store) -> None:
        """A range comes back exactly, and one that reaches past the end is damage, not a short read."""
        store.put_new("x", b"0123456789")
        assert store.get_range("x", 3, 4) == b"3456"
        assert store.get_range("x", 9, 1) == b"9"
        with pytest.raises(DamagedObject):
            store.get_range("x", 8, 3)

    def test_listing_is_by_prefix_and_sorted(self, store: Store) -> None:
        """A prefix lists everything below it with sizes, and nothing beside it."""
        for key in ("points/vm/b", "points/vm/a", "points/vm2/c", "data/00/z"):
            store.put_new(key, key.encode())
        assert list(store.list("points/vm/")) == [
            ObjectInfo("points/vm/a", 11),
            ObjectInfo("points/vm/b", 11),
        ]
        assert len(list(store.list("points/"))) == 3
        assert list(store.list("nothing/")) == []

    def test_what_is_not_there_is_not_found(self, store: Store) -> None:
        """Reading names the object, stat says None, deleting can be repeated."""
        with pytest.raises(ObjectNotFound, match="nowhere"):
            store.get("data/nowhere")
        with pytest.raises(KeyError):
            store.get_range("data/nowhere", 0, 1)
        assert store.stat("data/nowhere") is None
        store.put_new("live/x", b"1")
        assert store.stat("live/x") == ObjectInfo("live/x", 1)
        store.delete("live/x")
        store.delete("live/x")
        assert store.stat("live/x") is None


def test_local_writes_leave_nothing_else(tmp_path: Path) -> None:
    """After writes, refusals and failures there are no temporary files, and listings show none."""
    store = open_store(str(tmp_path))
    store.put_new("a/b", b"1")
    with pytest.raises(ObjectExists):
        store.put_new("a/b", b"2")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    (tmp_path / "a" / ".left-by-a-crash.tmp").write_bytes(b"torn")
    assert [info.key for info in store.list("a/")] == ["a/b"]


@pytest.mark.parametrize(
    ("code", "error"),
    [(errno.ENOSPC, StoreFull), (errno.EROFS, StoreDenied), (errno.EIO, StoreUnavailable)],
)
def test_local_trouble_is_typed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    error: type[Exception],
) -> None:
    """A full disk, a read-only one and a failing one are told apart, and leave no file behind."""

    def fail(_descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    store = open_store(str(tmp_path))
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(error, match="a/b"):
        store.put_new("a/b", b"1")
    monkeypatch.undo()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_file_system_without_links_still_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without hard links objects are still whole and never replaced, and the capability is gone."""

    def refuse(_temporary: Path, _final: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    store = open_store(str(tmp_path))
    store.put_new("a/b", b"1")
    with pytest.raises(ObjectExists):
        store.put_new("a/b", b"2")
    assert store.get("a/b") == b"1"
    assert not store.capabilities.create_exclusive
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_bulk_that_the_disk_takes_in_its_own_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a way past the cache, with larger units, or in small bites: the object is whole, and the disk's trouble is told."""
    slabs, pwrite = Slabs(), os.pwrite
    (tmp_path / "probe").touch()
    probe = PastCache(tmp_path / "probe")
    if not probe.is_open:
        pytest.skip("this file system has no way past its cache")
    probe.close()
    slabs.append(random.Random(9).randbytes(2 * SLAB_BYTES + 9))
    whole = b"".join(slabs.views())
    store = open_store(str(tmp_path))

    def put(key: str) -> bytes:
        store.put_new(key, *slabs.views())
        return store.get(key)

    def bite(descriptor: int, view: memoryview, offset_bytes: int) -> int:
        return pwrite(descriptor, view[: 64 * 4096], offset_bytes)

    def refuse(_descriptor: int, _view: memoryview, offset_bytes: int) -> int:
        raise OSError(errno.ENOSPC if offset_bytes else errno.EINVAL, "no")

    monkeypatch.setattr(os, "pwrite", bite)
    assert put("data/bites") == whole
    monkeypatch.setattr(os, "pwrite", refuse)
    assert put("data/refused") == whole
    monkeypatch.setattr(os, "pwrite", lambda *told: refuse(*told[:2], 1))
    with pytest.raises(StoreFull):
        put("data/full")
    monkeypatch.undo()
    monkeypatch.delattr(os, "O_DIRECT")
    assert put("data/cached") == whole
    assert [each.key for each in store.list("data/")] == [
        "data/bites",
        "data/cached",
        "data/refused",
    ]


def test_file_urls_are_folders(tmp_path: Path) -> None:
    """`file://` and a path are the same place, blanks included."""
    folder = tmp_path / "with blank"
    open_store(f"file://{str(folder).replace(' ', '%20')}").put_new("x", b"1")
    assert open_store(str(folder)).get("x") == b"1"


@pytest.mark.parametrize("url", ["", "nosuch://place"])
def test_urls_that_nothing_serves_are_refused(url: str) -> None:
    """An empty or unknown URL is the caller's mistake and says so."""
    with pytest.raises(InvalidInput, match="repository URL"):
        open_store(url)


def test_any_fsspec_file_system_is_a_store(tmp_path: Path) -> None:
    """What serves every other URL works on fsspec's own local one, without exclusive creation."""
    store = FsspecStore(f"file://{tmp_path}")
    store.put_new("a/b", b"12", b"3")
    assert (tmp_path / "a" / "b").read_bytes() == b"123"
    assert [*store.list("a/")] == [ObjectInfo("a/b", 3)]
    assert not creates_exclusively(store)
    with pytest.raises(ObjectExists):
        store.put_new("a/b", b"4")


def test_parts_are_let_go_one_by_one() -> None:
    """A part goes out only after the one before it, and none is larger than a part."""
    events: list[str] = []
    sizes: list[int] = []
    pieces = [bytes(PART_BYTES + 1), b"", bytearray(PART_BYTES - 2), memoryview(b"ab")]
    for part in paced(pieces, lambda length: events.append(f"asked {length}")):
        sizes.append(sum(map(len, part)))
        events.append(f"sent {sizes[-1]}")
    assert sizes == [PART_BYTES, PART_BYTES, 1]
    assert events == [f"{what} {size}" for size in sizes for what in ("asked", "sent")]
