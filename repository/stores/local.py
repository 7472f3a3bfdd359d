"""A directory as a store: temporary file, fsync, link or rename, fsync of the directory."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from repository.buffers import SLAB_BYTES
from repository.errors import (
    DamagedObject,
    ObjectExists,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from repository.pacing import paced
from repository.past_cache import PastCache
from repository.ports import Buffer, Pace
from repository.store import ObjectInfo, StoreCapabilities, StoreSpace

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK}
_PIECES_PER_WRITE = 512  # below the system's limit of 1024 buffers in one writev
_TEMPORARY_PREFIX = "."  # names of our own never start so; listings leave these out


@contextmanager
def _translated(operation: str, key: str) -> Iterator[None]:
    """Turn what the system says into the store's own errors."""
    try:
        yield
    except FileNotFoundError as error:
        raise ObjectNotFound(key, operation) from error
    except OSError as error:
        raise _store_error(operation, key, error) from error


def _store_error(operation: str, key: str, error: OSError) -> StoreError:
    detail = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _FULL:
        return StoreFull(operation, key, detail)
    if error.errno in _DENIED:
        return StoreDenied(operation, key, detail)
    return StoreUnavailable(operation, key, detail)


class LocalStore:
    """A directory on a local or mounted file system.

    Exclusive creation uses hard links. On a file system without them it is looked first and then
    renamed, and the capability is gone.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._has_links = True  # until the file system says otherwise

    @property
    def url(self) -> str:
        return str(self._root)

    @property
    def host(self) -> str | None:
        return None

    @property
    def encrypts_transport(self) -> bool:
        return False  # whoever mounted a network file system there knows

    @property
    def capabilities(self) -> StoreCapabilities:
        return StoreCapabilities(create_exclusive=self._has_links, high_latency=False)

    def put_new(self, key: str, *pieces: Buffer, pace: Pace | None = None) -> None:
        self._place(key, pieces, replace=False, pace=pace)

    def put(self, key: str, *pieces: Buffer) -> None:
        self._place(key, pieces, replace=True)

    def get(self, key: str) -> bytes:
        with _translated("read", key):
            return (self._root / key).read_bytes()

    def get_range(self, key: str, offset_bytes: int, length_bytes: int) -> bytes:
        with _translated("read", key):
            descriptor = os.open(self._root / key, os.O_RDONLY | os.O_CLOEXEC)
            try:
                data = os.pread(descriptor, length_bytes, offset_bytes)
            finally:
                os.close(descriptor)
        if len(data) != length_bytes:
            raise DamagedObject(key, f"ends before byte {offset_bytes + length_bytes}")
        return data

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with _translated("list", prefix):
            yield from self._walk(self._root / prefix, prefix)

    def delete(self, key: str) -> None:
        with _translated("delete", key), suppress(FileNotFoundError):
            (self._root / key).unlink()

    def stat(self, key: str) -> ObjectInfo | None:
        with _translated("look at", key):
            try:
                return ObjectInfo(key, (self._root / key).stat().st_size)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def space(self) -> StoreSpace:
        """Of the file system, without what is kept for root."""
        with _translated("measure", "the file system"):
            found = os.statvfs(self._root)
        return StoreSpace(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)

    def close(self) -> None:
        """Nothing is held open between calls."""

    def _place(
        self, key: str, pieces: tuple[Buffer, ...], *, replace: bool, pace: Pace | None = None
    ) -> None:
        final = self._root / key
        temporary = final.with_name(f"{_TEMPORARY_PREFIX}{uuid.uuid4().hex}.tmp")
        with _translated("write", key):
            try:
                self._make_folder(final.parent)
                _write_durably(temporary, pieces, pace)
                self._name(temporary, final, replace=replace)
                _sync_folder(final.parent)
            except FileExistsError as error:
                raise ObjectExists(key) from error
            finally:
                with suppress(FileNotFoundError):
                    temporary.unlink()

    def _name(self, temporary: Path, final: Path, *, replace: bool) -> None:
        """Give the finished file its name, in one step."""
        if not replace and self._has_links:
            try:
                os.link(temporary, final)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                self._has_links = False
            else:
                return
        if not replace and final.exists():
            raise FileExistsError(final)
        temporary.replace(final)

    def _make_folder(self, folder: Path) -> None:
        """Make the folder and those above it, each durable in its own parent."""
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        _sync_folder(folder.parent)

    def _walk(self, folder: Path, prefix: str) -> Iterator[ObjectInfo]:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            if entry.name.startswith(_TEMPORARY_PREFIX):
                continue
            if entry.is_dir():
                yield from self._walk(folder / entry.name, f"{prefix}{entry.name}/")
                continue
            with suppress(FileNotFoundError):  # deleted since the folder was read
                yield ObjectInfo(f"{prefix}{entry.name}", entry.stat().st_size)


def _write_durably(path: Path, pieces: tuple[Buffer, ...], pace: Pace | None) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        # Packs go past the cache: to copy them into it costs more than all else but zstd. Not so the
        # small parts of one that is held back, each of which would wait for the disk.
        if pace is None and any(len(piece) >= SLAB_BYTES for piece in pieces):
            _append(descriptor, _begin_past_the_cache(path, descriptor, pieces))
        else:
            for part in paced(pieces, pace) if pace is not None else [pieces]:
                _append(descriptor, part)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _begin_past_the_cache(
    path: Path, descriptor: int, pieces: Sequence[Buffer]
) -> Sequence[memoryview]:
    """Write the new file past the cache as far as that can be; returns what is left to append."""
    views, offset_bytes = [memoryview(piece).cast("B") for piece in pieces if len(piece)], 0
    with closing(PastCache(path)) as past_cache:
        while views and (written := past_cache.write(offset_bytes, views[0])):
            offset_bytes += written
            views[0] = views[0][written:]
            if not views[0]:
                views.pop(0)
    os.lseek(descriptor, offset_bytes, os.SEEK_SET)
    return views


def _append(descriptor: int, pieces: Sequence[Buffer]) -> None:
    for first in range(0, len(pieces), _PIECES_PER_WRITE):
        _write_all(descriptor, pieces[first : first + _PIECES_PER_WRITE])


def _write_all(descriptor: int, pieces: Sequence[Buffer]) -> None:
    views = [memoryview(piece).cast("B") for piece in pieces if len(piece)]
    while views:
        written = os.writev(descriptor, views)
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if written:
            views[0] = views[0][written:]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
