"""Which worker moves a VM's disks, and why (W1-W7). Pure: facts in, a choice with its reason out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.errors import NoWorker
from jobs.model import Access


@dataclass(frozen=True, slots=True)
class WorkerState:
    """What is known of one worker at the moment of choosing."""

    name: str
    vm_id: str
    cluster_id: str
    host_id: str | None
    """The host it runs on; `None` while it is powered off (a stopped VM has no host)."""
    is_on: bool
    slots_free: int
    device_root: str
    access: Access = "direct"
    initiator: str | None = None
    """The iSCSI name it logs in with, where it has one of its own choice."""
    disk_timeout_s: float = 60.0
    """How long an attached disk may take to appear."""
    queue: str | None = None
    """The queue of the Prefect worker that moves its disks; `None` where the session reads them."""
    unusable: str | None = None
    """Why it cannot be used now: disabled, gone, did not boot. `None` when it can."""

    @property
    def key(self) -> str:
        """What its slots and its drain are kept under: the id of its VM, a name where it has none."""
        return self.vm_id or self.name


@dataclass(frozen=True, slots=True)
class WorkerChoice:
    """The worker chosen for one VM. `reason` is shown to the operator; `warning` when it costs speed."""

    worker: WorkerState
    reason: str
    warning: str | None = None


def rank_workers(
    workers: Sequence[WorkerState], *, purpose: str, host_id: str | None, cluster_id: str
) -> list[WorkerChoice]:
    """Every usable worker, best first: same host (W1), same cluster, elsewhere with a warning (W2).

    A cluster attaches disks to its own VMs only, so elsewhere means a worker that uses iSCSI. An
    empty `cluster_id` asks whether there is any at all. Ties go to the one with the most free slots, then the one already on, then by name (W7), so
    the same facts always give the same order. Raises `NoWorker` when none is usable (W4).
    """
    reasons = {worker.name: _why_unusable(worker, cluster_id) for worker in workers}
    usable = [worker for worker in workers if reasons[worker.name] is None]
    if not usable:
        told = {name: reason for name, reason in reasons.items() if reason is not None}
        raise NoWorker(purpose, told)
    choices = [_describe(worker, host_id=host_id, cluster_id=cluster_id) for worker in usable]
    choices.sort(key=lambda ranked: (ranked[0], _tie(ranked[1].worker)))
    return [choice for _, choice in choices]


def _why_unusable(worker: WorkerState, cluster_id: str) -> str | None:
    """Why a worker is no choice for disks of this cluster, or `None`."""
    if worker.unusable is not None:
        return worker.unusable
    if worker.access == "direct" and cluster_id not in ("", worker.cluster_id):
        return 'it is in another cluster, which only workers with access "iscsi" can reach across'
    return None


def _describe(
    worker: WorkerState, *, host_id: str | None, cluster_id: str
) -> tuple[int, WorkerChoice]:
    if not worker.vm_id:
        return 1, WorkerChoice(worker, "over iSCSI, from outside of the cluster")
    if worker.cluster_id != cluster_id:
        warning = (
            f"no worker in the VM's cluster; {worker.name} reads over the network between clusters"
        )
        return 2, WorkerChoice(worker, "another cluster", warning)
    if host_id is None:
        return 1, WorkerChoice(worker, "same cluster (the VM runs on no host now)")
    if worker.host_id == host_id:
        return 0, WorkerChoice(worker, "same host")
    return 1, WorkerChoice(worker, "same cluster (no usable worker on the VM's host)")


def _tie(worker: WorkerState) -> tuple[int, int, str]:
    return (-worker.slots_free, 0 if worker.is_on else 1, worker.name)
