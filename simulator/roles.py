"""Who may do what: operations, roles made of them, and the policies that give roles to users (nutanix-v4 §20).

The reference says what a Backup Admin may do, not always what the operation is called; where it is silent the name
is ours, in the manner of the others. The person with the password may do everything; a service account
may do what the policies give it, which is nothing until there is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from simulator.cluster import Cluster, seeded_id
from simulator.documents import Document
from simulator.errors import UnauthorisedError

# What each handler of the catalogue needs. Those that are not here and not public need a full administrator.
_NEEDS = {
    "View_Virtual_Machine": "list_vms get_vm list_disks get_disk list_cd_roms get_cd_rom list_nics get_nic "
    "list_gpus list_serial_ports list_pcie_devices get_guest_tools",
    "Create_Virtual_Machine": "create_vm",
    "Update_Virtual_Machine": "update_vm_by_id associate_categories disassociate_categories create_nic update_nic "
    "delete_nic create_cd_rom delete_cd_rom insert_cd_rom eject_cd_rom",
    "Delete_Virtual_Machine": "delete_vm_by_id",
    "Clone_Virtual_Machine": "clone_vm",
    "Revert_Virtual_Machine": "revert_vm",
    "Migrate_Virtual_Machine": "migrate_vm_to_host",
    "Power_On_Virtual_Machine": "power_on_vm",
    "Power_Off_Virtual_Machine": "power_off_vm",
    "Shutdown_Virtual_Machine": "shutdown_vm shutdown_guest_vm",
    "Reset_Virtual_Machine": "power_cycle_vm reset_vm reboot_vm reboot_guest_vm",
    "Create_Virtual_Machine_Disk": "create_disk",
    "Update_Virtual_Machine_Disk": "update_disk",
    "Delete_Virtual_Machine_Disk": "delete_disk",
    "View_VM_Recovery_Point": "list_vm_recovery_points get_vm_recovery_point_by_id",
    "Create_VM_Recovery_Point": "create_vm_recovery_point",
    "Delete_VM_Recovery_Point": "delete_vm_recovery_point_by_id",
    "Restore_VM_Recovery_Point": "restore_vm_recovery_point",
    "View_Recovery_Point": "list_recovery_points get_recovery_point_by_id",
    "Create_Recovery_Point": "create_recovery_point",
    "Delete_Recovery_Point": "delete_recovery_point_by_id",
    "Update_Recovery_Point_Expiration_Time": "set_recovery_point_expiration_time",
    "Restore_Recovery_Point": "restore_recovery_point",
    "Replicate_Recovery_Point": "replicate_recovery_point",
    "Discover_Cluster": "discover_cluster_for_recovery_point_id",
    "View_Volume_Group": "list_volume_groups get_volume_group_by_id list_volume_disks_by_volume_group_id "
    "get_volume_disk_by_id list_vm_attachments_by_volume_group_id "
    "list_external_iscsi_attachments_by_volume_group_id list_category_associations_by_volume_group_id",
    "Create_Volume_Group": "create_volume_group",
    "Update_Volume_Group": "update_volume_group_by_id update_volume_disk_by_id associate_category "
    "disassociate_category revert_volume_group",
    "Delete_Volume_Group": "delete_volume_group_by_id",
    "Create_Volume_Disk": "create_volume_disk",
    "Delete_Volume_Disk": "delete_volume_disk_by_id",
    "Attach_Volume_Group_To_VM": "attach_vm",
    "Detach_Volume_Group_From_VM": "detach_vm",
    "Attach_Volume_Group_To_iSCSI_Client": "attach_iscsi_client",
    "Detach_Volume_Group_From_iSCSI_Client": "detach_iscsi_client",
    "View_iSCSI_Client": "list_iscsi_clients get_iscsi_client_by_id",
    "View_Image": "list_images get_image get_image_file",
    "Create_Image": "create_image",
    "Update_Image": "update_image",
    "Delete_Image": "delete_image",
    "View_Cluster_By_Id": "get_cluster_by_id list_hosts_by_cluster_id",
    "View_Cluster": "list_clusters",
    "View_Host": "list_hosts get_host_by_id",
    "View_Storage_Container": "list_storage_containers get_storage_container_by_id "
    "get_storage_container_stats",
    "View_Subnet": "list_subnets",
    "View_Subnet_By_Id": "get_subnet_by_id list_subnet_vnics",
    "View_Category": "list_categories get_category_by_id",
    "Create_Category": "create_category",
}
_OPERATION_OF = {handler: name for name, needs in _NEEDS.items() for handler in needs.split()}
# Content on Prism Element is opened by the token alone; tasks are seen by whoever started them.
_PUBLIC = frozenset(
    {
        "vm_recovery_point_compute_changed_regions",
        "volume_group_recovery_point_compute_changed_regions",
        "get_vss_metadata_by_vm_recovery_point_id",
        "list_tasks",
        "get_task_by_id",
        "cancel_task",
        "list_task_entities",
        "list_cluster_capabilities",
        "list_recovery_point_stores",
    }
)
_BACKUP_ADMIN_LACKS = frozenset(
    {
        "Clone_Virtual_Machine",
        "Migrate_Virtual_Machine",
        "Update_Virtual_Machine_Disk",
        "Shutdown_Virtual_Machine",
        "Reset_Virtual_Machine",
        "View_Cluster",
        "View_Host",
        "View_Subnet_By_Id",
        "Create_Category",
        "View_Image",
        "Create_Image",
        "Update_Image",
        "Delete_Image",
    }
)
FOR_ADMINISTRATORS = frozenset(
    {
        "create_storage_container",
        "update_category_by_id",
        "delete_category_by_id",
        "assign_vm_owner",
        "add_vm_custom_attributes",
        "remove_vm_custom_attributes",
        "list_ovas",
        "list_templates",
    }
)
"""Beyond what is told apart here; so is everything of iam."""
ADMINISTRATORS = ("Super Admin", "Prism Admin")
ADMIN = "admin"


def is_classified(handler: str) -> bool:
    """Whether it is known who may use what a handler does."""
    return handler in _OPERATION_OF or handler in _PUBLIC or handler in FOR_ADMINISTRATORS


def operations(cluster: Cluster) -> list[Document]:
    """The catalogue of operations."""
    return [
        {
            "$objectType": "iam.v4.authz.Operation",
            "extId": operation_id(cluster, name),
            "displayName": name,
            "operationType": "EXTERNAL",
        }
        for name in _NEEDS
    ]


def operation_id(cluster: Cluster, name: str) -> str:
    """The id under which an operation stands in a role."""
    return seeded_id(cluster.seed, f"operation/{name}")


def built_in_roles(cluster: Cluster) -> list[Document]:
    """The roles that every Prism Central has."""
    backup = [name for name in _NEEDS if name not in _BACKUP_ADMIN_LACKS]
    held = {**{name: list(_NEEDS) for name in ADMINISTRATORS}, "Backup Admin": backup}
    return [
        {
            "$objectType": "iam.v4.authz.Role",
            "extId": seeded_id(cluster.seed, f"role/{name}"),
            "displayName": name,
            "isSystemDefined": True,
            "operations": [operation_id(cluster, each) for each in names],
        }
        for name, names in held.items()
    ]


def roles(cluster: Cluster) -> list[Document]:
    """Every role, those that people made included."""
    return built_in_roles(cluster) + [r.document for r in cluster.documents.all("role")]


def require_right(cluster: Cluster, user: str, handler: str) -> None:
    """UnauthorisedError (403) unless this user may use what the handler does."""
    if user == ADMIN or handler in _PUBLIC:
        return
    held = list(_roles_of(cluster, user))
    if any(role["displayName"] in ADMINISTRATORS for role in held):
        return
    name = _OPERATION_OF.get(handler)
    wanted = operation_id(cluster, name) if name else ""
    if not any(wanted in role["operations"] for role in held):
        raise UnauthorisedError(f"Access is denied: {name or handler}.", status=403)


def _roles_of(cluster: Cluster, user: str) -> Iterator[Document]:
    by_id = {role["extId"]: role for role in roles(cluster)}
    for policy in cluster.documents.all("authorization_policy"):
        named = policy.document.get("identities") or ()
        if _mentions(named, user) and policy.document["role"] in by_id:
            yield by_id[policy.document["role"]]


def _mentions(value: Any, user: str) -> bool:
    """Whether a user's id stands anywhere in an identity filter, whose inner form is free."""
    if isinstance(value, dict):
        return any(_mentions(each, user) for each in value.values())
    if isinstance(value, list | tuple):
        return any(_mentions(each, user) for each in value)
    return bool(value == user)
