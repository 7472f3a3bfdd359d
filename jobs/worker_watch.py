"""Watching the workers that move data: one that is powered off or gone ends its transfers at once.

A read from a lost worker may hang instead of failing, and a transfer that runs elsewhere may never
say that it ended. So one thread per run asks the cluster, in one call for all workers in use.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from jobs.stops import TransferStop
from nutanix import AhvClient, NutanixError, Vm

log = logging.getLogger(__name__)

PERIOD_S = 10.0

_LOST_STATES = {"OFF": "it is powered off", "PAUSED": "it is paused"}
"""`UNDETERMINED` is no proof: a cluster says so while it fails over, and the guest may go on."""


class WorkerWatch:
    """Watches the workers of one run while they have transfers. Thread-safe."""

    def __init__(self, client: AhvClient) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._guarded: dict[TransferStop, str] = {}
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def guard(self, vm_id: str, stop: TransferStop) -> None:
        """From now on the loss of this worker sets `stop`, with the reason."""
        with self._lock:
            self._guarded[stop] = vm_id
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._watch, name="worker-watch", daemon=True
                )
                self._thread.start()

    def drop(self, stop: TransferStop) -> None:
        """The transfers are over."""
        with self._lock:
            self._guarded.pop(stop, None)

    def close(self) -> None:
        """Watch no more."""
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(PERIOD_S):
            with self._lock:
                guarded = dict(self._guarded)
            if guarded:
                self._look(guarded)

    def _look(self, guarded: Mapping[TransferStop, str]) -> None:
        try:
            vms = self._client.vms_by_id(sorted(set(guarded.values())))
        except NutanixError as error:
            log.debug("The workers could not be looked at: %s", error)
            return
        for stop, vm_id in guarded.items():
            reason = why_lost(vms.get(vm_id))
            if reason is not None:
                stop.lose(reason)


def why_lost(vm: Vm | None) -> str | None:
    """Why a worker cannot be moving data any more, or `None` while it may be."""
    return "it is gone from the cluster" if vm is None else _LOST_STATES.get(vm.power_state)
