"""The workers as a preview sees them: looked at, and left as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jobs.drains import read_drains
from jobs.model import WorkerSpec
from jobs.worker_checks import find_worker_vm, self_test
from jobs.workers import WorkerState
from nutanix import AhvClient, NutanixError, Vm
from repository import LiveRecords


def planned_workers(
    client: AhvClient, records: LiveRecords, specs: Sequence[WorkerSpec]
) -> list[WorkerState]:
    """The state of every configured worker, with why it could not be used; powers nothing on."""
    vms = client.vms()
    drained = {key: str(each) for key, each in read_drains(records).items()}
    return [_state(client, vms, spec, drained) for spec in specs]


def _state(
    client: AhvClient, vms: list[Vm], spec: WorkerSpec, drained: Mapping[str, str]
) -> WorkerState:
    vm: Vm | None = None
    try:
        vm = find_worker_vm(vms, spec)
        unusable = self_test(client, spec, vm)
    except NutanixError as error:
        unusable = str(error)
    unusable = unusable or drained.get(vm.id if vm else spec.vm)
    return WorkerState(
        name=spec.vm,
        vm_id=vm.id if vm else "",
        cluster_id=(vm.cluster_id or "") if vm else "",
        host_id=vm.host_id if vm else None,
        is_on=vm is None or vm.is_on,
        slots_free=spec.slots,
        device_root=spec.device_root,
        access=spec.access,
        queue=spec.queue,
        unusable=unusable if spec.enabled else "disabled",
    )
