"""S3, and what speaks its protocol, as a store (docs/decisions/0003-obstore-and-asyncssh.md).

One object is one request: a put is never split, because servers that honour a condition on a put
may ignore it on the completion of an upload in parts. So a limit is kept by waiting before the put:
over several packs the average holds, each single pack goes as fast as the link allows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from obstore import exceptions
from obstore.store import S3Store as Bucket

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

_DENIED = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError, PermissionError)
_DENIED_WORDS = ("status code: 401", "status code: 403")  # listings have no error type for these
_ENDPOINTS = ("endpoint", "endpoint_url", "aws_endpoint", "aws_endpoint_url")
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_AMAZON = "https://s3.amazonaws.com"
_FULL = ("StorageFull", "QuotaExceeded", "InsufficientStorage", "507 ")


class S3Store:
    """A bucket, or a folder of one, at `s3://bucket/folder`.

    `storage_options` are obstore's S3 settings (`endpoint`, `region`, `access_key_id`,
    `secret_access_key`, ...; also `client_options`, `retry_config`); what is missing comes from the
    `AWS_...` variables. Whether creation is exclusive depends on the server: many accept the
    condition and overwrite all the same, so it has to be probed.
    """

    capabilities = StoreCapabilities(create_exclusive=None, high_latency=True)

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None) -> None:
        options = dict(storage_options or {})
        self._url = url
        self._endpoint = urlsplit(_endpoint(options))
        self._bucket = _open_bucket(url, options)

    @property
    def url(self) -> str:
        return self._url

    @property
    def host(self) -> str | None:
        return self._endpoint.hostname

    @property
    def encrypts_transport(self) -> bool:
        return self._endpoint.scheme == "https"

    def put_new(self, key: str, *pieces: Buffer, pace: Pace | None = None) -> None:
        if pace is not None:
            pace(sum(map(len, pieces)))
        self._put(key, pieces, "create")

    def put(self, key: str, *pieces: Buffer) -> None:
        self._put(key, pieces, "overwrite")

    def _put(
        self, key: str, pieces: tuple[Buffer, ...], mode: Literal["create", "overwrite"]
    ) -> None:
        with _translated("write", key):
            self._bucket.put(key, b"".join(pieces), mode=mode, use_multipart=False)

    def get(self, key: str) -> bytes:
        with _translated("read", key):
            return bytes(self._bucket.get(key).bytes())

    def get_range(self, key: str, offset_bytes: int, length_bytes: int) -> bytes:
        try:
            with _translated("read", key):
                data = bytes(self._bucket.get_range(key, start=offset_bytes, length=length_bytes))
        except StoreUnavailable:
            # A range behind the end is an error like any other here; the size tells them apart.
            info = self.stat(key)
            if info is None or info.size_bytes >= offset_bytes + length_bytes:
                raise
            data = b""
        if len(data) != length_bytes:
            raise DamagedObject(key, f"ends before byte {offset_bytes + length_bytes}")
        return data

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with _translated("list", prefix):
            found = [
                ObjectInfo(str(entry["path"]), int(entry["size"]))
                for batch in self._bucket.list(prefix or None)
                for entry in batch
            ]
        yield from sorted(found, key=lambda info: info.key)

    def delete(self, key: str) -> None:
        try:
            with _translated("delete", key):
                self._bucket.delete(key)
        except ObjectNotFound:
            return

    def stat(self, key: str) -> ObjectInfo | None:
        try:
            with _translated("look at", key):
                return ObjectInfo(key, int(self._bucket.head(key)["size"]))
        except ObjectNotFound:
            return None

    def close(self) -> None:
        """Connections are pooled by the library and end with the process."""


def _endpoint(options: Mapping[str, Any]) -> str:
    """Where requests go: the options say it, else the environment, else it is Amazon."""
    given = {name.lower(): each for name, each in options.items()}
    named = [given.get(name) for name in _ENDPOINTS]
    named += [os.environ.get(name) for name in _ENDPOINT_VARIABLES]
    return str(next(filter(None, named), _AMAZON))


def _open_bucket(url: str, options: dict[str, Any]) -> Bucket:
    parts = urlsplit(url)
    if not parts.netloc:
        raise InvalidInput(f"repository URL {url}", "names no bucket")
    client_options: Any = dict(options.pop("client_options", {}))
    if str(options.get("endpoint", "")).startswith("http://"):
        client_options.setdefault("allow_http", True)
    folder = unquote(parts.path).strip("/") or None
    try:
        return Bucket(parts.netloc, prefix=folder, client_options=client_options, **options)
    except (exceptions.BaseError, TypeError, ValueError) as error:
        # The library's text may repeat settings, and a setting may be a secret.
        raise InvalidInput(
            f"repository URL {url}", f"storage options do not fit ({type(error).__name__})"
        ) from None


@contextmanager
def _translated(operation: str, key: str) -> Iterator[None]:
    """Turn what the library raises into the store's own errors."""
    try:
        yield
    except exceptions.AlreadyExistsError as error:
        raise ObjectExists(key) from error
    except FileNotFoundError as error:
        if operation in {"write", "list"}:  # of a single object it could not be said
            raise StoreUnavailable(operation, key, "there is no such bucket") from error
        raise ObjectNotFound(key, operation) from error
    except (exceptions.BaseError, OSError) as error:
        raise _typed(operation, key, error) from error


def _typed(operation: str, key: str, error: Exception) -> StoreError:
    detail = _first_line(error)
    if any(word in str(error) for word in _FULL):
        return StoreFull(operation, key, detail)
    if isinstance(error, _DENIED) or any(word in str(error) for word in _DENIED_WORDS):
        return StoreDenied(operation, key, detail)
    return StoreUnavailable(operation, key, detail)


def _first_line(error: BaseException) -> str:
    """What the library says, without its debug print of causes."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
