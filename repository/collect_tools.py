"""What planning and sweeping work with."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from repository.catalogue import Catalogue
from repository.errors import Stopped
from repository.leases import OpenLease, open_leases
from repository.live import LiveRecords
from repository.records import RecordCodec
from repository.store import Store
from repository.units import Clock
from repository.usage import ReferenceCache


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

    def leases(self) -> list[OpenLease]:
        """The sessions that may be running."""
        return open_leases(self.live, self.clock.now())
