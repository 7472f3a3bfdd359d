"""Volume groups: their disks, and to whom they are attached (nutanix-v4 §16)."""

from __future__ import annotations

import re

from simulator.attachments import attach_group, detach_group, put_attachments
from simulator.cluster import Cluster, operation, refuse
from simulator.documents import Document, Record
from simulator.hardware import free_index
from simulator.places import place_of_disk_point, place_of_group, require_place
from simulator.tasks import RunningTask

GROUP_REL = "volumes:config:volume-group"
DISK_REL = "volumes:config:volume-group:disk"
_DISK_BYTES_MIN, _DISK_BYTES_MAX = 524_288, 219_902_325_555_200


def require_group(cluster: Cluster, ext_id: str) -> Record:
    """The volume group, or NotFoundError as volumes says it."""
    return cluster.require("volume_group", ext_id, "volumes")


def require_disk(group: Record, ext_id: str, cluster: Cluster) -> Document:
    """One disk of a group."""
    for disk in group.private["disks"]:
        if disk["extId"] == ext_id:
            return dict(disk)
    return cluster.require("volume_disk", ext_id, "volumes").document


def make_disk(
    cluster: Cluster, task: RunningTask, spec: Document, taken: list[int], place: str
) -> Document:
    """Make one disk of a group of cluster `place` from its description: blank, or a clone."""
    source = spec.get("diskDataSourceReference") or {}
    kind, source_id = source.get("entityType"), str(source.get("extId", ""))
    size = int(spec.get("diskSizeBytes") or 0)
    containers = cluster.documents.all("storage_container")
    container = next(c.ext_id for c in containers if c.document["clusterExtId"] == place)
    if kind == "DISK_RECOVERY_POINT":
        record = cluster.require("disk_recovery_point", source_id, "volumes")
        home = place_of_disk_point(cluster, record)
        require_place(home, place, f"The disk recovery point {source_id}")
        point = record.private
        vdisk = cluster.disks.clone(point["vdisk"], point["generation"], size)
    elif kind in ("VM_DISK", "VOLUME_DISK"):
        vdisk = cluster.disks.clone(_existing(cluster, kind, source_id), size_bytes=size)
    elif kind == "STORAGE_CONTAINER":
        named = cluster.require("storage_container", source_id, "volumes")
        home, container = str(named.document["clusterExtId"]), named.ext_id
        require_place(home, place, f"The storage container {container}")
        if not _DISK_BYTES_MIN <= size <= _DISK_BYTES_MAX:
            raise _invalid(f"A disk of {size} bytes is out of bounds.")
        vdisk = cluster.disks.create(size)
    else:
        raise _invalid(f"The data source {kind!r} is not supported.")
    task.owns(vdisk)
    index = spec.get("index")
    index = free_index(taken) if index is None else index
    if index in taken:
        raise _invalid(f"The disk index {index} is taken.")
    taken.append(index)
    return {
        "$objectType": "volumes.v4.config.VolumeDisk",
        "extId": vdisk,
        "index": index,
        "diskSizeBytes": cluster.disks.get(vdisk).live.size_bytes,
        "storageContainerId": container,
        "description": spec.get("description") or "",
    }


def _existing(cluster: Cluster, kind: str, ext_id: str) -> str:
    owner_kind = "vm" if kind == "VM_DISK" else "volume_group"
    if not any(ext_id in r.private["vdisks"] for r in cluster.documents.all(owner_kind)):
        raise _invalid(f"There is no {kind} with the id {ext_id}.")
    return ext_id


def _invalid(message: str) -> Exception:
    return refuse(message, code="VOL-30001", group="VOLUME_INVALID_INPUT")


def put_disks(cluster: Cluster, group: Record, disks: list[Document]) -> None:
    """Record the disks of a group. Within a change."""
    private = {**group.private, "disks": disks, "vdisks": [d["extId"] for d in disks]}
    cluster.documents.put("volume_group", group.ext_id, group.document, private)


def refresh_workers(cluster: Cluster, group: Record) -> None:
    """Show the group's disks, or their absence, on every VM it is or was attached to."""
    for vm_ext_id in group.private["vm_attachments"]:
        cluster.refresh_devices(vm_ext_id)


@operation("VolumeGroupCreate")
def create_group(cluster: Cluster, task: RunningTask) -> None:
    """Make a group with all disks that the request describes inline."""
    spec, ext_id = task.arguments["spec"], task.arguments["extId"]
    taken: list[int] = []
    place = spec["clusterReference"]
    disks = [make_disk(cluster, task, d, taken, place) for d in spec.get("disks") or []]
    with task.finishing() as outcome:
        put_new_group(cluster, ext_id, spec, disks)
        for row in spec.get("attachments") or []:
            attachment = row.get("attachment") or {}
            attach_group(cluster, ext_id, attachment["extId"], attachment.get("index"))
        outcome.affects(GROUP_REL, ext_id, spec["name"])
        for disk in disks:
            outcome.affects(DISK_REL, disk["extId"])
    refresh_workers(cluster, require_group(cluster, ext_id))


def put_new_group(cluster: Cluster, ext_id: str, spec: Document, disks: list[Document]) -> Record:
    """Record a new group. Within a change."""
    hidden_fields = ("disks", "attachments", "$reserved", "$unknownFields", "iscsiFeatures")
    given = {k: v for k, v in spec.items() if v is not None and k not in hidden_fields}
    defaults = {
        "sharingStatus": "NOT_SHARED",
        "usageType": "USER",
        "isHidden": False,
        "shouldLoadBalanceVmAttachments": False,
        "protocol": "NOT_ASSIGNED",
        "enabledAuthentications": "NONE",
        "createdBy": "admin",
    }
    prefix = re.sub(r"[^0-9a-zA-Z:.-]", "-", spec.get("targetPrefix") or spec["name"])
    document = {
        "$objectType": "volumes.v4.config.VolumeGroup",
        **defaults,
        **given,
        "extId": ext_id,
        "targetName": f"{prefix}-{ext_id}",
        "attachmentType": "NONE",
        "attachments": [],
    }
    vdisks = [d["extId"] for d in disks]
    private = {
        "disks": disks,
        "vdisks": vdisks,
        "vm_attachments": {},
        "iscsi_clients": [],
        "categories": [],
    }
    return cluster.documents.put("volume_group", ext_id, document, private)


@operation("VolumeGroupUpdate")
def update_group(cluster: Cluster, task: RunningTask) -> None:
    """Replace what a client may change of a group."""
    kept = (
        "name",
        "description",
        "sharingStatus",
        "usageType",
        "isHidden",
        "targetPrefix",
        "shouldLoadBalanceVmAttachments",
        "enabledAuthentications",
        "storageFeatures",
    )
    given = {k: v for k, v in task.arguments["spec"].items() if k in kept and v is not None}
    with task.finishing() as outcome:
        group = require_group(cluster, task.arguments["extId"])
        cluster.documents.put("volume_group", group.ext_id, {**group.document, **given})
        outcome.affects(GROUP_REL, group.ext_id)


@operation("VolumeGroupDelete")
def delete_group(cluster: Cluster, task: RunningTask) -> None:
    """Delete a group and its disks; an attached one is refused (nutanix-v4 §23 rule 14)."""
    with task.finishing() as outcome:
        group = require_group(cluster, task.arguments["extId"])
        if group.private["vm_attachments"] or group.private["iscsi_clients"]:
            raise refuse(
                f"The volume group {group.ext_id} is attached; detach it first.",
                code="VOL-30011",
                group="VOLUME_GROUP_ATTACHED",
            )
        cluster.documents.delete("volume_group", group.ext_id)
        outcome.affects(GROUP_REL, group.ext_id, group.document["name"])
    for vdisk_id in group.private["vdisks"]:
        cluster.disks.drop_live(vdisk_id)


@operation("VolumeDiskCreate")
def create_disk(cluster: Cluster, task: RunningTask) -> None:
    """Add a disk to a group; a VM it is attached to sees it at once."""
    group_id = task.arguments["extId"]
    group = require_group(cluster, group_id)
    taken = [d["index"] for d in group.private["disks"]]
    disk = make_disk(cluster, task, task.arguments["spec"], taken, place_of_group(group))
    with task.finishing() as outcome:
        group = require_group(cluster, group_id)
        put_disks(cluster, group, [*group.private["disks"], disk])
        outcome.affects(GROUP_REL, group_id)
        outcome.affects(DISK_REL, disk["extId"])
    refresh_workers(cluster, require_group(cluster, group_id))


@operation("VolumeDiskUpdate")
def update_disk(cluster: Cluster, task: RunningTask) -> None:
    """Grow a disk or change its description."""
    group = require_group(cluster, task.arguments["groupExtId"])
    disk_id, spec = task.arguments["extId"], task.arguments["spec"]
    disk = require_disk(group, disk_id, cluster)
    size = int(spec.get("diskSizeBytes") or disk["diskSizeBytes"])
    if size < disk["diskSizeBytes"]:
        raise _invalid("A disk cannot shrink.")
    cluster.disks.grow(disk_id, size)
    changed = {**disk, "diskSizeBytes": size, "description": spec.get("description") or ""}
    with task.finishing() as outcome:
        group = require_group(cluster, group.ext_id)
        disks = [changed if d["extId"] == disk_id else d for d in group.private["disks"]]
        put_disks(cluster, group, disks)
        outcome.affects(DISK_REL, disk_id)


@operation("VolumeDiskDelete")
def delete_disk(cluster: Cluster, task: RunningTask) -> None:
    """Take a disk out of a group and delete it."""
    group = require_group(cluster, task.arguments["groupExtId"])
    disk_id = task.arguments["extId"]
    with task.finishing() as outcome:
        group = require_group(cluster, group.ext_id)
        require_disk(group, disk_id, cluster)
        put_disks(cluster, group, [d for d in group.private["disks"] if d["extId"] != disk_id])
        outcome.affects(GROUP_REL, group.ext_id)
        outcome.affects(DISK_REL, disk_id)
    refresh_workers(cluster, require_group(cluster, group.ext_id))
    cluster.disks.drop_live(disk_id)


@operation("VolumeGroupAttachExternal")
def attach(cluster: Cluster, task: RunningTask) -> None:
    """Attach a group to a VM or to an iSCSI client; both are named alike (nutanix-v4 §9)."""
    group_id = task.arguments["extId"]
    with task.finishing() as outcome:
        if "vmExtId" in task.arguments:
            attach_group(cluster, group_id, task.arguments["vmExtId"], task.arguments["index"])
            outcome.affects("volumes:config:vms", task.arguments["vmExtId"])
        else:
            client_id = _attach_client(cluster, group_id, task.arguments["client"])
            outcome.affects("volumes:config:iscsi-client", client_id)
        outcome.affects(GROUP_REL, group_id)
    refresh_workers(cluster, require_group(cluster, group_id))


@operation("VolumeGroupDetachExternal")
def detach(cluster: Cluster, task: RunningTask) -> None:
    """Detach a group from a VM or from an iSCSI client."""
    with task.finishing() as outcome:
        group = require_group(cluster, task.arguments["extId"])
        if "vmExtId" in task.arguments:
            detach_group(cluster, group.ext_id, task.arguments["vmExtId"])
            outcome.affects("volumes:config:vms", task.arguments["vmExtId"])
        else:
            _detach_client(cluster, group, task.arguments["clientExtId"])
            outcome.affects("volumes:config:iscsi-client", task.arguments["clientExtId"])
        outcome.affects(GROUP_REL, group.ext_id)
    refresh_workers(cluster, group)


def _attach_client(cluster: Cluster, group_id: str, spec: Document) -> str:
    """Attach an initiator, whose client object is made the first time it is seen."""
    group = require_group(cluster, group_id)
    name = spec.get("iscsiInitiatorName")
    network = spec.get("iscsiInitiatorNetworkId")
    if bool(name) == bool(network):
        raise _invalid("Give exactly one of iscsiInitiatorName and iscsiInitiatorNetworkId.")
    shown = {"iscsiInitiatorName": name} if name else {"iscsiInitiatorNetworkId": network}
    known = [
        r for r in cluster.documents.all("iscsi_client") if shown.items() <= r.document.items()
    ]
    ext_id = known[0].ext_id if known else cluster.new_id()
    if ext_id in group.private["iscsi_clients"]:
        raise _invalid("That client is attached already.")
    document = {
        "$objectType": "volumes.v4.config.IscsiClient",
        "extId": ext_id,
        **shown,
        "enabledAuthentications": spec.get("enabledAuthentications") or "NONE",
        "numVirtualTargets": spec.get("numVirtualTargets") or 32,
        "clusterReference": place_of_group(group),
    }
    secret = {"client_secret": spec["clientSecret"]} if spec.get("clientSecret") else {}
    cluster.documents.put("iscsi_client", ext_id, document, secret)
    _put_clients(cluster, group, [*group.private["iscsi_clients"], ext_id])
    return ext_id


def _detach_client(cluster: Cluster, group: Record, client_id: str) -> None:
    if client_id not in group.private["iscsi_clients"]:
        raise _invalid(f"The client {client_id} is not attached.")
    _put_clients(cluster, group, [c for c in group.private["iscsi_clients"] if c != client_id])


def _put_clients(cluster: Cluster, group: Record, clients: list[str]) -> None:
    private = {**group.private, "iscsi_clients": clients}
    record = cluster.documents.put("volume_group", group.ext_id, group.document, private)
    put_attachments(cluster, record, group.private["vm_attachments"])


@operation("VolumeGroupCategories")
def change_categories(cluster: Cluster, task: RunningTask) -> None:
    """Associate categories with a group or take them away."""
    named = [cluster.require("category", c, "volumes").ext_id for c in task.arguments["categories"]]
    with task.finishing() as outcome:
        group = require_group(cluster, task.arguments["extId"])
        kept = [c for c in group.private["categories"] if c not in named]
        categories = kept + named if task.arguments["associate"] else kept
        private = {**group.private, "categories": categories}
        cluster.documents.put("volume_group", group.ext_id, group.document, private)
        outcome.affects(GROUP_REL, group.ext_id)


@operation("VolumeGroupRevert")
def revert_group(cluster: Cluster, task: RunningTask) -> None:
    """Put the disks of a group back to a recovery point; refused while it is attached."""
    group = require_group(cluster, task.arguments["extId"])
    point = cluster.require("vg_recovery_point", task.arguments["pointExtId"], "volumes")
    if group.private["vm_attachments"]:
        raise refuse("Detach the group first.", code="VOL-30011", group="VOLUME_GROUP_ATTACHED")
    disks = clone_recovered_disks(cluster, task, point)
    old = group.private["vdisks"]
    with task.finishing() as outcome:
        put_disks(cluster, group, disks)
        outcome.affects(GROUP_REL, group.ext_id)
    for vdisk_id in old:
        cluster.disks.drop_live(vdisk_id)


def clone_recovered_disks(cluster: Cluster, task: RunningTask, point: Record) -> list[Document]:
    """Clones of the disks of a volume group recovery point, at the indexes they had."""
    captured = {d["extId"]: d for d in point.private["captured"]}
    disks = []
    for row in point.private["disks"]:
        vdisk_id = task.owns(cluster.disks.clone(row["vdisk"], row["generation"]))
        disks.append({**captured[row["vdisk"]], "extId": vdisk_id})
    return disks
