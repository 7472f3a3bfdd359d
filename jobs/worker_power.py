"""The power of workers: on when first needed, off when the last user left, also after a crash (W9, W16).

A worker that was off is ours to power off again; one that somebody else had powered on stays on.
"Ours" is a journal entry of kind `worker-power`, written before the power-on, one per session and
worker, so that several sessions share a worker and the last one that leaves turns it off.

Sessions of another repository are not in this journal. They are seen by the volume groups that they
have attached: the power goes off only if none is attached at that very moment, which the cluster
itself checks (the call is conditional on the state that was looked at, and attaching changes it). A
session between two VMs has none attached; it finds its worker off and powers it on again
(`WorkerPool.wake`). So no transfer is ever cut off, at the price of a boot now and then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from jobs.journal import Entry, Journal, all_entries, forget_entry, read_journal
from jobs.marks import PREFIX
from nutanix import (
    AhvClient,
    NotFound,
    OperationFailed,
    OperationTimedOut,
    PermissionDenied,
    Vm,
)
from nutanix import Clock as SleepingClock
from repository import Clock, LiveRecords

log = logging.getLogger(__name__)

SHUTDOWN_TIMEOUT_S = 120.0
"""How long a guest may take to shut down before its power is cut. It holds no data of its own."""
HURRIED_SHUTDOWN_TIMEOUT_S = 5.0
"""The same where the run was interrupted: a service manager's patience is limited."""
POLL_S = 1.0


def power_on(
    client: AhvClient, journal: Journal, records: LiveRecords, vm: Vm, *, timeout_s: float
) -> tuple[Vm, Entry | None]:
    """The worker, running, and our use of it, recorded first so that nobody powers it off meanwhile.

    No entry where it runs by somebody else's doing: theirs to end. Raises `NutanixError`.
    """
    if vm.is_on and not _is_on_for_us(client, records, vm):
        return vm, None
    entry = journal.intend("worker-power", vm.name, vm.id)
    entry = journal.created(entry, vm.id)
    log.info("Powering on worker %s", vm.name)
    try:
        client.power_on(vm.id, request_id=entry.request_id, timeout_s=timeout_s)
    except OperationTimedOut as error:
        # It may yet come on; the entry stays, so that somebody turns it off again.
        log.warning("Worker %s was not powered on in time: %s", vm.name, error)
    return client.vm(vm.id), entry


def _is_on_for_us(client: AhvClient, records: LiveRecords, vm: Vm) -> bool:
    """Whether a session of ours powered it on: one of this journal, or of another repository."""
    if any(each.kind == "worker-power" and each.vm_id == vm.id for each in all_entries(records)):
        return True
    return any(
        client.volume_group(group_id).name.startswith(PREFIX) for group_id in vm.volume_group_ids
    )


def release_worker(
    client: AhvClient,
    records: LiveRecords,
    clock: Clock,
    entry: Entry,
    *,
    shutdown_timeout_s: float = SHUTDOWN_TIMEOUT_S,
) -> bool:
    """Give up one session's use of a worker; power it off when that was the last. True when it was.

    The guest is asked to shut down; its power is cut when it does not within `shutdown_timeout_s`,
    and at once where it cannot be asked. It is never suspended (W9). The entry is removed only
    after the power-off, so that a crash in between repeats the work instead of leaving a worker
    running. A worker that still has volume groups attached serves somebody whose journal is not
    ours: it stays on, and so does the entry, for the next look.
    """
    state = read_journal(records, clock)
    if state.of_others("worker-power", entry.vm_id, but=entry.session_id):
        forget_entry(records, entry)
        return False
    try:
        was_last = _turn_off(client, entry, shutdown_timeout_s)
    except NotFound:
        forget_entry(records, entry)
        return False
    if was_last:
        forget_entry(records, entry)
    else:
        log.warning("Worker %s stays on: volume groups are attached to it", entry.name)
    return was_last


def _turn_off(client: AhvClient, entry: Entry, shutdown_timeout_s: float) -> bool:
    log.info("Powering off worker %s", entry.name)
    try:
        if not client.shutdown(entry.vm_id, only_if=_serves_nobody):
            return False
    except (PermissionDenied, OperationFailed, OperationTimedOut) as error:
        log.info("Worker %s cannot be asked to shut down: %s", entry.name, error)
    else:
        if wait_until(
            lambda: not client.vm(entry.vm_id).is_on,
            clock=client.clock,
            timeout_s=shutdown_timeout_s,
        ):
            return True
        log.warning("Worker %s did not shut down in time; its power is cut", entry.name)
    return client.power_off(entry.vm_id, only_if=_serves_nobody)


def _serves_nobody(vm: Vm) -> bool:
    return not vm.volume_group_ids


def wait_until(is_so: Callable[[], bool], *, clock: SleepingClock, timeout_s: float) -> bool:
    """Ask again and again until it is so, or until the time is up: then False."""
    deadline_s = clock.monotonic_s() + timeout_s
    while not is_so():
        if clock.monotonic_s() >= deadline_s:
            return False
        clock.sleep(min(POLL_S, timeout_s / 4 + 0.01))
    return True
