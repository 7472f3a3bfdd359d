"""Worker slots counted over all processes that share a Prefect server: one global concurrency limit each.

A slot is held under a lease that a thread renews. A holder that is killed renews no more, and its
slot is free about a minute later: a server of its own sees to that; the embedded one does not
(`Repossessor` does not run there), so whoever finds a worker full frees what expired. Leases must lie
in files for that, as the settings of `ahvault` say; in the server's memory they would die with it.

Prefect's own `concurrency()` is not used: its waiters wake late, on one limit each, and cannot look
for a free slot of another worker (`prefect-notes §2.4`).
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from uuid import UUID

from httpx import HTTPError, HTTPStatusError
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound
from prefect.server.concurrency.lease_storage.filesystem import ConcurrencyLeaseStorage
from prefect.settings import PREFECT_API_URL, PREFECT_HOME

from jobs import LocalSlots, SlotHold, limit_name

log = logging.getLogger(__name__)

LEASE_S = 60.0
"""The shortest that Prefect grants: how long a killed holder keeps its slot."""
RENEW_S = 15.0
SWEEP_S = 10.0
PAGE = 200
_LOCKED, _GONE = 423, 410
_TROUBLE = (HTTPError, ObjectNotFound, RuntimeError)
"""What a call to the Prefect server raises when it is away, or the limit was deleted."""


class SharedSlots:
    """The slots of one run. Thread-safe. A server that is away frees nothing and takes nothing."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._limits: dict[str, int] = {}
        self._local = LocalSlots()
        self._lock = threading.Lock()
        self._held: set[_Hold] = set()
        self._ended = threading.Event()
        self._renewing: threading.Thread | None = None
        self._swept_at_s = 0.0

    def open(self, vm_id: str, name: str, slots: int) -> None:
        """Create the worker's limit, or set it to the slots that it has now.

        Where that is impossible, this run counts by itself, and says so.
        """
        limit = limit_name(name, vm_id)
        self._local.open(vm_id, name, slots)
        try:
            with _client() as client:
                client.upsert_global_concurrency_limit_by_name(limit, slots)
        except _TROUBLE as error:
            log.warning("Slots of worker %s are counted in this process only: %s", name, error)
            return
        self._names[vm_id], self._limits[vm_id] = limit, slots

    def free(self, vm_ids: Sequence[str]) -> Mapping[str, int]:
        """How many slots are free now, in one look at all limits."""
        free = dict(self._local.free(vm_ids))
        shared = {self._names[each]: each for each in vm_ids if each in self._names}
        if not shared:
            return free
        try:
            with _client() as client:
                used = _used_slots(client, set(shared))
        except _TROUBLE as error:
            log.warning("The slots of the workers could not be looked at: %s", error)
            return free | dict.fromkeys(shared.values(), 0)
        for name, vm_id in shared.items():
            free[vm_id] = max(0, self._limits[vm_id] - used.get(name, self._limits[vm_id]))
        if not all(free.values()):
            self._free_expired()
        return free

    def take(self, vm_id: str) -> SlotHold | None:
        """Take a slot if one is free."""
        name = self._names.get(vm_id)
        if name is None:
            return self._local.take(vm_id)
        lease_id = self._lease(name)
        if lease_id is None:
            return None
        hold = _Hold(self, name, lease_id)
        with self._lock:
            self._held.add(hold)
            if self._renewing is None:
                self._renewing = threading.Thread(
                    target=self._renew_all, name="worker-slots", daemon=True
                )
                self._renewing.start()
        return hold

    def close(self) -> None:
        """Give back whatever is still held, and renew nothing more."""
        self._ended.set()
        with self._lock:
            held = list(self._held)
        for hold in held:
            hold.give_back()

    def drop(self, hold: _Hold) -> None:
        """The hold was given back: free its slot now instead of when its lease ends."""
        with self._lock:
            if hold not in self._held:
                return
            self._held.discard(hold)
        try:
            with _client() as client:
                client.release_concurrency_slots_with_lease(hold.lease_id)
        except _TROUBLE as error:
            log.warning("A slot of %s is free only in %.0f s: %s", hold.name, LEASE_S, error)

    def _lease(self, name: str) -> UUID | None:
        try:
            with _client() as client:
                response = client.increment_concurrency_slots_with_lease(
                    [name], 1, "concurrency", LEASE_S
                )
        except HTTPStatusError as error:
            if error.response.status_code != _LOCKED:
                log.warning("No slot of %s could be taken: %s", name, error)
            return None
        except _TROUBLE as error:
            log.warning("No slot of %s could be taken: %s", name, error)
            return None
        taken = response.json()
        if not taken["limits"]:
            log.warning("The limit %s was deleted; it comes back with the next session", name)
        return UUID(taken["lease_id"])

    def _renew_all(self) -> None:
        while not self._ended.wait(RENEW_S):
            with self._lock:
                held = list(self._held)
            for hold in held:
                self._renew(hold)

    def _renew(self, hold: _Hold) -> None:
        """Renew one lease; what was lost is taken anew. The transfer goes on in any case."""
        try:
            with _client() as client:
                client.renew_concurrency_lease(hold.lease_id, LEASE_S)
        except HTTPStatusError as error:
            if error.response.status_code == _GONE and (anew := self._lease(hold.name)):
                hold.lease_id = anew
                return
            log.warning("A slot of %s is used without a lease: %s", hold.name, error)
        except _TROUBLE as error:
            log.info("The lease of a slot of %s was not renewed: %s", hold.name, error)

    def _free_expired(self) -> None:
        """Do what the embedded server does not do: free the slots whose leases have expired."""
        if PREFECT_API_URL.value():
            return
        now_s = time.monotonic()
        with self._lock:
            if now_s - self._swept_at_s < SWEEP_S:
                return
            self._swept_at_s = now_s
        free_expired_leases()


def free_expired_leases() -> int:
    """Free every slot whose lease has expired, on a server that shares this `PREFECT_HOME`; how many.

    One process at a time: a lease that two of them released would be counted twice.
    """
    freed = 0
    with _alone() as is_alone:
        if not is_alone:
            return 0
        try:
            with _client() as client:
                for lease_id in asyncio.run(ConcurrencyLeaseStorage().read_expired_lease_ids()):
                    client.release_concurrency_slots_with_lease(lease_id)
                    freed += 1
        except _TROUBLE as error:
            log.warning("Expired leases could not be freed: %s", error)
    if freed:
        log.info("Freed %d worker slots of processes that were killed", freed)
    return freed


class _Hold:
    """One leased slot."""

    def __init__(self, slots: SharedSlots, name: str, lease_id: UUID) -> None:
        self._slots, self.name, self.lease_id = slots, name, lease_id

    def give_back(self) -> None:
        """Free the slot; a second call does nothing."""
        self._slots.drop(self)


@contextmanager
def _client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


def _used_slots(client: SyncPrefectClient, names: set[str]) -> dict[str, int]:
    used: dict[str, int] = {}
    offset = 0
    while len(used) < len(names):
        limits = client.read_global_concurrency_limits(limit=PAGE, offset=offset)
        used |= {each.name: each.active_slots for each in limits if each.name in names}
        if len(limits) < PAGE:
            break
        offset += PAGE
    return used


@contextmanager
def _alone() -> Iterator[bool]:
    """True inside the block for one process of this `PREFECT_HOME` at a time."""
    path = PREFECT_HOME.value() / "ahvault-leases.lock"
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
