"""Volume groups of a restore point, made again beside the VM they were attached to (X2).

A group is new, as the VM is: it gets the VM's new name and its own, and no group that exists is
touched. Its disks are clones of the filled disks. Both are in the journal until they are attached to
each other, so that a restore that ends in between leaves nothing half made.
"""

from __future__ import annotations

from collections.abc import Mapping

from jobs.attached_groups import CapturedGroup
from jobs.journal import Entry
from jobs.session import Session
from nutanix import AhvClient, DiskFromVolumeDisk, OperationFailed, RequestInvalid, VolumeDiskRef
from repository import RestorePoint

NAME_LENGTH_MAX = 256
"""Of a volume group (`nutanix-v4 §16`)."""


def captured_groups(point: RestorePoint) -> tuple[CapturedGroup, ...]:
    """The volume groups that a restore point holds."""
    stored = point.source.get("volume_groups") or ()
    return tuple(CapturedGroup.model_validate(each) for each in stored)


def group_name(vm_name: str, group: CapturedGroup) -> str:
    """What a group is called beside a VM that is restored under this name."""
    return f"{vm_name}-{group.name}"[:NAME_LENGTH_MAX]


def taken_group_names(client: AhvClient, point: RestorePoint, vm_name: str) -> list[str]:
    """Names that the restore would give and that exist already; it must not begin then."""
    wanted = {group_name(vm_name, group) for group in captured_groups(point)}
    if not wanted:
        return []
    return sorted(wanted & {group.name for group in client.volume_groups(name_prefix=vm_name)})


def make_groups(
    session: Session,
    point: RestorePoint,
    *,
    vm_name: str,
    cluster_id: str,
    disks: Mapping[str, VolumeDiskRef],
) -> list[tuple[CapturedGroup, Entry]]:
    """Create the groups from the filled disks, not attached yet. Calling again finds the first ones."""
    made = []
    for group in captured_groups(point):
        name = group_name(vm_name, group)
        entry = session.journal.intend("volume-group", name, group.volume_group_id)
        group_id = session.client.create_volume_group(
            name=name,
            cluster_id=cluster_id,
            description=group.description,
            disks=[
                DiskFromVolumeDisk(disk.index, disks[disk.disk_id].volume_disk_id)
                for disk in group.disks
            ],
            is_temporary=False,
            request_id=entry.request_id,
        )
        made.append((group, session.journal.created(entry, group_id)))
    return made


def attach_groups(session: Session, made: list[tuple[CapturedGroup, Entry]], vm_id: str) -> None:
    """Attach the groups to the restored VM, each where it was, else where there is room."""
    for group, entry in made:
        group_id = str(entry.object_id)
        try:
            session.client.attach_volume_group(group_id, vm_id, index=group.attached_at)
        except (RequestInvalid, OperationFailed):
            if group.attached_at is None:
                raise
            session.client.attach_volume_group(group_id, vm_id)
