"""The stores there are, and how a URL chooses one."""

from repository.stores.choose import open_store
from repository.stores.fsspec_store import FsspecStore
from repository.stores.local import LocalStore
from repository.stores.memory import MemoryStore

__all__ = ["FsspecStore", "LocalStore", "MemoryStore", "open_store"]
