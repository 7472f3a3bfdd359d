"""What planning and sweeping work with."""

from __future__ import annotations

import threading
from collections.abc import Set
from dataclasses import dataclass

from repository.catalogue import Catalogue
from repository.errors import Stopped
from repository.layout import pack_key
from repository.leases import OpenLease, open_leases
from repository.live import LiveRecords
from repository.locating import read_segments
from repository.records import RecordCodec
from repository.store import Store
from repository.units import Clock
from repository.usage import ReferenceCache, Refs, Usage, measure


@dataclass(frozen=True, slots=True)
class CollectTools:
    """What planning and sweeping share."""

    store: Store
    records: RecordCodec
    catalogue: Catalogue
    live: LiveRecords
    clock: Clock
    cache: ReferenceCache
    stop: threading.Event
    pack_target_bytes: int

    def check_stop(self) -> None:
        """Raise Stopped once the stop event is set."""
        if self.stop.is_set():
            raise Stopped("the collection")

    def usage(self, refs: Refs, listed: Set[bytes], avoided: Set[bytes]) -> Usage:
        """What is needed of what the segments say now; as `repository.usage.measure`."""
        return measure(
            refs,
            lambda: read_segments(self.store, self.records),
            listed,
            lambda pack_id: self.store.stat(pack_key(pack_id)) is not None,
            avoided,
        )

    def leases(self) -> list[OpenLease]:
        """The sessions that may be running."""
        return open_leases(self.live, self.clock.now())
