"""The volume groups attached to a VM: which can be frozen with it, and what was frozen of them (N3).

A group in the same recovery point as its VM is consistent with it to the write. One that others
write to as well, or that asks for a secret, is left out, and the restore point says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from jobs.errors import SnapshotIncomplete
from nutanix import (
    AhvClient,
    DiskRecoveryPointRef,
    NotFound,
    RecoveryPoint,
    Vm,
    VolumeDisk,
    VolumeGroup,
)

RULED_OUT = "left out by a disk rule of the job"
GROUPS_MAX = 29
"""A recovery point covers 30 VMs and groups at most, and one of them is the VM (`nutanix-v4 §14.1`)."""

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


class CapturedDisk(BaseModel):
    """One disk of a volume group, as the recovery point holds it."""

    model_config = ConfigDict(frozen=True)

    disk_id: str
    index: int
    label: str
    size_bytes: int
    storage_container_id: str | None = None
    recovery_point: DiskRecoveryPointRef


class CapturedGroup(BaseModel):
    """One volume group in a recovery point: enough to make it again. Stored with the restore point."""

    model_config = ConfigDict(frozen=True)

    volume_group_id: str
    name: str
    description: str | None = None
    attached_at: int | None = None
    """Its place on the VM's SCSI bus."""
    disks: tuple[CapturedDisk, ...]


@dataclass(frozen=True, slots=True)
class GroupChoice:
    """Which attached groups go into the recovery point, and why others do not."""

    taken: tuple[VolumeGroup, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    """Ids and reasons."""


def choose_groups(client: AhvClient, vm: Vm, *, are_wanted: bool = True) -> GroupChoice:
    """Look at every group attached to the VM. Raises `NutanixError`.

    With `are_wanted` false, when a rule of the job leaves them out (E3), none is taken.
    """
    taken: list[VolumeGroup] = []
    left_out: list[tuple[str, str]] = []
    for group_id in vm.volume_group_ids:
        try:
            group = client.volume_group(group_id)
        except NotFound:  # Detached and deleted since the VM was read; the captured VM will tell.
            left_out.append((group_id, f"volume group {group_id}: it was deleted at that moment"))
            continue
        others = [each for each in client.vm_attachments(group_id) if each.vm_id != vm.id]
        reason = _why_not(group, other_count=len(others)) if are_wanted else RULED_OUT
        if reason is None and len(taken) == GROUPS_MAX:
            reason = f"a recovery point holds no more than {GROUPS_MAX} groups beside its VM"
        if reason is None:
            taken.append(group)
        else:
            left_out.append((group_id, f"volume group {group.name}: {reason}"))
    return GroupChoice(tuple(taken), tuple(left_out))


def _why_not(group: VolumeGroup, *, other_count: int) -> str | None:
    if group.uses_chap:
        return "it asks for a CHAP secret, so it is not backed up"
    if other_count:
        return (
            f"it is shared with {other_count} other VM(s), which write to it at any moment, so no "
            "recovery point of this VM is consistent with it"
        )
    if group.iscsi_client_ids:
        return "it is also attached to an iSCSI client, which writes to it at any moment"
    return None


def capture_groups(
    client: AhvClient, captured: Vm, point: RecoveryPoint, choice: GroupChoice
) -> tuple[tuple[CapturedGroup, ...], list[str]]:
    """The groups of the VM that the recovery point holds, and in words what it lacks of the others.

    Raises `SnapshotIncomplete` when a group in it has other disks than its point, `NutanixError`.
    """
    held = {each.volume_group_id: each for each in point.volume_group_recovery_points}
    known = {group.id: group for group in choice.taken}
    reasons = dict(choice.left_out)
    groups, lacks = [], []
    for group_id in captured.volume_group_ids:
        if group_id not in held or group_id not in known:
            why = reasons.get(group_id) or f"volume group {_name(known, group_id)}: {_REFUSED}"
            lacks.append(f"not in the restore point: {why}")
            continue
        refs = {disk.disk_id: disk.ref for disk in held[group_id].disks(point.id)}
        disks = client.volume_disks(group_id)
        _require_same(captured.name, known[group_id].name, disks, set(refs))
        groups.append(_captured(captured, known[group_id], disks, refs))
    return _named_apart(groups), lacks


_REFUSED = (
    "the cluster did not take it into the VM's recovery point, so only the VM's own disks are "
    "consistent with each other"
)


def _name(known: dict[str, VolumeGroup], group_id: str) -> str:
    return known[group_id].name if group_id in known else group_id


def _require_same(
    vm_name: str, group_name: str, disks: list[VolumeDisk], held: set[str | None]
) -> None:
    """The point must hold exactly the group's disks: one that changed meanwhile cannot be told."""
    odd = held ^ {disk.id for disk in disks}
    if odd:
        raise SnapshotIncomplete(vm_name, [f"{each} of volume group {group_name}" for each in odd])


def _captured(
    vm: Vm,
    group: VolumeGroup,
    disks: list[VolumeDisk],
    refs: dict[str | None, DiskRecoveryPointRef],
) -> CapturedGroup:
    places = {disk.volume_group_id: disk.address.index for disk in vm.disks}
    return CapturedGroup(
        volume_group_id=group.id,
        name=group.name,
        description=group.description,
        attached_at=places.get(group.id),
        disks=tuple(
            CapturedDisk(
                disk_id=disk.id,
                index=disk.index,
                label=f"vg.{_slug(group.name)}.{disk.index}",
                size_bytes=disk.size_bytes,
                storage_container_id=disk.storage_container_id,
                recovery_point=refs[disk.id],
            )
            for disk in disks
        ),
    )


def _named_apart(groups: list[CapturedGroup]) -> tuple[CapturedGroup, ...]:
    """Labels must tell disks apart, also of two groups of one name."""
    names = [_slug(group.name) for group in groups]
    return tuple(
        _numbered(group, number) if names.count(_slug(group.name)) > 1 else group
        for number, group in enumerate(groups)
    )


def _numbered(group: CapturedGroup, number: int) -> CapturedGroup:
    disks = [
        disk.model_copy(update={"label": f"vg.{number}.{disk.label.removeprefix('vg.')}"})
        for disk in group.disks
    ]
    return group.model_copy(update={"disks": tuple(disks)})


def _slug(name: str) -> str:
    return _UNSAFE.sub("_", name)
