"""What is known of each configured worker now, for people (W10, W14). Looks only; powers nothing on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from jobs.drains import read_drains
from jobs.journal import JournalState, read_journal
from jobs.leases import lease_jobs
from jobs.marks import PREFIX
from jobs.model import WorkerSpec
from jobs.worker_checks import find_worker_vm, self_test
from jobs.worker_trial import TRIAL_JOB
from nutanix import AhvClient, NutanixError, Vm
from repository import Clock, LiveRecords

WorkerStatus = Literal["configured", "testing", "working", "ready", "shut down", "outside"]
"""W10. `configured`: no such VM (yet); `ready`: on, and used by nobody; `outside`: no VM of the
cluster. There is no `updating`: a worker is replaced, not updated (W12)."""


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """One worker, as it is now."""

    worker: str
    vm_id: str | None
    status: WorkerStatus
    host: str | None
    """Name of the host that it runs on; `None` while it runs on none."""
    slots: int
    slots_used: int
    """VMs that it moves now: volume groups of any ahvault that are attached to it."""
    sessions: int
    """Sessions of this repository that use it now."""
    drained: str | None
    unusable: str | None
    """Why a session would not use it: missing, disabled, drained, out of reach. `None` when it would."""

    @property
    def is_busy(self) -> bool:
        """Whether somebody uses it: then it cannot be removed (W14)."""
        return self.slots_used > 0 or self.sessions > 0


def report_workers(
    client: AhvClient, records: LiveRecords, specs: Sequence[WorkerSpec], clock: Clock
) -> list[WorkerReport]:
    """Every configured worker, in the order of the settings. Raises `NutanixError`, `RepositoryError`."""
    look = _Look(client, records, clock)
    return [look.report(spec) for spec in specs]


class _Look:
    """What all reports of one moment share."""

    def __init__(self, client: AhvClient, records: LiveRecords, clock: Clock) -> None:
        self._client = client
        self._vms = client.vms()
        self._hosts = {host.id: host.name for host in client.hosts()}
        self._ours = {group.id for group in client.volume_groups(name_prefix=PREFIX)}
        self._state: JournalState = read_journal(records, clock)
        self._jobs: Mapping[str, str] = lease_jobs(records)
        self._drains = read_drains(records)

    def report(self, spec: WorkerSpec) -> WorkerReport:
        try:
            vm = find_worker_vm(self._vms, spec)
            why = None if spec.enabled else "disabled"
            why = why or self_test(self._client, spec, vm)
        except NutanixError as error:
            return self._of(spec, None, "configured", str(error))
        return self._of(spec, vm, "outside" if vm is None else self._status(vm), why)

    def _of(
        self, spec: WorkerSpec, vm: Vm | None, status: WorkerStatus, why: str | None
    ) -> WorkerReport:
        drained = self._drains.get(vm.id if vm else spec.vm)
        host_id = vm.host_id if vm else None
        return WorkerReport(
            worker=spec.vm,
            vm_id=vm.id if vm else None,
            status=status,
            host=self._hosts.get(host_id or "", host_id),
            slots=spec.slots,
            slots_used=len(self._attached(vm)) if vm else 0,
            sessions=len(self._users(vm)) if vm else 0,
            drained=str(drained) if drained else None,
            unusable=why or (str(drained) if drained else None),
        )

    def _status(self, vm: Vm) -> WorkerStatus:
        users = self._users(vm)
        if any(self._jobs.get(session) == TRIAL_JOB for session in users):
            return "testing"
        if users or self._attached(vm):
            return "working"
        return "ready" if vm.is_on else "shut down"

    def _users(self, vm: Vm) -> set[str]:
        entries = self._state.of_others("worker-power", vm.id, but="")
        return {entry.session_id for entry in entries}

    def _attached(self, vm: Vm) -> set[str]:
        return self._ours & set(vm.volume_group_ids)
