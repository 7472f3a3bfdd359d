"""fsspec's `memory://` as a store: shared by everything in this process, gone with it."""

from __future__ import annotations

import threading

from repository.errors import ObjectExists
from repository.ports import Buffer, Pace
from repository.store import StoreCapabilities
from repository.stores.fsspec_store import FsspecStore

# The file system behind memory:// is one per process, so its guard is too.
_CREATING = threading.Lock()


class MemoryStore(FsspecStore):
    """For tests and trials; exclusive creation holds within the process, which is all there is."""

    @property
    def capabilities(self) -> StoreCapabilities:
        return StoreCapabilities(create_exclusive=True, high_latency=False)

    def put_new(self, key: str, *pieces: Buffer, pace: Pace | None = None) -> None:
        if pace is not None:
            pace(sum(map(len, pieces)))
        with _CREATING:
            if self.stat(key) is not None:
                raise ObjectExists(key)
            self.put(key, *pieces)
