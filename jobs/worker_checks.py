"""What is looked at before a worker takes its first VM (W11, W16)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from jobs.disk_access import why_no_access
from jobs.journal import forget_entry, read_journal
from jobs.model import WorkerSpec
from nutanix import AhvClient, NutanixError, Vm, VmNotFound, pick_vm
from repository import Clock, LiveRecords

log = logging.getLogger(__name__)

QueueCheck = Callable[[str], str | None]
"""Why a queue has no Prefect worker that would take its runs now, or `None` when it has one."""


def find_worker_vm(vms: list[Vm], spec: WorkerSpec) -> Vm | None:
    """The worker's VM among these; `None` for a machine outside, which only iSCSI can serve.

    Raises `VmNotFound` where a VM is needed, `VmAmbiguous` when several have the name.
    """
    try:
        return pick_vm(vms, spec.vm)
    except VmNotFound:
        if spec.access == "direct":
            raise
        return None


def self_test(client: AhvClient, spec: WorkerSpec, vm: Vm | None) -> str | None:
    """Why this machine could not reach what is attached to the worker, or `None` (W11).

    A worker with a queue reads its disks itself, so nothing of it is looked for here. Raises
    `NutanixError`.
    """
    if spec.queue is not None:
        return None
    return why_no_access(client, spec, vm.cluster_id if vm else None)


def remove_leftover_groups(
    client: AhvClient, records: LiveRecords, clock: Clock, vm: Vm
) -> str | None:
    """Detach and delete what ended sessions of ours left attached to a worker (W16).

    Ours is what our journal names under the id that is attached, of a session that is over. Returns
    why the worker must not be used, when such a group cannot be removed. Raises `RepositoryError`.
    """
    if not vm.volume_group_ids:
        return None
    state = read_journal(records, clock)
    for entry in state.entries:
        is_leftover = entry.kind == "volume-group" and entry.session_id not in state.alive
        if not is_leftover or entry.object_id not in vm.volume_group_ids:
            continue
        try:
            client.delete_volume_group(str(entry.object_id))
        except NutanixError as error:
            return f"volume group {entry.name} of an ended session is still attached: {error}"
        forget_entry(records, entry)
        log.info("Removed volume group %s from worker %s", entry.name, vm.name)
    return None
