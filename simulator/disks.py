"""Virtual disks: sparse files in generations, with a true record of what each generation changed.

A vdisk is a row of generations. The last one is live: guests write to it. Freezing (a recovery point)
only marks it; the next write first copies the file, by reference where the file system can, and so
starts the next generation. Every generation keeps the extents that were written since the one before,
so what differs between two recovery points is the union of the generations between them, and never
the result of comparing the two.

Two kinds of writers exist. Those that come through this file say what they write (`write`, `discard`,
`grow`) or work on a copy that is compared when they end (`session`). The others hold the file itself,
because it stands as a device under a worker (`expose`): the frozen side of such a disk is a copy made
at once, and its extents are found by comparing the file with the generation before.

Locks: one per vdisk for writing and freezing, taken before `Documents.change()`, never after.
"""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from simulator.documents import Documents
from simulator.errors import NotFoundError
from simulator.sparse import (
    Extent,
    KiB,
    clip,
    copy_sparse,
    create_sparse,
    data_extents,
    differing_extents,
    merge,
    punch,
)

# The finest granularity at which changed regions are ever asked for (nutanix-v4 §15.2).
TRACKING_BLOCK_BYTES = 32 * KiB


@dataclass(frozen=True, slots=True)
class Generation:
    """One state of a vdisk. `dirty` is what was written since the generation before."""

    number: int
    size_bytes: int
    freeze_count: int = 0
    has_file: bool = True
    dirty: tuple[Extent, ...] = ()


@dataclass(frozen=True, slots=True)
class VirtualDisk:
    """A vdisk: its generations, oldest first. Without a live one it is only remembered by snapshots."""

    ext_id: str
    generations: tuple[Generation, ...]
    has_live: bool = True
    is_exposed: bool = False

    @property
    def live(self) -> Generation:
        """The generation that guests write to."""
        if not self.has_live:
            raise NotFoundError("virtual_disk", self.ext_id)
        return self.generations[-1]

    def generation(self, number: int) -> Generation:
        """One generation by number."""
        for generation in self.generations:
            if generation.number == number:
                return generation
        raise NotFoundError("generation", f"{self.ext_id}.{number}")


class DiskStore:
    """All vdisks of the cluster, below one folder. Safe to use from many threads."""

    def __init__(self, root: Path, documents: Documents, new_id: Callable[[], str]) -> None:
        self._root = root
        self._documents = documents
        self._new_id = new_id
        self._locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
        self._root.mkdir(parents=True, exist_ok=True)
        self._collect_orphans()

    # -- reading -------------------------------------------------------------------------------

    def get(self, ext_id: str) -> VirtualDisk:
        """The vdisk as it is now."""
        record = self._documents.find("vdisk", ext_id)
        if record is None:
            raise NotFoundError("virtual_disk", ext_id)
        return _from_document(record.document)

    def live_path(self, ext_id: str) -> Path:
        """The file that guests write to; another one after the next freeze and write."""
        return self._file(ext_id, self.get(ext_id).live.number)

    def frozen_path(self, ext_id: str, number: int) -> Path:
        """The file of a frozen generation; its bytes never change."""
        return self._file(ext_id, self.get(ext_id).generation(number).number)

    def allocated(self, ext_id: str, number: int, start: int, end: int) -> list[Extent]:
        """Ranges of a generation that hold data, within `[start, end)`."""
        return list(data_extents(self.frozen_path(ext_id, number), start, end))

    def changed(self, ext_id: str, older: int, newer: int) -> list[Extent]:
        """What was written between two frozen generations of one vdisk, in either order of time."""
        low, high = sorted((older, newer))
        disk = self.get(ext_id)
        between = [g for g in disk.generations if low < g.number <= high]
        return clip(
            merge(e for g in between for e in g.dirty), 0, disk.generation(newer).size_bytes
        )

    # -- making and ending ---------------------------------------------------------------------

    def create(self, size_bytes: int) -> str:
        """A blank vdisk; costs nothing until written. Returns its id."""
        return self._adopt(size_bytes, lambda path: create_sparse(path, size_bytes))

    def import_file(self, source: Path, size_bytes: int) -> str:
        """A vdisk with the content of a file, which is moved when it lies on the same file system."""
        return self._adopt(size_bytes, lambda path: _take(source, path, size_bytes))

    def clone(self, ext_id: str, number: int | None = None, size_bytes: int | None = None) -> str:
        """A new vdisk with the content of a generation (default: the live one), at least as long."""
        with self.hold([ext_id]):
            disk = self.get(ext_id)
            source = disk.live if number is None else disk.generation(number)
            size = max(size_bytes or 0, source.size_bytes)
            path = self._file(ext_id, source.number)
            return self._adopt(size, lambda target: copy_sparse(path, target, size))

    def _adopt(self, size_bytes: int, fill: Callable[[Path], None]) -> str:
        ext_id = self._new_id()
        fill(self._file(ext_id, 1))
        with self._documents.change():
            self._put(VirtualDisk(ext_id, (Generation(1, size_bytes),)))
        return ext_id

    def drop_live(self, ext_id: str) -> None:
        """The disk is deleted; generations that recovery points hold stay. Idempotent."""
        with self.hold([ext_id]), self._documents.change():
            disk = self.get(ext_id)
            if disk.has_live:
                self._put(replace(disk, has_live=False))
                self._prune(ext_id)

    def release(self, ext_id: str, number: int) -> None:
        """A recovery point that held this generation is gone."""
        with self.hold([ext_id]), self._documents.change():
            disk = self.get(ext_id)
            held = disk.generation(number)
            self._put(_with(disk, replace(held, freeze_count=held.freeze_count - 1)))
            self._prune(ext_id)

    # -- freezing ------------------------------------------------------------------------------

    @contextmanager
    def hold(self, ext_ids: Iterable[str]) -> Iterator[None]:
        """Keep every writer of these vdisks out, for a consistent freeze of all of them."""
        with ExitStack() as stack:
            for ext_id in sorted(set(ext_ids)):
                stack.enter_context(self._locks[ext_id])
            yield

    def freeze(self, ext_id: str) -> int:
        """Freeze the live content and return the generation that holds it. Within `hold`."""
        disk = self.get(ext_id)
        if disk.is_exposed:
            self._split_exposed(disk)
            disk = self.get(ext_id)
            frozen = disk.generations[-2]
        else:
            frozen = disk.live
        with self._documents.change():
            self._put(_with(disk, replace(frozen, freeze_count=frozen.freeze_count + 1)))
        return frozen.number

    def hold_frozen(self, ext_id: str, number: int) -> None:
        """One more recovery point holds a frozen generation. Within `hold`."""
        with self._documents.change():
            disk = self.get(ext_id)
            held = disk.generation(number)
            self._put(_with(disk, replace(held, freeze_count=held.freeze_count + 1)))

    def _split_exposed(self, disk: VirtualDisk) -> None:
        """Copy an exposed file aside as the frozen generation; the device keeps its inode."""
        live = disk.live
        path, following = (
            self._file(disk.ext_id, live.number),
            self._file(disk.ext_id, live.number + 1),
        )
        spare = path.with_suffix(".part")
        copy_sparse(path, spare, live.size_bytes)
        following.unlink(missing_ok=True)
        os.link(path, following)
        spare.replace(path)
        frozen = replace(live, dirty=self._exposed_dirty(disk, path))
        after = Generation(live.number + 1, live.size_bytes)
        with self._documents.change():
            self._put(replace(disk, generations=(*disk.generations[:-1], frozen, after)))

    def _exposed_dirty(self, disk: VirtualDisk, path: Path) -> tuple[Extent, ...]:
        before = disk.generations[-2] if len(disk.generations) > 1 else None
        if before is None or not before.has_file:
            return ((0, disk.live.size_bytes),)
        old = self._file(disk.ext_id, before.number)
        found = differing_extents(old, path, TRACKING_BLOCK_BYTES)
        return tuple(merge([*disk.live.dirty, *found]))

    def expose(self, ext_id: str) -> None:
        """Someone is about to hold the live file itself as a device, and may write there untold.

        That stays so after the device is gone: what was written is only found at the next freeze.
        """
        with self.hold([ext_id]), self._documents.change():
            if not self.get(ext_id).is_exposed:
                self._begin_write(ext_id, ())
                self._put(replace(self.get(ext_id), is_exposed=True))

    # -- writing -------------------------------------------------------------------------------

    def write(self, ext_id: str, offset: int, data: bytes) -> None:
        """Write bytes; the range is recorded before the bytes are, so a crash errs to "changed"."""
        with self.hold([ext_id]):
            path = self._begin_write(ext_id, ((offset, offset + len(data)),))
            with path.open("r+b") as file:
                os.pwrite(file.fileno(), data, offset)

    def discard(self, ext_id: str, extents: Iterable[Extent]) -> None:
        """Give ranges back; they read as zeros and cost nothing from then on."""
        wanted = merge(extents)
        with self.hold([ext_id]):
            path = self._begin_write(ext_id, tuple(wanted))
            for start, end in wanted:
                punch(path, start, end)

    def grow(self, ext_id: str, size_bytes: int) -> None:
        """Lengthen the disk by a hole; its tail counts as changed."""
        with self.hold([ext_id]):
            old_bytes = self.get(ext_id).live.size_bytes
            if size_bytes < old_bytes:
                raise ValueError(f"a disk of {old_bytes} bytes cannot shrink to {size_bytes}")
            path = self._begin_write(ext_id, ((old_bytes, size_bytes),))
            os.truncate(path, size_bytes)
            with self._documents.change():
                disk = self.get(ext_id)
                self._put(_with(disk, replace(disk.live, size_bytes=size_bytes)))

    @contextmanager
    def session(self, ext_id: str) -> Iterator[Path]:
        """Lend a copy of the live file to a tool; what it changed is found and swapped in at the end.

        If the block raises, the disk is as before. The copy keeps its length.
        """
        with self.hold([ext_id]):
            live = self.get(ext_id).live
            current = self._file(ext_id, live.number)
            spare = current.with_suffix(".part")
            try:
                copy_sparse(current, spare)
                yield spare
                self._swap(ext_id, current, spare)
            finally:
                spare.unlink(missing_ok=True)

    def _swap(self, ext_id: str, current: Path, changed: Path) -> None:
        dirty = tuple(differing_extents(current, changed, TRACKING_BLOCK_BYTES))
        if not dirty:
            return
        disk = self.get(ext_id)
        if disk.live.freeze_count:
            live = Generation(disk.live.number + 1, disk.live.size_bytes, dirty=dirty)
            changed.replace(self._file(ext_id, live.number))
            with self._documents.change():
                self._put(replace(disk, generations=(*disk.generations, live)))
            return
        with self._documents.change():
            self._put(
                _with(disk, replace(disk.live, dirty=tuple(merge([*disk.live.dirty, *dirty]))))
            )
        changed.replace(current)

    def _begin_write(self, ext_id: str, extents: tuple[Extent, ...]) -> Path:
        """Make the live file one that may be written, record what will be, and return its path."""
        disk = self.get(ext_id)
        live = disk.live
        if live.freeze_count:
            following = Generation(live.number + 1, live.size_bytes, dirty=tuple(merge(extents)))
            copy_sparse(self._file(ext_id, live.number), self._file(ext_id, following.number))
            disk = replace(disk, generations=(*disk.generations, following))
        else:
            disk = _with(disk, replace(live, dirty=tuple(merge([*live.dirty, *extents]))))
        with self._documents.change():
            self._put(disk)
        return self._file(ext_id, disk.live.number)

    # -- bookkeeping ---------------------------------------------------------------------------

    def _prune(self, ext_id: str) -> None:
        """Remove files that nobody holds, and the records of what nobody can ask about any more."""
        disk = self.get(ext_id)
        last = disk.generations[-1].number
        kept: list[Generation] = []
        for generation in disk.generations:
            is_needed = generation.freeze_count > 0 or (disk.has_live and generation.number == last)
            if generation.has_file and not is_needed:
                path = self._file(ext_id, generation.number)
                self._documents.after_commit(partial(path.unlink, missing_ok=True))
                kept.append(replace(generation, has_file=False))
            else:
                kept.append(generation)
        # Extents of a lost generation still count for pairs around it, unless nothing older is left.
        while kept and not kept[0].has_file:
            kept.pop(0)
        if kept:
            self._put(replace(disk, generations=tuple(kept)))
        else:
            self._documents.delete("vdisk", ext_id)

    def _collect_orphans(self) -> None:
        """Remove files that no record names: what a killed simulator left half made."""
        named: set[str] = set()
        for record in self._documents.all("vdisk"):
            disk = _from_document(record.document)
            named.update(
                self._file(disk.ext_id, g.number).name for g in disk.generations if g.has_file
            )
        for path in self._root.iterdir():
            if path.name not in named:
                path.unlink()

    def _file(self, ext_id: str, number: int) -> Path:
        return self._root / f"{ext_id}.{number}.raw"

    def _put(self, disk: VirtualDisk) -> None:
        self._documents.put("vdisk", disk.ext_id, asdict(disk))


def _with(disk: VirtualDisk, changed: Generation) -> VirtualDisk:
    """The vdisk with one generation replaced by its new state."""
    generations = tuple(changed if g.number == changed.number else g for g in disk.generations)
    return replace(disk, generations=generations)


def _take(source: Path, target: Path, size_bytes: int) -> None:
    try:
        source.rename(target)
    except OSError:  # another file system
        copy_sparse(source, target)
    os.truncate(target, size_bytes)


def _from_document(document: dict[str, Any]) -> VirtualDisk:
    generations = tuple(
        Generation(**{**g, "dirty": tuple((s, e) for s, e in g["dirty"])})
        for g in document["generations"]
    )
    return VirtualDisk(
        document["ext_id"], generations, document["has_live"], document["is_exposed"]
    )
