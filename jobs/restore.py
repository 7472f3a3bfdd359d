"""From a restore point back to a VM on a cluster (X1-X8, `nutanix-v4 §18` C).

A restore never touches an existing VM: it makes a new one beside it, under the name that the
operator gives. Blank volume disks are attached to a worker and filled, then a new VM, and new volume
groups beside it, are created from clones of them, and the group that carried them goes.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from jobs.errors import RestoreRefused
from jobs.journal import Entry
from jobs.restore_groups import (
    attach_groups,
    captured_groups,
    group_name,
    make_groups,
    taken_group_names,
)
from jobs.session import Session
from jobs.story import VmStory
from jobs.throttle import ThrottleEngine
from jobs.volumes import Attachment, DiskGroup, make_group
from nutanix import (
    AhvClient,
    BlankDisk,
    OperationFailed,
    StorageContainer,
    Vm,
    VmSpec,
    VolumeDiskRef,
    rebuild_vm,
)
from repository import (
    DamagedObject,
    DiskReader,
    DiskRecord,
    Extent,
    ObjectNotFound,
    Repository,
    RestorePoint,
)


class RestoreTarget(BaseModel):
    """Where a restored VM goes. Decided and checked before anything is created."""

    model_config = ConfigDict(frozen=True)

    vm_name: str
    cluster_id: str
    container_ids: tuple[str, ...]
    """One per disk of the restore point, in its order."""
    warnings: tuple[str, ...] = ()


class DamagedDisk(BaseModel):
    """What of a restored disk could not be read and is zeros."""

    model_config = ConfigDict(frozen=True)

    disk_id: str
    label: str
    ranges_bytes: tuple[tuple[int, int], ...]
    """Half-open, sorted, none touching the next."""

    @property
    def lost_bytes(self) -> int:
        """How much that is in all."""
        return sum(end - start for start, end in self.ranges_bytes)


class RestoreResult(BaseModel):
    """What a restore made."""

    model_config = ConfigDict(frozen=True)

    vm_id: str
    vm_name: str
    point_id: str
    source_vm_name: str
    disk_count: int
    provisioned_bytes: int
    restored_bytes: int
    duration_s: float
    worker: str | None
    worker_reason: str | None
    is_on: bool
    volume_groups: tuple[str, ...] = ()
    """Names of the volume groups that were made and attached to it."""
    warnings: tuple[str, ...] = ()
    damaged: tuple[DamagedDisk, ...] = ()
    """Not empty only if the restore was told to allow damage."""


def choose_target(
    client: AhvClient, point: RestorePoint, *, vm_name: str, container: str | None
) -> RestoreTarget:
    """Decide where the VM goes; raises `RestoreRefused` before anything was done.

    Disks go to the container named, else each to the one it came from. A name that a VM has already
    is refused: two VMs of one name are a trap for everybody after us.
    """
    subject = f"{point.vm_name} of {point.created_at:%Y-%m-%d %H:%M} UTC"
    if any(vm.name == vm_name for vm in client.vms()):
        raise RestoreRefused(subject, f"a VM called {vm_name} exists already; give another name")
    taken = taken_group_names(client, point, vm_name)
    if taken:
        reason = f"a volume group called {taken[0]} exists already; give another name"
        raise RestoreRefused(subject, reason)
    cluster_id = _cluster_of(client, point, subject)
    usable = [each for each in client.storage_containers() if _is_usable(each, cluster_id)]
    if not usable:
        raise RestoreRefused(subject, "the cluster has no storage container that can hold VM disks")
    if container is not None:
        chosen = _named(usable, container, subject)
        return RestoreTarget(
            vm_name=vm_name,
            cluster_id=cluster_id,
            container_ids=(chosen.id,) * len(point.disks),
            warnings=_lacking(point),
        )
    return _where_it_was(point, vm_name, cluster_id, usable)


def group_blank_disks(session: Session, point: RestorePoint, target: RestoreTarget) -> DiskGroup:
    """A volume group with blank disks of the right sizes, for a worker to fill."""
    places = zip(point.disks, target.container_ids, strict=True)
    return make_group(
        session,
        name=session.object_name(target.vm_name),
        purpose=f"restore {target.vm_name}",
        vm_id=point.vm_id,
        cluster_id=target.cluster_id,
        host_id=None,
        sources=[
            BlankDisk(index=index, size_bytes=disk.size_bytes, storage_container_id=container_id)
            for index, (disk, container_id) in enumerate(places)
        ],
        sizes_bytes=[disk.size_bytes for disk in point.disks],
        is_urgent=True,  # Somebody waits for it; the backups of the night do not mind (W5).
    )


class RestoreRun(Protocol):
    """What the filling of a disk needs of its run: the session, or a mover's part of one."""

    @property
    def job_name(self) -> str: ...
    @property
    def repository(self) -> Repository: ...
    @property
    def throttle(self) -> ThrottleEngine: ...


def restore_disk(
    session: RestoreRun,
    story: VmStory,
    *,
    point: RestorePoint,
    disk: DiskRecord,
    index: int,
    attachment: Attachment,
    allow_damaged: bool = False,
    is_untouched: bool = True,
) -> None:
    """Fill one blank disk and flush it. Idempotent: a second call writes the same bytes again.

    Not before a first call failed can the disk hold other bytes than zeros, so zeros are left
    unwritten only on the first try, and only of a disk that the caller knows to be untouched. Where
    damage is allowed, what cannot be read is zeros, and the story keeps its extents; a disk whose
    map cannot be read is zeros from end to end.
    """
    first_try = is_untouched and disk.disk_id not in story.progress
    counters = story.disk_started(disk.disk_id, disk.label, disk.size_bytes)
    damaged: list[Extent] = []
    throttle = session.throttle.transfer(
        direction="read",
        purpose="restore",
        job=session.job_name,
        worker=attachment.choice.worker.name,
        stop=attachment.stop,
    )
    try:
        reader = _open_reader(session.repository, point, disk, damaged if allow_damaged else None)
        with attachment.open_disk(index, writable=True) as target:
            if reader is None:
                target.write_zeros(0, disk.size_bytes)
            else:
                reader.restore_to(
                    target,
                    target_is_blank=first_try,
                    counters=counters,
                    throttle=throttle,
                    stop=attachment.stop,
                    on_damage=damaged.append if allow_damaged else None,
                )
            target.flush()
    finally:
        story.disk_finished(disk.disk_id)
    with story.lock:
        story.damaged[disk.disk_id] = damaged


def _open_reader(
    repository: Repository, point: RestorePoint, disk: DiskRecord, damaged: list[Extent] | None
) -> DiskReader | None:
    """The disk to read; `None` if its map is damaged and that is allowed, all of it told then."""
    try:
        return repository.open_disk(point, disk.disk_id)
    except (DamagedObject, ObjectNotFound):
        if damaged is None:
            raise
        damaged.append(Extent(0, disk.size_bytes))
        return None


def create_restored_vm(
    session: Session,
    point: RestorePoint,
    target: RestoreTarget,
    group: DiskGroup | None,
) -> tuple[str, list[str]]:
    """Create the VM from the filled disks; returns its id and what could not be carried over.

    Whatever still holds the disks is detached first, so that everything written has reached them.
    """
    client = session.client
    disks: dict[str, VolumeDiskRef] = {}
    if group is not None:
        client.detach_from_all(group.id)
        for record, volume_disk in zip(point.disks, group.disks, strict=True):
            disks[record.disk_id] = VolumeDiskRef(group.id, volume_disk.id)
    captured = captured_vm(point)
    original_exists = any(vm.id == point.vm_id for vm in client.vms())
    rebuilt = rebuild_vm(
        captured,
        name=target.vm_name,
        cluster_id=target.cluster_id,
        disks=disks,
        subnets=_lost_subnets(client, captured),
        restored_volume_group_ids=frozenset(
            each.volume_group_id for each in captured_groups(point)
        ),
        known_category_ids=frozenset(category.id for category in client.categories()),
        keeps_macs=not original_exists,
    )
    warnings = list(rebuilt.warnings)
    if original_exists and captured.nics:
        warnings.append(
            "Network cards get new MAC addresses, because the original VM still exists."
        )
    groups = make_groups(
        session, point, vm_name=target.vm_name, cluster_id=target.cluster_id, disks=disks
    )
    entry = session.journal.intend("vm", target.vm_name, point.vm_id)
    vm_id = _create(session, rebuilt.spec, entry)
    entry = session.journal.created(entry, vm_id)
    attach_groups(session, groups, vm_id)
    # From here on they are the operator's, whatever fails after.
    for each in (entry, *(made for _, made in groups)):
        session.journal.forget(each)
    return vm_id, warnings


def _create(session: Session, spec: VmSpec, entry: Entry) -> str:
    """Create the VM; what a failed operation made all the same is recorded for removal (`§9`)."""
    try:
        return session.client.create_vm(spec, request_id=entry.request_id)
    except OperationFailed as error:
        made = {vm.id for vm in session.client.vms()} & set(error.entity_ids)
        if len(made) == 1:
            session.journal.created(entry, made.pop())
        raise


def _lost_subnets(client: AhvClient, captured: Vm) -> dict[str, str | None]:
    """The captured networks that exist no more; a card on one is left out, with a warning."""
    known = {subnet.id for subnet in client.subnets()}
    return {
        nic.subnet_id: None for nic in captured.nics if nic.subnet_id and nic.subnet_id not in known
    }


def restore_result(
    story: VmStory, point: RestorePoint, *, vm_id: str, is_on: bool
) -> RestoreResult:
    """What the restore made, for tables and JSON."""
    with story.lock:
        restored_bytes = sum(disk.counters.new_bytes for disk in story.progress.values())
        damaged = tuple(
            DamagedDisk(disk_id=disk.disk_id, label=disk.label, ranges_bytes=_joined(extents))
            for disk in point.disks
            if (extents := story.damaged.get(disk.disk_id))
        )
    return RestoreResult(
        vm_id=vm_id,
        vm_name=story.vm_name,
        point_id=point.id,
        source_vm_name=point.vm_name,
        disk_count=len(point.disks),
        provisioned_bytes=point.provisioned_bytes,
        restored_bytes=restored_bytes,
        duration_s=story.clock.monotonic_s() - story.started_s,
        worker=story.worker,
        worker_reason=story.worker_reason,
        is_on=is_on,
        volume_groups=tuple(group_name(story.vm_name, each) for each in captured_groups(point)),
        warnings=tuple(story.warnings),
        damaged=damaged,
    )


def _joined(extents: Sequence[Extent]) -> tuple[tuple[int, int], ...]:
    """The extents sorted, those that touch made one."""
    ranges: list[tuple[int, int]] = []
    for extent in sorted(extents):
        if ranges and ranges[-1][1] >= extent.start_bytes:
            start, end = ranges.pop()
            ranges.append((start, max(end, extent.end_bytes)))
        else:
            ranges.append((extent.start_bytes, extent.end_bytes))
    return tuple(ranges)


def captured_vm(point: RestorePoint) -> Vm:
    """The VM as it was at the restore point."""
    return Vm.model_validate(point.vm_config)


def _cluster_of(client: AhvClient, point: RestorePoint, subject: str) -> str:
    clusters = [each for each in client.clusters() if not each.is_prism_central]
    origin = point.source.get("cluster_id")
    if any(each.id == origin for each in clusters):
        return str(origin)
    if len(clusters) == 1:
        return clusters[0].id
    raise RestoreRefused(subject, "the cluster it came from is not registered here any more")


def _is_usable(container: StorageContainer, cluster_id: str) -> bool:
    return (
        container.cluster_id in (None, cluster_id)
        and not container.is_internal
        and not container.is_marked_for_removal
    )


def _lacking(point: RestorePoint) -> tuple[str, ...]:
    """What the VM had and the restore point does not hold, said once more where it matters (N3)."""
    return tuple(f"{each}, so it is not restored" for each in point.source.get("lacks") or ())


def _named(usable: Sequence[StorageContainer], name: str, subject: str) -> StorageContainer:
    for container in usable:
        if name in (container.name, container.id):
            return container
    names = [container.name for container in usable]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(sorted(names))}"
    raise RestoreRefused(subject, f"there is no storage container {name}; {hint}")


def _where_it_was(
    point: RestorePoint, vm_name: str, cluster_id: str, usable: Sequence[StorageContainer]
) -> RestoreTarget:
    known = {container.id for container in usable}
    origin = {disk.id: disk.storage_container_id for disk in captured_vm(point).data_disks}
    for group in captured_groups(point):
        origin |= {disk.disk_id: disk.storage_container_id for disk in group.disks}
    fallback = sorted(usable, key=lambda container: container.name)[0]
    containers, warnings = [], [*_lacking(point)]
    for disk in point.disks:
        wanted = origin.get(disk.disk_id)
        if wanted not in known:
            warnings.append(f"{disk.label} goes to {fallback.name}: its own container is gone")
        containers.append(wanted if wanted in known and wanted else fallback.id)
    return RestoreTarget(
        vm_name=vm_name,
        cluster_id=cluster_id,
        container_ids=tuple(containers),
        warnings=tuple(warnings),
    )
