"""The vendor's own SDK against the simulator, in an interpreter that has it; prints what it found as JSON.

Run as `python drive.py READY_LINE`. Not imported by pytest: the SDK pins libraries that ours must not have.
Every answer is searched for what the SDK could not type (it leaves those values as plain dicts) and for
fields that its models do not know, so a misspelt field or object type of the simulator is found here.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from datetime import UTC, datetime
from typing import Any

import ntnx_clustermgmt_py_client as clustermgmt
import ntnx_dataprotection_py_client as dataprotection
import ntnx_iam_py_client as iam
import ntnx_networking_py_client as networking
import ntnx_prism_py_client as prism
import ntnx_vmm_py_client as vmm
import ntnx_volumes_py_client as volumes
from ntnx_dataprotection_py_client.models.dataprotection.v4 import config as dp
from ntnx_dataprotection_py_client.models.dataprotection.v4 import content
from ntnx_iam_py_client.models.iam.v4 import authn, authz
from ntnx_prism_py_client.models.prism.v4 import config as prism_models
from ntnx_vmm_py_client.models.vmm.v4 import content as image_models
from ntnx_vmm_py_client.models.vmm.v4.ahv import config as ahv
from ntnx_volumes_py_client.models.common.v1.config.EntityReference import EntityReference
from ntnx_volumes_py_client.models.volumes.v4 import config as volume_models

# Fields that the simulator sends on purpose although no model has them (nutanix-v4 §23 rule 15).
ON_PURPOSE = {"observedMood", "firmwareFlavour", "isWormProtected"}
READY = json.loads(sys.argv[1])
CALLS: list[str] = []
PROBLEMS: list[str] = []
SEEN_TYPES: set[str] = set()
FREE_FORM = ("identity_filter", "entity_filter")
"""Fields that the SDK's own models type as any object."""


def connect(package: Any, url: str) -> Any:
    """An SDK client that verifies the simulator's certificate."""
    settings = package.Configuration()
    settings.host, port = url.removeprefix("https://").split(":")
    settings.port = int(port)
    settings.username, settings.password = READY["username"], READY["password"]
    settings.root_ca_certificate_file = READY["ca_file"]
    return package.ApiClient(configuration=settings)


def inspect(value: Any, place: str) -> None:
    """Search an answer for values without a type and for fields without a name."""
    if isinstance(value, list):
        for item in value:
            inspect(item, place)
    elif isinstance(value, dict) and not place.endswith(FREE_FORM):
        PROBLEMS.append(f"{place}: untyped {sorted(value)[:6]}")
    elif hasattr(value, "swagger_types"):
        SEEN_TYPES.add(type(value).__name__)
        said, expected = value._object_type, value._initialize_object_type()
        if said != expected:
            PROBLEMS.append(f"{place}: {said} where {expected} belongs")
        unknown = set(getattr(value, "_unknown_fields", None) or {}) - ON_PURPOSE
        if unknown:
            PROBLEMS.append(f"{place} ({type(value).__name__}): unknown fields {sorted(unknown)}")
        for name in value.attribute_map:
            if not name.startswith(("_", "dollar")):
                inspect(getattr(value, name, None), f"{place}.{name}")


def call(function: Any, *arguments: Any, **options: Any) -> Any:
    """One SDK call whose answer is inspected."""
    answer = function(*arguments, **options)
    CALLS.append(function.__name__)
    inspect(getattr(answer, "data", None), function.__name__)
    inspect(getattr(answer, "metadata", None), f"{function.__name__}.metadata")
    return answer


def require(condition: object, message: str) -> None:
    """Note a problem."""
    if not condition:
        PROBLEMS.append(message)


pc = {
    package: connect(package, READY["pc_url"])
    for package in (vmm, dataprotection, volumes, prism, clustermgmt, networking, iam)
}
vms, images = vmm.VmApi(pc[vmm]), vmm.ImagesApi(pc[vmm])
vm_points = vmm.VmRecoveryPointsApi(pc[vmm])
points = dataprotection.RecoveryPointsApi(pc[dataprotection])
groups = volumes.VolumeGroupsApi(pc[volumes])
tasks, categories = prism.TasksApi(pc[prism]), prism.CategoriesApi(pc[prism])


def wait(answer: Any) -> Any:
    """Poll the task of an answer until it ends."""
    for _ in range(2000):
        task = tasks.get_task_by_id(answer.data.ext_id).data
        if task.status in ("SUCCEEDED", "FAILED", "CANCELED"):
            inspect(task, "get_task_by_id")
            return task
        time.sleep(0.005)
    raise RuntimeError(f"the task {answer.data.ext_id} did not end")


def do(function: Any, *arguments: Any, **options: Any) -> Any:
    """A call that makes a task, which must succeed."""
    options.setdefault("NTNX_Request_Id", str(uuid.uuid4()))
    task = wait(call(function, *arguments, **options))
    require(task.status == "SUCCEEDED", f"{function.__name__}: {task.error_messages}")
    return task


def affected(task: Any, rel: str) -> str:
    """Id of the first entity of a kind that a task names."""
    return next(entity.ext_id for entity in task.entities_affected if entity.rel == rel)


def tag_of(client: Any, answer: Any) -> str:
    """The ETag as the SDK kept it."""
    tag = client.get_etag(answer)
    require(tag, f"no ETag on {type(answer).__name__}")
    return str(tag)


def inventory() -> dict[str, Any]:
    """Everything a backup product looks at first; returns what later steps need."""
    clusters_api = clustermgmt.ClustersApi(pc[clustermgmt])
    containers = clustermgmt.StorageContainersApi(pc[clustermgmt])
    function = "config/clusterFunction/any(t:t eq Clustermgmt.Config.ClusterFunctionRef'AOS')"
    cluster = call(clusters_api.list_clusters, _filter=function).data[0]
    call(clusters_api.get_cluster_by_id, cluster.ext_id)
    hosts = call(clusters_api.list_hosts).data
    call(clusters_api.list_hosts_by_cluster_id, cluster.ext_id)
    call(clusters_api.get_host_by_id, cluster.ext_id, hosts[0].ext_id)
    container = call(containers.list_storage_containers).data[0]
    call(containers.get_storage_container_by_id, container.container_ext_id)
    subnets = networking.SubnetsApi(pc[networking])
    subnet = call(subnets.list_subnets).data[0]
    call(subnets.get_subnet_by_id, subnet.ext_id)
    call(subnets.list_vnics_by_subnet_id, subnet.ext_id)
    pages = [call(vms.list_vms, _page=page, _limit=2).data for page in range(3)]
    require(len({vm.ext_id for page in pages for vm in page}) == 5, "paging lost a VM")
    found = call(vms.list_vms, _filter="name eq 'db01'", _select="name,extId").data
    require([vm.name for vm in found] == ["db01"], "the filter found something else")
    ordered = call(vms.list_vms, _orderby="name desc").data
    require(ordered[0].name == "web01", "the order is wrong")
    call(points.list_recovery_points)
    call(vm_points.list_vm_recovery_points)
    call(groups.list_volume_groups)
    call(volumes.IscsiClientsApi(pc[volumes]).list_iscsi_clients)
    call(tasks.list_tasks, _limit=5)
    return {"cluster": cluster, "container": container, "subnet": subnet, "vm": found[0]}


def backup(world: dict[str, Any]) -> dict[str, Any]:
    """The sequence of nutanix-v4 §28: snapshot, regions, volume group, attach, detach, delete."""
    vm = call(vms.get_vm_by_id, world["vm"].ext_id).data
    first = snapshot(vm.ext_id, "sdk-1")
    second = snapshot(vm.ext_id, "sdk-2")
    full = regions(second, None)
    require(full.data and full.data[0].region_type == "REGULAR", "no regions in a full map")
    require(not regions(second, first).data, "an idle disk changed")
    worker = call(vms.list_vms, _filter="name eq 'ahvault-worker-1'").data[0].ext_id
    tag = tag_of(pc[vmm], call(vms.get_vm_by_id, worker))
    do(vms.power_on_vm, worker, if_match=tag)
    disks = [
        volume_models.VolumeDisk.VolumeDisk(
            index=index,
            disk_data_source_reference=EntityReference(
                ext_id=disk, entity_type="DISK_RECOVERY_POINT"
            ),
        )
        for index, disk in enumerate(second["disks"])
    ]
    group = new_group("sdk-group", world, disks)
    attachment = volume_models.VmAttachment.VmAttachment(ext_id=worker, index=5)
    do(groups.attach_vm, group, attachment)
    shown = call(groups.get_volume_group_by_id, group).data
    require(shown.attachments[0].attachment.index == 5, "the attachment lost its index")
    call(groups.list_vm_attachments_by_volume_group_id, group)
    call(groups.list_volume_disks_by_volume_group_id, group)
    do(groups.detach_vm, group, volume_models.VmAttachment.VmAttachment(ext_id=worker))
    do(groups.delete_volume_group_by_id, group)
    tag = tag_of(pc[vmm], call(vms.get_vm_by_id, worker))
    do(vms.power_off_vm, worker, if_match=tag)
    expiry = dp.ExpirationTimeSpec.ExpirationTimeSpec(
        expiration_time=datetime(2090, 1, 1, tzinfo=UTC)
    )
    do(points.set_recovery_point_expiration_time, second["point"], expiry)
    do(points.delete_recovery_point_by_id, first["point"])
    return second


def snapshot(vm: str, name: str) -> dict[str, Any]:
    """A recovery point with all three levels of ids."""
    spec = dp.RecoveryPoint.RecoveryPoint(
        name=name,
        expiration_time=datetime(2080, 1, 1, tzinfo=UTC),
        vm_recovery_points=[dp.VmRecoveryPoint.VmRecoveryPoint(vm_ext_id=vm)],
    )
    task = do(points.create_recovery_point, spec)
    details = {detail.name: detail.value for detail in task.completion_details}
    point = call(points.get_recovery_point_by_id, details["recoveryPointExtId"]).data
    below = call(
        points.get_vm_recovery_point_by_id, point.ext_id, point.vm_recovery_points[0].ext_id
    ).data
    captured = call(vm_points.get_vm_recovery_point_by_ext_id, below.ext_id).data
    require(captured.vm.name == "db01", "the captured VM is another")
    disks = [row.disk_recovery_point_ext_id for row in below.disk_recovery_points]
    return {"point": point.ext_id, "vm_point": below.ext_id, "disks": disks}


def regions(new: dict[str, Any], old: dict[str, Any] | None) -> Any:
    """discover-cluster on PC, then compute-changed-regions on the PE with its token."""

    def reference(point: dict[str, Any]) -> Any:
        return content.VmDiskRecoveryPointReference.VmDiskRecoveryPointReference(
            recovery_point_ext_id=point["point"],
            vm_recovery_point_ext_id=point["vm_point"],
            disk_recovery_point_ext_id=point["disks"][0],
        )

    pair = (
        content.ComputeChangedRegionsClusterDiscoverSpec.ComputeChangedRegionsClusterDiscoverSpec(
            disk_recovery_point=reference(new),
            reference_disk_recovery_point=reference(old) if old else None,
        )
    )
    spec = content.ClusterDiscoverSpec.ClusterDiscoverSpec(
        operation="COMPUTE_CHANGED_REGIONS", spec=pair
    )
    found = call(points.discover_cluster_for_recovery_point_id, new["point"], spec).data
    require(READY["pe_url"].split("//")[1].startswith(found.cluster_ip.ipv4.value), "another PE")
    element = connect(dataprotection, READY["pe_url"])
    element.add_default_header("Cookie", f"NTNX_IGW_SESSION={found.jwt_token}")
    names = content.VmRecoveryPointChangedRegionsComputeSpec
    body = names.VmRecoveryPointChangedRegionsComputeSpec(
        offset=0,
        block_size_byte=65536,
        reference_recovery_point_ext_id=old["point"] if old else None,
        reference_vm_recovery_point_ext_id=old["vm_point"] if old else None,
        reference_disk_recovery_point_ext_id=old["disks"][0] if old else None,
    )
    compute = dataprotection.RecoveryPointsApi(element).vm_recovery_point_compute_changed_regions
    answer = call(compute, new["point"], new["vm_point"], new["disks"][0], body)
    names = {pair.name for pair in answer.metadata.extra_info}
    require({"nextOffset", "fileSize"} <= names, f"extraInfo is {names}")
    return answer


def new_group(name: str, world: dict[str, Any], disks: list[Any]) -> str:
    """A volume group with its disks inline."""
    group = volume_models.VolumeGroup.VolumeGroup(
        name=name, cluster_reference=world["cluster"].ext_id, usage_type="TEMPORARY", disks=disks
    )
    return affected(do(groups.create_volume_group, group), "volumes:config:volume-group")


def restore(world: dict[str, Any], point: dict[str, Any]) -> None:
    """Blank volume disk, VM made from it and from a recovery point, changed, cloned and deleted."""
    source = EntityReference(
        ext_id=world["container"].container_ext_id, entity_type="STORAGE_CONTAINER"
    )
    blank = volume_models.VolumeDisk.VolumeDisk(
        index=0, disk_size_bytes=1 << 20, disk_data_source_reference=source
    )
    group = new_group("sdk-blank", world, [blank])
    disk = call(groups.list_volume_disks_by_volume_group_id, group).data[0].ext_id
    call(groups.get_volume_disk_by_id, group, disk)
    references = (
        ahv.VolumeDiskReference.VolumeDiskReference(disk_ext_id=disk, volume_group_ext_id=group),
        ahv.VmDiskRecoveryPointReference.VmDiskRecoveryPointReference(
            disk_recovery_point_ext_id=point["disks"][0], vm_recovery_point_ext_id=point["vm_point"]
        ),
    )
    disks = [
        ahv.Disk.Disk(
            backing_info=ahv.VmDisk.VmDisk(
                data_source=ahv.DataSource.DataSource(reference=reference)
            )
        )
        for reference in references
    ]
    nic = ahv.Nic.Nic(
        nic_backing_info=ahv.VirtualEthernetNic.VirtualEthernetNic(mac_address="50:6b:8d:01:02:03"),
        nic_network_info=ahv.VirtualEthernetNicNetworkInfo.VirtualEthernetNicNetworkInfo(
            subnet=ahv.SubnetReference.SubnetReference(ext_id=world["subnet"].ext_id)
        ),
    )
    body = ahv.Vm.Vm(
        name="sdk-restored",
        cluster=ahv.ClusterReference.ClusterReference(ext_id=world["cluster"].ext_id),
        disks=disks,
        nics=[nic],
        boot_config=ahv.UefiBoot.UefiBoot(is_secure_boot_enabled=False),
    )
    vm = affected(do(vms.create_vm, body), "vmm:ahv:config:vm")
    do(groups.delete_volume_group_by_id, group)
    change(vm)


def change(vm: str) -> None:
    """Devices, an update whose ETag travels in the body, a stale one, and the end."""
    got = call(vms.get_vm_by_id, vm)
    require(got.data.nics[0].nic_backing_info.mac_address == "50:6b:8d:01:02:03", "the MAC is lost")
    got.data.memory_size_bytes = 2 << 30
    do(vms.update_vm_by_id, vm, got.data)
    try:
        vms.update_vm_by_id(vm, got.data)
        PROBLEMS.append("a stale ETag was taken")
    except vmm.rest.ApiException as error:
        require(error.status == 412, f"a stale ETag gave {error.status}")
    call(vms.list_disks_by_vm_id, vm)
    call(vms.list_nics_by_vm_id, vm)
    call(vms.list_cd_roms_by_vm_id, vm)
    call(vms.get_guest_tools_by_id, vm)
    tag = tag_of(pc[vmm], call(vms.get_vm_by_id, vm))
    drive = affected(
        do(vms.create_cd_rom, vm, ahv.CdRom.CdRom(), if_match=tag), "vmm:ahv:config:vm:cdrom"
    )
    call(vms.get_cd_rom_by_id, vm, drive)
    tag = tag_of(pc[vmm], call(vms.get_vm_by_id, vm))
    copy = ahv.CloneOverrideParams.CloneOverrideParams(name="sdk-clone")
    clone = affected(do(vms.clone_vm, vm, copy, if_match=tag), "vmm:ahv:config:vm")
    for one in (vm, clone):
        do(vms.delete_vm_by_id, one, if_match=tag_of(pc[vmm], call(vms.get_vm_by_id, one)))


def attachments(world: dict[str, Any], point: dict[str, Any]) -> None:
    """Disks of groups and of VMs one by one, an iSCSI client, a NIC, a migration."""
    source = EntityReference(ext_id=point["disks"][0], entity_type="DISK_RECOVERY_POINT")
    disk = volume_models.VolumeDisk.VolumeDisk(disk_data_source_reference=source)
    group = new_group("sdk-iscsi", world, [])
    added = affected(do(groups.create_volume_disk, group, disk), "volumes:config:volume-group:disk")
    client = volume_models.IscsiClient.IscsiClient(
        iscsi_initiator_name="iqn.1993-08.org.debian:01:sdk"
    )
    task = do(groups.attach_iscsi_client, group, client)
    ext_id = affected(task, "volumes:config:iscsi-client")
    call(volumes.IscsiClientsApi(pc[volumes]).get_iscsi_client_by_id, ext_id)
    call(groups.list_external_iscsi_attachments_by_volume_group_id, group)
    gone = volume_models.IscsiClientAttachment.IscsiClientAttachment(ext_id=ext_id)
    do(groups.detach_iscsi_client, group, gone)
    do(groups.delete_volume_disk_by_id, group, added)
    got = call(groups.get_volume_group_by_id, group)
    got.data.description = "changed"
    do(groups.update_volume_group_by_id, group, got.data)
    do(groups.delete_volume_group_by_id, group)
    vm = world["vm"].ext_id
    blank = ahv.Disk.Disk(backing_info=ahv.VmDisk.VmDisk(disk_size_bytes=1 << 20))
    tag = tag_of(pc[vmm], call(vms.get_vm_by_id, vm))
    disk_id = affected(do(vms.create_disk, vm, blank, if_match=tag), "vmm:ahv:config:vm:disk")
    tag = tag_of(pc[vmm], call(vms.get_disk_by_id, vm, disk_id))
    do(vms.delete_disk_by_id, vm, disk_id, if_match=tag)
    nic = call(vms.list_nics_by_vm_id, vm).data[0].ext_id
    got = call(vms.get_nic_by_id, vm, nic)
    do(vms.update_nic_by_id, vm, nic, got.data)
    hosts = call(
        clustermgmt.ClustersApi(pc[clustermgmt]).list_hosts, _filter="hostName eq 'host-1'"
    ).data
    target = ahv.VmMigrateToHostParams.VmMigrateToHostParams(
        host=ahv.HostReference.HostReference(ext_id=hosts[0].ext_id)
    )
    tag = tag_of(pc[vmm], call(vms.get_vm_by_id, vm))
    do(vms.migrate_vm_to_host, vm, target, if_match=tag)


def surroundings(world: dict[str, Any]) -> None:
    """Categories, images, service accounts, sub-resources of tasks, restore of a whole point."""
    pair = prism_models.Category.Category(key="Sdk", value="yes")
    made = call(categories.create_category, pair).data
    got = call(categories.get_category_by_id, made.ext_id)
    got.data.description = "changed"
    call(categories.update_category_by_id, made.ext_id, got.data)
    call(categories.list_categories, _filter="key eq 'Sdk'")
    require(categories.delete_category_by_id(made.ext_id) is None, "204 is not nothing")
    CALLS.append("delete_category_by_id")
    vm = call(vms.get_vm_by_id, world["vm"].ext_id).data
    source = image_models.VmDiskSource.VmDiskSource(ext_id=vm.disks[1].ext_id)
    spec = image_models.Image.Image(name="sdk-image", type="DISK_IMAGE", source=source)
    image = affected(do(images.create_image, spec), "vmm:content:image")
    call(images.get_image_by_id, image)
    call(images.list_images, _filter="name eq 'sdk-image'")
    do(images.delete_image_by_id, image)
    users = iam.UsersApi(pc[iam])
    user = call(
        users.create_user, authn.User.User(username="sdk", user_type="SERVICE_ACCOUNT")
    ).data
    key = authn.Key.Key(name="k", key_type="API_KEY")
    made_key = call(users.create_user_key, user.ext_id, key).data
    require(made_key.key_details.api_key, "no key value")
    call(users.list_users)
    call(users.list_user_keys, user.ext_id)
    grant_backup_rights(user.ext_id)


def grant_backup_rights(user: str) -> None:
    """A role of two operations and the policy that gives it to the service account (§20)."""
    operations = call(iam.OperationsApi(pc[iam]).list_operations, _limit=100).data
    wanted = [
        each.ext_id for each in operations if each.display_name in ("View_Cluster", "View_Host")
    ]
    roles, policies = iam.RolesApi(pc[iam]), iam.AuthorizationPoliciesApi(pc[iam])
    role = call(roles.create_role, authz.Role.Role(display_name="sdk", operations=wanted)).data
    require(role.operations == wanted, "the role lost its operations")
    policy = authz.AuthorizationPolicy.AuthorizationPolicy(
        display_name="sdk",
        role=role.ext_id,
        identities=[
            authz.IdentityFilter.IdentityFilter(
                identity_filter={"user": {"uuid": {"anyof": [user]}}}
            )
        ],
        entities=[authz.EntityFilter.EntityFilter(entity_filter={"*": {"*": {"eq": "*"}}})],
    )
    call(policies.create_authorization_policy, policy)
    call(policies.list_authorization_policies)
    call(roles.list_roles, _filter="displayName eq 'Backup Admin'")


def errors() -> None:
    """What the SDK makes of refusals, and its own retries of 503."""
    try:
        vms.get_vm_by_id("00000000-1111-2222-3333-444444444444")
    except vmm.rest.ApiException as error:
        body = json.loads(error.body)
        require(
            (error.status, body["data"]["error"][0]["code"]) == (404, "VMM-20005"), "another 404"
        )
    for options in ({"_limit": 100, "_filter": "disks eq 1"}, {"_orderby": "powerState"}):
        try:
            vms.list_vms(**options)
            PROBLEMS.append(f"{options} was taken")
        except vmm.rest.ApiException as error:
            require(error.status == 400, f"{options} gave {error.status}")


def restore_whole(point: dict[str, Any]) -> None:
    """Path A: the recovery point itself becomes a VM again, under another name."""
    override = dp.VmRecoveryPointRestoreOverride.VmRecoveryPointRestoreOverride(
        vm_recovery_point_ext_id=point["vm_point"],
        vm_override_spec=dp.AhvVmOverrideSpec.AhvVmOverrideSpec(name="sdk-whole"),
    )
    body = dp.RecoveryPointRestorationSpec.RecoveryPointRestorationSpec(
        vm_recovery_point_restore_overrides=[override]
    )
    task = do(points.restore_recovery_point, point["point"], body)
    details = {detail.name: detail.value for detail in task.completion_details}
    vm = call(vms.get_vm_by_id, details["vmExtIds"])
    require(vm.data.name == "sdk-whole", "the override was lost")
    do(vms.delete_vm_by_id, vm.data.ext_id, if_match=tag_of(pc[vmm], vm))
    call(tasks.list_task_entities, task.ext_id)


world = inventory()
kept = backup(world)
restore(world, kept)
restore_whole(kept)
attachments(world, kept)
surroundings(world)
errors()
sys.stdout.write(json.dumps({"calls": CALLS, "problems": PROBLEMS, "types": sorted(SEEN_TYPES)}))
