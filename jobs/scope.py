"""Which VMs a session takes, and in which order (E1-E5)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from jobs.errors import NothingToBackUp
from jobs.selection import Scope
from nutanix import AhvClient


@dataclass(frozen=True, slots=True)
class VmTarget:
    """A VM that a session takes."""

    vm_id: str
    vm_name: str


def resolve_scope(client: AhvClient, scope: Scope, *, never: Iterable[str]) -> list[VmTarget]:
    """The VMs of a scope, each once (S11).

    Named VMs keep the order of the list; without names all VMs come, by name. Exclusion beats
    inclusion (E2). Ids in `never` (the workers, E4) are left out, with or without being named.
    Raises `NothingToBackUp`; an unknown or ambiguous name raises the client's own error.
    """
    skipped = {client.find_vm(name).id for name in scope.exclude.vms} | set(never)
    if scope.vms:
        found = [client.find_vm(name) for name in scope.vms]
    else:
        found = sorted(client.vms(), key=lambda vm: (vm.name, vm.id))
    chosen = {vm.id: VmTarget(vm.id, vm.name) for vm in found if vm.id not in skipped}
    if not chosen:
        raise NothingToBackUp(scope.describe())
    return list(chosen.values())
