"""Volume groups on VMs: who has which group at which SCSI index. All of it within a change."""

from __future__ import annotations

from simulator.cluster import Cluster, refuse
from simulator.documents import Record
from simulator.errors import RefusedError
from simulator.hardware import address_of, free_index, put_vm, require_vm, scsi_indexes, typed
from simulator.places import place_of_group, place_of_vm, require_place


def attach_group(cluster: Cluster, group_id: str, vm_ext_id: str, index: int | None) -> int:
    """Attach a group to a VM at a SCSI index (default: the next free one). Within a change."""
    group = cluster.require("volume_group", group_id, "volumes")
    vm = require_vm(cluster, vm_ext_id)
    require_place(place_of_vm(vm), place_of_group(group), f"The VM {vm_ext_id}")
    attached = group.private["vm_attachments"]
    if attached and vm_ext_id not in attached and group.document["sharingStatus"] == "NOT_SHARED":
        raise _group_refusal(f"The volume group {group_id} is attached to another VM already.")
    if vm_ext_id in attached:
        raise _group_refusal(f"The volume group {group_id} is attached to this VM already.")
    taken = scsi_indexes(cluster, vm.document, vm_ext_id)
    chosen = free_index(taken) if index is None else index
    if chosen in taken:
        raise _group_refusal(f"The SCSI index {chosen} is taken on the VM {vm_ext_id}.")
    put_attachments(cluster, group, {**attached, vm_ext_id: chosen})
    entry = typed(
        "Disk",
        extId=cluster.new_id(),
        diskAddress=address_of("SCSI", chosen),
        backingInfo=typed("ADSFVolumeGroupReference", volumeGroupExtId=group_id),
    )
    put_vm(cluster, vm_ext_id, disks=[*vm.document.get("disks", ()), entry])
    return chosen


def detach_group(cluster: Cluster, group_id: str, vm_ext_id: str) -> None:
    """Undo `attach_group`. Within a change."""
    group = cluster.require("volume_group", group_id, "volumes")
    vm = require_vm(cluster, vm_ext_id)
    attached = dict(group.private["vm_attachments"])
    if attached.pop(vm_ext_id, None) is None:
        raise _group_refusal(f"The volume group {group_id} is not attached to the VM {vm_ext_id}.")
    put_attachments(cluster, group, attached)
    kept = [d for d in vm.document["disks"] if d["backingInfo"].get("volumeGroupExtId") != group_id]
    put_vm(cluster, vm_ext_id, disks=kept)


def put_attachments(cluster: Cluster, group: Record, attached: dict[str, int]) -> None:
    """Record to which VMs a group is attached. Within a change."""
    clients = group.private["iscsi_clients"]
    kind = "DIRECT" if attached else "EXTERNAL" if clients else "NONE"
    rows = [
        {"$objectType": "volumes.v4.config.VmAttachment", "extId": vm, "index": index}
        for vm, index in attached.items()
    ]
    rows += [
        {"$objectType": "volumes.v4.config.IscsiClientAttachment", "extId": c} for c in clients
    ]
    wrapped = [{"$objectType": "volumes.v4.config.VGAttachment", "attachment": r} for r in rows]
    document = {**group.document, "attachments": wrapped, "attachmentType": kind}
    private = {**group.private, "vm_attachments": attached}
    cluster.documents.put("volume_group", group.ext_id, document, private)


def _group_refusal(message: str) -> RefusedError:
    return refuse(message, code="VOL-30010", group="VOLUME_ATTACHMENT_ERROR")
