"""The hand that moves the simulation: what guests and administrators do while nobody's API is asked.

The same actions as Python methods on `Story` and, by name, over the admin path. Truth for tests and
demonstrations too: what files a guest has, and where the frozen bytes of a disk recovery point lie.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from simulator import guests
from simulator.cluster import OPERATIONS, Cluster
from simulator.documents import Document, Record
from simulator.errors import GuestError, NotFoundError
from simulator.faults import parse_plan
from simulator.hardware import (
    address_of,
    disk_document,
    free_index,
    own_vdisks,
    put_vm,
    scsi_indexes,
)
from simulator.relocation import relocate_vm
from simulator.sparse import Extent
from simulator.tasks import RunningTask
from simulator.vms import build_vm, put_new_vm


class Story:
    """Actions on one cluster. `vm` is a name or an id, `disk` an index in the VM's list of disks.

    For raw writes `vm` may be a volume group too; its disks count in the order of their indexes.

    Every action is finished and durable when it returns. GuestError says what a guest could not do.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    # -- guests --------------------------------------------------------------------------------

    def write_file(
        self,
        vm: str,
        path: str,
        *,
        content: bytes | None = None,
        size_bytes: int = 0,
        seed: str = "",
        disk: int = 0,
    ) -> None:
        """Write a file in a guest, from bytes or from a size and a seed."""
        data = guests.content_of(content=content, size_bytes=size_bytes, seed=seed or path)
        with self._session(vm, disk) as image:
            guests.write_file(image, path, data)

    def append_file(
        self,
        vm: str,
        path: str,
        *,
        content: bytes | None = None,
        size_bytes: int = 0,
        seed: str = "",
        disk: int = 0,
    ) -> None:
        """Append to a file in a guest without moving what it has."""
        data = guests.content_of(content=content, size_bytes=size_bytes, seed=seed or path)
        with self._session(vm, disk) as image:
            guests.append_file(image, path, data)

    def delete_file(self, vm: str, path: str, *, discard: bool = False, disk: int = 0) -> None:
        """Delete a file in a guest; with `discard` the storage gets its blocks back."""
        with self._session(vm, disk) as image:
            guests.delete_file(image, path, discard=discard)

    def _session(self, vm: str, disk: int) -> AbstractContextManager[Path]:
        vdisk = self._vdisk(vm, disk)
        if self._cluster.disks.get(vdisk).is_exposed:
            raise GuestError("That disk stands as a device under a worker; write to it there.")
        return self._cluster.disks.session(vdisk)

    def list_files(self, vm: str, *, disk: int = 0) -> dict[str, dict[str, object]]:
        """Files of a guest file system as it is now: path to `size_bytes` and `sha256`."""
        vdisk = self._vdisk(vm, disk)
        with self._cluster.disks.hold([vdisk]):
            return guests.list_files(self._cluster.disks.live_path(vdisk))

    def write_raw(self, vm: str, offset: int, content: bytes, *, disk: int = 0) -> None:
        """Write bytes at an offset of a disk, below any file system."""
        vdisk = self._vdisk(vm, disk)
        self._check_range(vdisk, offset, len(content))
        self._cluster.disks.write(vdisk, offset, content)

    def discard_raw(self, vm: str, offset: int, length: int, *, disk: int = 0) -> None:
        """Give a range of a disk back to the storage."""
        vdisk = self._vdisk(vm, disk)
        self._check_range(vdisk, offset, length)
        extents: list[Extent] = [(offset, offset + length)]
        self._cluster.disks.discard(vdisk, extents)

    def _check_range(self, vdisk: str, offset: int, length: int) -> None:
        size = self._cluster.disks.get(vdisk).live.size_bytes
        if offset < 0 or length <= 0 or offset + length > size:
            raise GuestError(f"The range {offset}+{length} is not inside the disk of {size} bytes.")

    # -- administrators ------------------------------------------------------------------------

    def power(self, vm: str, *, is_on: bool) -> None:
        """Power a VM on or off at once."""
        action = "power-on" if is_on else "power-off"
        self._do("SetVmPower", {"extId": self._vm(vm).ext_id, "action": action})

    def migrate(self, vm: str, host: str) -> None:
        """Move a VM to another host, by its name or id."""
        found = self._named("host", "hostName", host)
        self._do("MigrateVm", {"extId": self._vm(vm).ext_id, "hostExtId": found.ext_id})

    def relocate(self, vm: str, cluster: str, *, keeps_id: bool = True) -> str:
        """Move a VM to another cluster, which appears when it is first named; returns its id there."""
        return relocate_vm(self._cluster, self._vm(vm), cluster, keeps_id=keeps_id)

    def revert(self, vm: str, vm_recovery_point: str) -> None:
        """Put a VM back to one of its recovery points."""
        arguments = {"extId": self._vm(vm).ext_id, "vmRecoveryPointExtId": vm_recovery_point}
        self._do("RevertVm", arguments)

    def fill_container(self, container: str, *, free_percent: float) -> None:
        """Let a storage container, by name or id, have only so much space left."""
        found = self._named("storage_container", "name", container)
        with self._cluster.documents.change():
            private = {**found.private, "free_percent": free_percent}
            self._cluster.documents.put("storage_container", found.ext_id, found.document, private)

    def grow_disk(self, vm: str, size_bytes: int, *, disk: int = 0) -> None:
        """Make a disk larger; the guest's partition stays as it is until the guest acts."""
        vdisk = self._vdisk(vm, disk)
        if size_bytes < self._cluster.disks.get(vdisk).live.size_bytes:
            raise GuestError("A disk cannot shrink.")
        self._cluster.disks.grow(vdisk, size_bytes)
        self._show_sizes(vm)

    def _show_sizes(self, vm: str) -> None:
        with self._cluster.documents.change():
            record = self._vm(vm)
            disks = [self._sized(d, record) for d in record.document["disks"]]
            put_vm(self._cluster, record.ext_id, disks=disks)

    def _sized(self, disk: Document, vm: Record) -> Document:
        if disk["extId"] not in vm.private["vdisks"]:
            return disk
        size = self._cluster.disks.get(disk["extId"]).live.size_bytes
        return {**disk, "backingInfo": {**disk["backingInfo"], "diskSizeBytes": size}}

    def add_vm(self, name: str, disk_sizes_bytes: list[int], *, can_quiesce: bool = False) -> str:
        """Make a running VM with blank disks; returns its id."""
        cluster = self._cluster
        tools = {"$objectType": "vmm.v4.ahv.config.GuestTools", "isVssSnapshotCapable": can_quiesce}
        task = RunningTask("", "", {}, cluster.documents)
        document, _groups = build_vm(
            cluster, task, cluster.new_id(), {"name": name, "guestTools": tools}
        )
        container = cluster.documents.all("storage_container")[0].ext_id
        document["disks"] = [
            disk_document(cluster, cluster.disks.create(size), address_of("SCSI", n), container)
            for n, size in enumerate(disk_sizes_bytes)
        ]
        with cluster.documents.change():
            put_new_vm(cluster, document)
        self.power(document["extId"], is_on=True)
        return str(document["extId"])

    def remove_vm(self, vm: str) -> None:
        """Delete a VM with its disks; volume groups stay."""
        self._do("DeleteVm", {"extId": self._vm(vm).ext_id})

    def add_disk(self, vm: str, size_bytes: int) -> str:
        """Add a blank disk to a VM; returns its id."""
        vdisk = self._cluster.disks.create(size_bytes)
        container = self._cluster.documents.all("storage_container")[0].ext_id
        with self._cluster.documents.change():
            record = self._vm(vm)
            index = free_index(scsi_indexes(self._cluster, record.document, record.ext_id))
            added = disk_document(self._cluster, vdisk, address_of("SCSI", index), container)
            put_vm(self._cluster, record.ext_id, disks=[*record.document["disks"], added])
        self._cluster.refresh_devices(record.ext_id)
        return vdisk

    def remove_disk(self, vm: str, *, disk: int) -> None:
        """Remove a disk from a VM and delete it."""
        vdisk = self._vdisk(vm, disk)
        with self._cluster.documents.change():
            record = self._vm(vm)
            put_vm(
                self._cluster,
                record.ext_id,
                disks=[d for d in record.document["disks"] if d["extId"] != vdisk],
            )
        self._cluster.disks.drop_live(vdisk)
        self._cluster.refresh_devices(record.ext_id)

    def replace_disk(self, vm: str, size_bytes: int, *, disk: int) -> str:
        """Put a blank disk with a new id in the place of another; returns its id."""
        old = self._vdisk(vm, disk)
        new = self._cluster.disks.create(size_bytes)
        with self._cluster.documents.change():
            record = self._vm(vm)
            disks = [self._replaced(d, old, new) for d in record.document["disks"]]
            put_vm(self._cluster, record.ext_id, disks=disks)
        self._cluster.disks.drop_live(old)
        self._cluster.refresh_devices(record.ext_id)
        return new

    def _replaced(self, disk: Document, old: str, new: str) -> Document:
        if disk["extId"] != old:
            return disk
        container = disk["backingInfo"]["storageContainer"]["extId"]
        return disk_document(self._cluster, new, disk["diskAddress"], container)

    def add_volume_group(self, name: str, sizes_bytes: list[int], *, vm: str | None = None) -> str:
        """Add a volume group of blank disks, attached to a guest where one is named; returns its id."""
        ext_id = self._cluster.new_id()
        container = self._cluster.documents.all("storage_container")[0].ext_id
        source = {"entityType": "STORAGE_CONTAINER", "extId": container}
        disks = [{"diskSizeBytes": size, "diskDataSourceReference": source} for size in sizes_bytes]
        guest = [{"attachment": {"extId": self._vm(vm).ext_id}}] if vm is not None else []
        spec = {"name": name, "clusterReference": self._cluster.aos.ext_id}
        self._do(
            "VolumeGroupCreate",
            {"extId": ext_id, "spec": {**spec, "disks": disks, "attachments": guest}},
        )
        return ext_id

    def delete_recovery_point(self, recovery_point: str) -> None:
        """Delete a recovery point behind everybody's back."""
        self._do("DeleteRecoveryPoint", {"extId": recovery_point})

    def advance_clock(self, seconds: float) -> str:
        """Let time pass at once, for good; what expires, expires. Returns the new time."""
        self._cluster.advance_clock(seconds)
        self._cluster.expire_recovery_points()
        return self._cluster.clock.now().isoformat()

    def set_host_state(self, host: str, *, is_up: bool) -> None:
        """Take a host down or bring it back; what ran on it restarts on another that is up."""
        found = self._named("host", "hostName", host)
        with self._cluster.documents.change():
            state = "ACROPOLIS_NORMAL" if is_up else "DISCONNECTED"
            node = "NORMAL" if is_up else "UNREACHABLE"
            hypervisor = {**found.document["hypervisor"], "state": state}
            shown = {**found.document, "hypervisor": hypervisor, "nodeStatus": node}
            self._cluster.documents.put("host", found.ext_id, shown)
        for vm in self._cluster.documents.all("vm") if not is_up else ():
            if (vm.document.get("host") or {}).get("extId") == found.ext_id:
                self._do("SetVmPower", {"extId": vm.ext_id, "action": "power-on"})

    def set_faults(self, plan: dict[str, Any]) -> None:
        """Begin a plan of faults; an empty one ends all trouble."""
        self._cluster.faults.change(parse_plan(plan))

    def struck_faults(self) -> list[int]:
        """How often each fault of the current plan has struck."""
        return self._cluster.faults.struck()

    # -- truth ---------------------------------------------------------------------------------

    def frozen(self, disk_recovery_point: str) -> dict[str, Any]:
        """Where on this machine the frozen bytes of a disk recovery point lie: `path`, `size_bytes`."""
        point = self._cluster.require("disk_recovery_point", disk_recovery_point).private
        disk = self._cluster.disks.get(point["vdisk"])
        path = self._cluster.disks.frozen_path(point["vdisk"], point["generation"])
        size = disk.generation(point["generation"]).size_bytes
        return {"path": str(path), "size_bytes": size, "disk": point["vdisk"]}

    def user_data(self, vm: str) -> str | None:
        """The cloud-init document that a VM was created with, as its config drive would hold it."""
        text = self._vm(vm).private.get("user_data")
        return None if text is None else str(text)

    def describe(self) -> dict[str, Any]:
        """VMs, recovery points and volume groups with their ids, for a person or a test to look at."""
        documents = self._cluster.documents
        return {
            "vms": [
                {
                    "name": r.document["name"],
                    "ext_id": r.ext_id,
                    "power_state": r.document["powerState"],
                    "disks": [d["extId"] for d in r.document["disks"]],
                }
                for r in documents.all("vm")
            ],
            "recovery_points": {
                r.ext_id: r.document["name"] for r in documents.all("recovery_point")
            },
            "volume_groups": {r.ext_id: r.document["name"] for r in documents.all("volume_group")},
        }

    # -- finding -------------------------------------------------------------------------------

    def _do(self, name: str, arguments: Document) -> None:
        task = RunningTask("", name, arguments, self._cluster.documents)
        OPERATIONS[name](self._cluster, task)

    def _named(self, kind: str, field: str, wanted: str) -> Record:
        for record in self._cluster.documents.all(kind):
            if wanted in (record.ext_id, record.document[field]):
                return record
        raise NotFoundError(kind, wanted)

    def _vm(self, vm: str) -> Record:
        return self._named("vm", "name", vm)

    def _vdisk(self, vm: str, disk: int) -> str:
        for group in self._cluster.documents.all("volume_group"):
            if vm in (group.ext_id, group.document["name"]):
                return str(sorted(group.private["disks"], key=_index)[disk]["extId"])
        record = self._vm(vm)
        own = [
            d["extId"]
            for d in record.document["disks"]
            if d["extId"] in own_vdisks(record.document)
        ]
        if not 0 <= disk < len(own):
            raise GuestError(f"The VM {record.document['name']} has no disk {disk}.")
        return str(own[disk])


def _index(disk: Document) -> int:
    return int(disk["index"])
