"""From a URL to a store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from repository.errors import InvalidInput
from repository.store import Store
from repository.stores.fsspec_store import FsspecStore
from repository.stores.local import LocalStore
from repository.stores.memory import MemoryStore

_EXTRAS = {"s3", "sftp"}


def open_store(url: str, storage_options: Mapping[str, Any] | None = None) -> Store:
    """The store at a URL.

    A path or `file://` is a directory; `s3://` and `sftp://` have stores of their own; anything else
    goes to fsspec. Raises InvalidInput for a URL that nothing installed serves.
    """
    if not url:
        raise InvalidInput("repository URL", "is empty")
    scheme = urlsplit(url).scheme if "://" in url else ""
    if scheme in {"", "file", "local"}:
        return LocalStore(Path(unquote(urlsplit(url).path) if scheme else url))
    if scheme == "memory":
        return MemoryStore(url)
    if scheme in _EXTRAS:
        return _store_of_extra(scheme, url, storage_options)
    return FsspecStore(url, storage_options)


def _store_of_extra(extra: str, url: str, storage_options: Mapping[str, Any] | None) -> Store:
    """A store whose libraries are installed by an extra of the same name as the scheme."""
    try:
        if extra == "s3":
            from repository.stores.s3 import S3Store  # noqa: PLC0415 - installed or not

            return S3Store(url, storage_options)
        from repository.stores.sftp import SftpStore  # noqa: PLC0415 - installed or not

        return SftpStore(url, storage_options)
    except ImportError as error:
        reason = f"needs {error.name}: pip install 'ahvault[{extra}]'"
        raise InvalidInput(f"repository URL {url}", reason) from error
