"""Any other fsspec file system as a store.

Object names become paths below the URL's path. One write is one `pipe_file`; whether that can be
made exclusive depends on the implementation, and is claimed only where it is known to hold.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import fsspec

from repository.errors import (
    DamagedObject,
    InvalidInput,
    ObjectExists,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from repository.ports import Buffer, Pace
from repository.store import ObjectInfo, StoreCapabilities

_NAMES_A_HOST = {"ftp", "hdfs", "http", "https", "smb", "ssh", "webdav", "webdavs", "webhdfs"}
_HOSTS = {"gcs": "storage.googleapis.com", "gs": "storage.googleapis.com"}
_ENCRYPTED = {"abfs", "az", "gcs", "gs", "https", "ssh", "webdavs"}
_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def _translated(operation: str, key: str) -> Iterator[None]:
    """Turn what an implementation raises, which can be anything, into the store's own errors."""
    try:
        yield
    except StoreError:
        raise
    except FileNotFoundError as error:
        raise ObjectNotFound(key, operation) from error
    except FileExistsError as error:
        raise ObjectExists(key) from error
    except PermissionError as error:
        raise StoreDenied(operation, key, str(error)) from error
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFull(operation, key, str(error)) from error
        raise StoreUnavailable(operation, key, str(error)) from error
    except Exception as error:
        raise StoreUnavailable(operation, key, f"{type(error).__name__}: {error}") from error


class FsspecStore:
    """A store over whatever fsspec file system serves the URL."""

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None) -> None:
        try:
            self._fs, path = fsspec.core.url_to_fs(
                url, use_listings_cache=False, **(storage_options or {})
            )
        except (ValueError, ImportError) as error:
            raise InvalidInput(f"repository URL {url}", str(error)) from error
        self._url = url
        self._is_plain = any(
            str(option).startswith("http://") for option in (storage_options or {}).values()
        )
        self._root = path.rstrip("/")

    @property
    def url(self) -> str:
        return self._url

    @property
    def host(self) -> str | None:
        parts = urlsplit(self._url)
        return parts.hostname if parts.scheme in _NAMES_A_HOST else _HOSTS.get(parts.scheme)

    @property
    def encrypts_transport(self) -> bool:
        return urlsplit(self._url).scheme in _ENCRYPTED and not self._is_plain

    @property
    def capabilities(self) -> StoreCapabilities:
        return StoreCapabilities(create_exclusive=False, high_latency=True)

    def put_new(self, key: str, *pieces: Buffer, pace: Pace | None = None) -> None:
        # Names are random, so that a collision can only be this very object, written before an
        # answer was lost. Looking first catches that; it is no protection against a race.
        if self.stat(key) is not None:
            raise ObjectExists(key)
        if pace is not None:  # one call sends it all
            pace(sum(map(len, pieces)))
        self.put(key, *pieces)

    def put(self, key: str, *pieces: Buffer) -> None:
        with _translated("write", key):
            path = self._path(key)
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(path, b"".join(pieces))

    def get(self, key: str) -> bytes:
        with _translated("read", key):
            return bytes(self._fs.cat_file(self._path(key)))

    def get_range(self, key: str, offset_bytes: int, length_bytes: int) -> bytes:
        with _translated("read", key):
            end_bytes = offset_bytes + length_bytes
            data = bytes(self._fs.cat_file(self._path(key), start=offset_bytes, end=end_bytes))
        if len(data) != length_bytes:
            raise DamagedObject(key, f"ends before byte {offset_bytes + length_bytes}")
        return data

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with _translated("list", prefix):
            folder = self._path(prefix).rstrip("/")
            self._fs.invalidate_cache(folder)
            found: dict[str, dict[str, Any]] = self._fs.find(folder, detail=True)
        for path in sorted(found):
            key = path.removeprefix(f"{self._root}/")
            yield ObjectInfo(key, int(found[path]["size"]))

    def delete(self, key: str) -> None:
        with _translated("delete", key):
            try:
                self._fs.rm_file(self._path(key))
            except FileNotFoundError:
                return

    def stat(self, key: str) -> ObjectInfo | None:
        with _translated("look at", key):
            self._fs.invalidate_cache(self._path(key).rpartition("/")[0])
            try:
                return ObjectInfo(key, int(self._fs.info(self._path(key))["size"]))
            except FileNotFoundError:
                return None

    def close(self) -> None:
        """Connections belong to fsspec, which keeps them for others with the same options."""

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"
