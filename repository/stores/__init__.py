"""The stores there are, and how a URL chooses one."""

from repository.stores.choose import open_store
from repository.stores.fsspec_store import FsspecStore
from repository.stores.local import LocalStore
from repository.stores.memory import MemoryStore
from repository.stores.probing import creates_exclusively

__all__ = [
    "FsspecStore",
    "LocalStore",
    "MemoryStore",
    "creates_exclusively",
    "open_store",
]
