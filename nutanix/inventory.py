"""Verbs that look: VMs, clusters, hosts, containers, subnets, categories (`nutanix-v4 §12`, `§19`)."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from nutanix.answers import Subject
from nutanix.api import Api, quoted
from nutanix.errors import AnswerUnusable, DataServicesMissing, VmAmbiguous, VmNotFound
from nutanix.models.inventory import (
    Category,
    Cluster,
    ContainerSpace,
    Host,
    StorageContainer,
    Subnet,
)
from nutanix.models.vms import Vm

VMS = "ahv/config/vms"
SAMPLES_OF = timedelta(minutes=15)
"""Long enough that a sample lies in it, whatever the sampling interval of the release is."""


class InventoryVerbs(Api):
    """What is on the cluster. All calls are safe to repeat."""

    def vms(self) -> list[Vm]:
        """Every VM that the account may see."""
        return self._list(Vm, "vmm", VMS, purpose="list VMs")

    def vm(self, vm_id: str) -> Vm:
        """One VM by id; `NotFound` when there is none."""
        return self._get_model(Vm, "vmm", VMS, vm_id, "VM")

    def find_vm(self, name_or_id: str) -> Vm:
        """The VM of this name, or else of this id.

        Raises `VmNotFound` with similar names, `VmAmbiguous` when several VMs share the name.
        """
        return pick_vm(self.vms(), name_or_id)

    def vms_by_id(self, vm_ids: Sequence[str]) -> dict[str, Vm]:
        """These VMs as they are now, in one call; one that is gone is missing from the answer."""
        if not vm_ids:
            return {}
        filter_ = " or ".join(f"extId eq {quoted(vm_id)}" for vm_id in sorted(vm_ids))
        found = self._list(Vm, "vmm", VMS, purpose="look at some VMs", filter_=filter_)
        return {vm.id: vm for vm in found if vm.id in vm_ids}

    def clusters(self) -> list[Cluster]:
        """The clusters that hold VMs; Prism Central's entry for itself is left out."""
        listed = self._list(Cluster, "clustermgmt", "config/clusters", purpose="list clusters")
        return [cluster for cluster in listed if not cluster.is_prism_central]

    def data_services_address(self, cluster_id: str) -> str:
        """Where a cluster serves volume groups over iSCSI; raises `DataServicesMissing`."""
        found = next((each for each in self.clusters() if each.id == cluster_id), None)
        if found is None or found.data_services_address is None:
            raise DataServicesMissing(found.name if found else cluster_id)
        return found.data_services_address

    def hosts(self) -> list[Host]:
        """Every host of every cluster."""
        return self._list(Host, "clustermgmt", "config/hosts", purpose="list hosts")

    def storage_containers(self) -> list[StorageContainer]:
        """Every storage container."""
        path = "config/storage-containers"
        return self._list(StorageContainer, "clustermgmt", path, purpose="list storage containers")

    def container_space(self, container_id: str) -> ContainerSpace:
        """How much room a storage container has, by its newest sample of the last minutes.

        `AnswerUnusable` when there is no sample; `NotFound` when there is no such container.
        """
        purpose = f"read the free space of storage container {container_id}"
        now = self._clock.now()
        answer = self._call(
            "GET",
            "clustermgmt",
            f"stats/storage-containers/{quote(container_id, safe='')}",
            purpose=purpose,
            subject=Subject("storage container", container_id),
            query={
                "$startTime": (now - SAMPLES_OF).isoformat(),
                "$endTime": now.isoformat(),
            },
        )
        container = self._get_model(
            StorageContainer,
            "clustermgmt",
            "config/storage-containers",
            container_id,
            "storage container",
        )
        return newest_space(answer.data, container, purpose)

    def subnets(self) -> list[Subnet]:
        """Every subnet."""
        return self._list(Subnet, "networking", "config/subnets", purpose="list subnets")

    def categories(self) -> list[Category]:
        """Every category."""
        return self._list(Category, "prism", "config/categories", purpose="list categories")


def newest_space(data: Any, container: StorageContainer, purpose: str) -> ContainerSpace:
    """Capacity and free bytes out of series of samples, whose order is not promised."""
    newest: dict[str, int] = {}
    for name in ("storageCapacityBytes", "storageFreeBytes"):
        series = data.get(name) if isinstance(data, dict) else None
        samples = [each for each in series or () if isinstance(each.get("value"), int)]
        if not samples:
            raise AnswerUnusable(purpose, f"it has no sample of {name}")
        newest[name] = max(samples, key=lambda each: str(each.get("timestamp")))["value"]
    capacity, free = newest["storageCapacityBytes"], newest["storageFreeBytes"]
    if capacity <= 0:
        raise AnswerUnusable(purpose, "its capacity is not positive")
    return ContainerSpace(container.id, container.name, capacity, free)


def pick_vm(vms: list[Vm], name_or_id: str) -> Vm:
    """As `find_vm`, among VMs that were listed already."""
    named = [vm for vm in vms if vm.name == name_or_id]
    if len(named) > 1:
        raise VmAmbiguous(name_or_id, sorted(vm.id for vm in named))
    found = named or [vm for vm in vms if vm.id == name_or_id]
    if not found:
        raise VmNotFound(name_or_id, _close_names(name_or_id, vms))
    return found[0]


def _close_names(wanted: str, vms: list[Vm]) -> list[str]:
    by_folded = {vm.name.casefold(): vm.name for vm in vms}
    close = difflib.get_close_matches(wanted.casefold(), by_folded, n=3, cutoff=0.6)
    return [by_folded[name] for name in close]
