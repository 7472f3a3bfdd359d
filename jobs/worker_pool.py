"""The session's workers: chosen per VM, powered on when first needed, powered off when nobody uses them.

A worker that was off is ours to power off again; one that somebody else had powered on stays on.
"Ours" is a journal entry of kind `worker-power`, written before the power-on, one per session and
worker, so that several sessions share a worker and the last one that leaves turns it off (W9, W16).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from jobs.disk_access import why_no_access
from jobs.errors import NoWorker, SessionStopped
from jobs.journal import Entry, Journal, all_entries, forget_entry, read_journal
from jobs.model import WorkerSpec
from jobs.workers import WorkerChoice, WorkerState, rank_workers
from nutanix import AhvClient, NotFound, NutanixError, Vm, VmNotFound
from repository import Clock, LiveRecords, RepositoryError

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Member:
    spec: WorkerSpec
    vm: Vm | None = None
    in_use: int = 0
    unusable: str | None = None
    entry: Entry | None = None


class WorkerPool:
    """The configured workers of one session. Thread-safe."""

    def __init__(
        self,
        client: AhvClient,
        specs: Sequence[WorkerSpec],
        *,
        journal: Journal,
        records: LiveRecords,
        clock: Clock,
    ) -> None:
        self._client, self._journal, self._records, self._clock = client, journal, records, clock
        self._members = {spec.vm: _Member(spec) for spec in specs}
        self._changed = threading.Condition()
        self._taken: list[WorkerChoice] = []

    def prepare(self) -> list[str]:
        """Find, power on and test every enabled worker (W9); returns the ids of all worker VMs.

        Powering on first and choosing after is what makes the same-host rule decidable: a stopped
        VM has no host (`nutanix-v4 §13`). A worker that fails is told in the log and not used.
        Raises `NoWorker` when none is left, before anything was asked of the protected VMs.
        """
        members = list(self._members.values())
        with ThreadPoolExecutor(max_workers=max(1, len(members))) as threads:
            list(threads.map(self._prepare_one, members))
        if all(member.unusable for member in members):
            reasons = {each.spec.vm: each.unusable or "" for each in members}
            raise NoWorker("move data", reasons)
        return [member.vm.id for member in members if member.vm is not None]

    def take(
        self,
        *,
        purpose: str,
        cluster_id: str,
        host_id: str | None,
        failed: Mapping[str, str],
        stop: threading.Event,
    ) -> WorkerChoice:
        """Take a slot of the best usable worker (W1-W7); the caller gives it back.

        A worker at its limit is passed by; when all are, this waits for a slot (W3) and ends early
        with `SessionStopped` once `stop` is set. Workers in `failed` are out, with the reason given.
        `NoWorker` when none is usable at all.
        """
        with self._changed:
            while not stop.is_set():
                ranked = rank_workers(
                    [self._state(member, failed) for member in self._members.values()],
                    purpose=purpose,
                    host_id=host_id,
                    cluster_id=cluster_id,
                )
                for choice in ranked:
                    if choice.worker.slots_free > 0:
                        self._members[choice.worker.name].in_use += 1
                        self._taken.append(choice)
                        return choice
                self._changed.wait(timeout=1.0)
        raise SessionStopped(f"it was interrupted while waiting for a worker to {purpose}")

    def give_back(self, choice: WorkerChoice) -> None:
        """Free the slot of a choice; a second call for the same choice does nothing."""
        with self._changed:
            if any(taken is choice for taken in self._taken):
                self._taken = [taken for taken in self._taken if taken is not choice]
                self._members[choice.worker.name].in_use -= 1
                self._changed.notify_all()

    def release_all(self) -> None:
        """Power off the workers that are ours and that nobody else uses.

        Raises neither `NutanixError` nor `RepositoryError`: what cannot be released now stays in the
        journal for the next session.
        """
        for member in self._members.values():
            if member.entry is None:
                continue
            try:
                release_worker(self._client, self._records, self._clock, member.entry)
            except (NutanixError, RepositoryError) as error:
                log.warning("Worker %s was not powered off: %s", member.spec.vm, error)
            else:
                member.entry = None

    def _prepare_one(self, member: _Member) -> None:
        try:
            member.vm = find_worker_vm(self._client, member.spec)
            if not member.spec.enabled:
                member.unusable = "disabled"
                return
            cluster_id = member.vm.cluster_id if member.vm else None
            member.unusable = why_no_access(self._client, member.spec, cluster_id)
            if member.unusable is None and member.vm is not None:
                member.vm = self._power_on(member, member.vm)
        except NutanixError as error:
            if error.is_transient:
                raise  # The step is tried again; a worker that was not found could be backed up.
            member.unusable = str(error)
        if member.unusable:
            log.warning("Worker %s cannot be used: %s", member.spec.vm, member.unusable)

    def _state(self, member: _Member, failed: Mapping[str, str]) -> WorkerState:
        vm = member.vm
        return WorkerState(
            name=member.spec.vm,
            vm_id=vm.id if vm else "",
            cluster_id=(vm.cluster_id or "") if vm else "",
            host_id=vm.host_id if vm else None,
            is_on=vm is None or vm.is_on,
            slots_free=member.spec.slots - member.in_use,
            device_root=member.spec.device_root,
            access=member.spec.access,
            initiator=member.spec.initiator,
            disk_timeout_s=member.spec.disk_timeout_s,
            unusable=member.unusable or failed.get(member.spec.vm),
        )

    def _power_on(self, member: _Member, vm: Vm) -> Vm:
        """The worker, running. Use is recorded first, so that nobody powers it off meanwhile."""
        used = any(
            entry.kind == "worker-power" and entry.vm_id == vm.id
            for entry in all_entries(self._records)
        )
        if vm.is_on and not used:
            return vm  # Somebody else's doing, and theirs to end.
        entry = self._journal.intend("worker-power", vm.name, vm.id)
        member.entry = self._journal.created(entry, vm.id)
        log.info("Powering on worker %s", vm.name)
        self._client.power_on(vm.id, request_id=entry.request_id)
        vm = self._client.vm(vm.id)
        if not vm.is_on:
            member.unusable = "it does not stay powered on"
        return vm


def release_worker(client: AhvClient, records: LiveRecords, clock: Clock, entry: Entry) -> bool:
    """Give up one session's use of a worker; power it off when that was the last. True when it was.

    The entry is removed only after the power-off, so that a crash in between repeats the work
    instead of leaving a worker running. A worker that still has volume groups attached serves
    somebody whose journal is not ours: it stays on, and so does the entry, for the next look.
    """
    state = read_journal(records, clock)
    if state.of_others("worker-power", entry.vm_id, but=entry.session_id):
        forget_entry(records, entry)
        return False
    try:
        attached = client.vm(entry.vm_id).volume_group_ids
    except NotFound:
        forget_entry(records, entry)
        return False
    if attached:
        log.warning("Worker %s stays on: %d volume groups are attached", entry.name, len(attached))
        return False
    log.info("Powering off worker %s", entry.name)
    client.power_off(entry.vm_id)
    forget_entry(records, entry)
    return True


def find_worker_vm(client: AhvClient, spec: WorkerSpec) -> Vm | None:
    """The worker's VM; `None` for a machine outside, which only iSCSI can serve.

    Raises `VmNotFound` where a VM is needed, `VmAmbiguous` when several have the name.
    """
    try:
        return client.find_vm(spec.vm)
    except VmNotFound:
        if spec.access == "direct":
            raise
        return None
