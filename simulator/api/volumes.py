"""volumes: volume groups, their disks and attachments (nutanix-v4 §11, §16)."""

from __future__ import annotations

from simulator.api.routes import Answer, Call, Catalogue
from simulator.cluster import entity_tag
from simulator.documents import Document, Record
from simulator.errors import SchemaError
from simulator.hardware import require_vm
from simulator.volume_groups import DISK_REL, GROUP_REL, require_disk, require_group

catalogue = Catalogue("volumes", "volumes.v4.config")
route = catalogue.route

GROUPS = "/config/volume-groups"
GROUP = f"{GROUPS}/{{group}}"
DISKS = f"{GROUP}/disks"
_FIELDS = ("name", "extId", "clusterReference")


def _group(call: Call, *, tag_required: bool = False) -> Record:
    group = require_group(call.cluster, call.params["group"])
    if call.method != "GET":
        call.check_tag(_tag(group), is_required=tag_required)
    return group


def _tag(group: Record) -> str:
    return entity_tag(group.document, group.revision)


@route("GET", GROUPS)
def list_volume_groups(call: Call) -> Answer:
    groups = [r.document for r in call.cluster.documents.all("volume_group")]
    return call.page(groups, filters=_FIELDS, orders=_FIELDS)


@route("POST", GROUPS)
def create_volume_group(call: Call) -> Answer:
    call.need("name", "clusterReference")
    if len(call.body["name"]) > 256:
        raise SchemaError("A volume group name has at most 256 characters.", "name")
    call.cluster.require("cluster", call.body["clusterReference"], "volumes")
    ext_id = call.cluster.new_id()
    return call.task("VolumeGroupCreate", {"extId": ext_id, "spec": call.body}, (GROUP_REL, ext_id))


@route("GET", GROUP)
def get_volume_group_by_id(call: Call) -> Answer:
    group = _group(call)
    return Answer(group.document, tag=_tag(group))


@route("PUT", GROUP)
def update_volume_group_by_id(call: Call) -> Answer:
    group = _group(call, tag_required=True)
    return call.task(
        "VolumeGroupUpdate", {"extId": group.ext_id, "spec": call.body}, (GROUP_REL, group.ext_id)
    )


@route("DELETE", GROUP)
def delete_volume_group_by_id(call: Call) -> Answer:
    group = _group(call)
    return call.task("VolumeGroupDelete", {"extId": group.ext_id}, (GROUP_REL, group.ext_id))


@route("GET", DISKS)
def list_volume_disks_by_volume_group_id(call: Call) -> Answer:
    return call.page(_group(call).private["disks"])


@route("POST", DISKS)
def create_volume_disk(call: Call) -> Answer:
    group = _group(call)
    call.need("diskDataSourceReference")
    return call.task(
        "VolumeDiskCreate", {"extId": group.ext_id, "spec": call.body}, (GROUP_REL, group.ext_id)
    )


@route("GET", f"{DISKS}/{{disk}}")
def get_volume_disk_by_id(call: Call) -> Answer:
    disk = require_disk(_group(call), call.params["disk"], call.cluster)
    return Answer(disk, tag=entity_tag(disk))


@route("PUT", f"{DISKS}/{{disk}}")
def update_volume_disk_by_id(call: Call) -> Answer:
    group = require_group(call.cluster, call.params["group"])
    disk = require_disk(group, call.params["disk"], call.cluster)
    call.check_tag(entity_tag(disk))
    arguments = {"groupExtId": group.ext_id, "extId": disk["extId"], "spec": call.body}
    return call.task("VolumeDiskUpdate", arguments, (DISK_REL, disk["extId"]))


@route("DELETE", f"{DISKS}/{{disk}}")
def delete_volume_disk_by_id(call: Call) -> Answer:
    group = require_group(call.cluster, call.params["group"])
    disk = require_disk(group, call.params["disk"], call.cluster)
    call.check_tag(entity_tag(disk), is_required=False)
    arguments = {"groupExtId": group.ext_id, "extId": disk["extId"]}
    return call.task("VolumeDiskDelete", arguments, (DISK_REL, disk["extId"]))


@route("POST", f"{GROUP}/$actions/attach-vm")
def attach_vm(call: Call) -> Answer:
    group = _group(call)
    call.need("extId")
    vm = require_vm(call.cluster, call.body["extId"])
    arguments = {"extId": group.ext_id, "vmExtId": vm.ext_id, "index": call.body.get("index")}
    return call.task("VolumeGroupAttachExternal", arguments, (GROUP_REL, group.ext_id))


@route("POST", f"{GROUP}/$actions/detach-vm")
def detach_vm(call: Call) -> Answer:
    group = _group(call)
    call.need("extId")
    arguments = {"extId": group.ext_id, "vmExtId": call.body["extId"]}
    return call.task("VolumeGroupDetachExternal", arguments, (GROUP_REL, group.ext_id))


@route("POST", f"{GROUP}/$actions/attach-iscsi-client")
def attach_iscsi_client(call: Call) -> Answer:
    group = _group(call)
    if bool(call.body.get("iscsiInitiatorName")) == bool(call.body.get("iscsiInitiatorNetworkId")):
        raise SchemaError(
            "Give exactly one of iscsiInitiatorName and iscsiInitiatorNetworkId.",
            "iscsiInitiatorName",
        )
    arguments = {"extId": group.ext_id, "client": call.body}
    return call.task("VolumeGroupAttachExternal", arguments, (GROUP_REL, group.ext_id))


@route("POST", f"{GROUP}/$actions/detach-iscsi-client")
def detach_iscsi_client(call: Call) -> Answer:
    group = _group(call)
    call.need("extId")
    arguments = {"extId": group.ext_id, "clientExtId": call.body["extId"]}
    return call.task("VolumeGroupDetachExternal", arguments, (GROUP_REL, group.ext_id))


def _categories(call: Call, *, associate: bool) -> Answer:
    group = _group(call)
    call.need("categories")
    named = [row["extId"] for row in call.body["categories"]]
    arguments = {"extId": group.ext_id, "categories": named, "associate": associate}
    return call.task("VolumeGroupCategories", arguments, (GROUP_REL, group.ext_id))


@route("POST", f"{GROUP}/$actions/associate-category")
def associate_category(call: Call) -> Answer:
    return _categories(call, associate=True)


@route("POST", f"{GROUP}/$actions/disassociate-category")
def disassociate_category(call: Call) -> Answer:
    return _categories(call, associate=False)


@route("POST", f"{GROUP}/$actions/revert")
def revert_volume_group(call: Call) -> Answer:
    group = _group(call)
    call.need("volumeGroupRecoveryPointExtId")
    arguments = {"extId": group.ext_id, "pointExtId": call.body["volumeGroupRecoveryPointExtId"]}
    return call.task("VolumeGroupRevert", arguments, (GROUP_REL, group.ext_id))


@route("GET", f"{GROUP}/vm-attachments")
def list_vm_attachments_by_volume_group_id(call: Call) -> Answer:
    rows = _group(call).private["vm_attachments"].items()
    kind = "volumes.v4.config.VmAttachment"
    return call.page([{"$objectType": kind, "extId": vm, "index": index} for vm, index in rows])


@route("GET", f"{GROUP}/external-iscsi-attachments")
def list_external_iscsi_attachments_by_volume_group_id(call: Call) -> Answer:
    kind = "volumes.v4.config.IscsiClientAttachment"
    rows: list[Document] = [
        {"$objectType": kind, "extId": c} for c in _group(call).private["iscsi_clients"]
    ]
    return call.page(rows)


@route("GET", f"{GROUP}/category-associations")
def list_category_associations_by_volume_group_id(call: Call) -> Answer:
    kind = "volumes.v4.config.CategoryDetails"
    return call.page(
        [{"$objectType": kind, "extId": c} for c in _group(call).private["categories"]]
    )


@route("GET", "/config/iscsi-clients")
def list_iscsi_clients(call: Call) -> Answer:
    clients = [r.document for r in call.cluster.documents.all("iscsi_client")]
    return call.page(
        clients, filters=("extId", "clusterReference"), orders=("extId", "clusterReference")
    )


@route("GET", "/config/iscsi-clients/{client}")
def get_iscsi_client_by_id(call: Call) -> Answer:
    record = call.cluster.require("iscsi_client", call.params["client"], "volumes")
    return Answer(record.document, tag=entity_tag(record.document, record.revision))
