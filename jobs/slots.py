"""How many VMs a worker moves at once, counted over everybody who uses it (W3, W18).

`Slots` is the port: sessions take and give back slots without knowing who else does. `LocalSlots`
counts within one run; `tasks.slots.SharedSlots` counts over all processes that share a Prefect
server.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from typing import Protocol

_LIMIT_PREFIX = "ahvault-worker-"
_ID_LENGTH = 8


def limit_name(name: str, vm_id: str) -> str:
    """The name of a worker's limit on a Prefect server, the same for everybody who uses that VM."""
    told = re.sub(r"[^A-Za-z0-9._-]+", "-", name)
    return f"{_LIMIT_PREFIX}{told}-{vm_id[:_ID_LENGTH]}"


def worker_of_limit(limit: str) -> tuple[str, str] | None:
    """The worker that a limit is for: its name as told there, and how its id begins. `None` for no worker's."""
    name, _, id_start = limit.removeprefix(_LIMIT_PREFIX).rpartition("-")
    if not limit.startswith(_LIMIT_PREFIX) or not name or len(id_start) != _ID_LENGTH:
        return None
    return name, id_start


class SlotHold(Protocol):
    """One slot, taken."""

    def give_back(self) -> None:
        """Free the slot. Never raises; a holder that dies instead loses it after a while."""


class Slots(Protocol):
    """Counted slots of workers, by the id of the worker's VM. Thread-safe."""

    def open(self, vm_id: str, name: str, slots: int) -> None:
        """Make a worker known, with as many slots as it has now."""

    def free(self, vm_ids: Sequence[str]) -> Mapping[str, int]:
        """How many slots are free now; never below zero. A guess by the time it is read."""

    def take(self, vm_id: str) -> SlotHold | None:
        """Take a slot if one is free, without waiting."""

    def close(self) -> None:
        """This run takes no more slots; all it took were given back."""


class LocalSlots:
    """Counts within one run, where nobody else uses the workers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._limits: dict[str, int] = {}
        self._used: dict[str, int] = {}

    def open(self, vm_id: str, name: str, slots: int) -> None:  # noqa: ARG002 - the port names it
        """Make a worker known."""
        with self._lock:
            self._limits[vm_id] = slots

    def free(self, vm_ids: Sequence[str]) -> Mapping[str, int]:
        """How many slots are free now."""
        with self._lock:
            return {each: max(0, self._left(each)) for each in vm_ids}

    def take(self, vm_id: str) -> SlotHold | None:
        """Take a slot if one is free."""
        with self._lock:
            if self._left(vm_id) <= 0:
                return None
            self._used[vm_id] = self._used.get(vm_id, 0) + 1
        return _LocalHold(self, vm_id)

    def close(self) -> None:
        """Nothing is kept anywhere."""

    def _left(self, vm_id: str) -> int:
        return self._limits.get(vm_id, 0) - self._used.get(vm_id, 0)

    def _give_back(self, vm_id: str) -> None:
        with self._lock:
            self._used[vm_id] -= 1


class _LocalHold:
    def __init__(self, slots: LocalSlots, vm_id: str) -> None:
        self._slots, self._vm_id, self._is_held = slots, vm_id, True

    def give_back(self) -> None:
        if self._is_held:
            self._is_held = False
            self._slots._give_back(self._vm_id)  # noqa: SLF001 - the two are one
