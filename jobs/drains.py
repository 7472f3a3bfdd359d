"""Workers that take no new VM because an operator said so (W13): a live record per worker.

The record lies with the repository, so the running sessions of all processes see it within
`DRAIN_PERIOD_S`. What a drained worker moves already, it moves to the end.
"""

from __future__ import annotations

import logging
from collections.abc import Set
from datetime import datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from repository import Clock, LiveRecords, RepositoryError

log = logging.getLogger(__name__)

DRAINS = "drains"
DRAIN_PERIOD_S = 2.0


class Drain(BaseModel):
    """One drained worker."""

    model_config = ConfigDict(frozen=True)

    vm_id: str
    worker: str
    since: datetime
    reason: str = ""

    def __str__(self) -> str:
        """As a reason why the worker is not used."""
        said = f" ({self.reason})" if self.reason else ""
        return f"drained since {self.since:%Y-%m-%d %H:%M} UTC{said}"


def drain(records: LiveRecords, drained: Drain) -> None:
    """From now on the worker takes no new VM; durable on return."""
    records.put(DRAINS, drained.vm_id, drained.model_dump(mode="json"))


def undrain(records: LiveRecords, vm_id: str) -> None:
    """The worker may take VMs again; silently done if it was not drained."""
    records.delete(DRAINS, vm_id)


def read_drains(records: LiveRecords) -> dict[str, Drain]:
    """Every drained worker, by the id of its VM. A record that cannot be read drains as well."""
    listing = records.list(DRAINS)
    drained = {}
    for vm_id, record in listing.records.items():
        try:
            drained[vm_id] = Drain.model_validate(record)
        except ValidationError:
            log.warning("The drain record of worker %s is of an unknown kind", vm_id)
    return drained


class DrainWatch:
    """The drained workers as of a moment ago; asks the repository at most every `DRAIN_PERIOD_S`."""

    def __init__(self, records: LiveRecords, clock: Clock) -> None:
        self._records, self._clock = records, clock
        self._known: dict[str, Drain] = {}
        self._read_at_s: float | None = None

    def drained(self, vm_ids: Set[str]) -> dict[str, str]:
        """Those of `vm_ids` that are drained, each with the reason in words.

        What was known last stays true while the repository cannot be asked.
        """
        now_s = self._clock.monotonic_s()
        if self._read_at_s is None or now_s - self._read_at_s >= DRAIN_PERIOD_S:
            self._read_at_s = now_s
            try:
                self._known = read_drains(self._records)
            except RepositoryError as error:
                log.warning("Which workers are drained could not be read: %s", error)
        return {vm_id: str(each) for vm_id, each in self._known.items() if vm_id in vm_ids}
