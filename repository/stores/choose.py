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


def open_store(url: str, storage_options: Mapping[str, Any] | None = None) -> Store:
    """The store at a URL: a path or `file://` is a directory, anything else goes to fsspec.

    Raises InvalidInput for a URL that no installed fsspec implementation serves. Connects to
    nothing yet.
    """
    if not url:
        raise InvalidInput("repository URL", "is empty")
    scheme = urlsplit(url).scheme if "://" in url else ""
    if scheme in {"", "file", "local"}:
        return LocalStore(Path(unquote(urlsplit(url).path) if scheme else url))
    if scheme == "memory":
        return MemoryStore(url)
    return FsspecStore(url, storage_options)
