"""The snapshot of one VM: one recovery point over its disks and its volume groups (N1-N3, N6, N10)."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict

from jobs.attached_groups import (
    RULED_OUT,
    CapturedGroup,
    GroupChoice,
    capture_groups,
    choose_groups,
)
from jobs.errors import ConsistencyNotReached, JobInvalid, SnapshotIncomplete, VmBusy
from jobs.journal import Entry, read_journal
from jobs.reconcile import committed_sources
from jobs.scope import why_no_disk
from jobs.session import BackupSession
from jobs.space import check_containers
from nutanix import (
    DiskRecoveryPointRef,
    FeatureMissing,
    OperationFailed,
    RecoveryPoint,
    RequestInvalid,
    Vm,
)

log = logging.getLogger(__name__)


class DiskSnapshot(BaseModel):
    """One disk inside a recovery point."""

    model_config = ConfigDict(frozen=True)

    disk_id: str
    label: str
    """Bus and index, such as `scsi.0`; of a volume group's disk `vg.NAME.INDEX`."""
    size_bytes: int
    recovery_point: DiskRecoveryPointRef


class Snapshot(BaseModel):
    """A recovery point of one VM with what is needed to read it and to re-create the VM."""

    model_config = ConfigDict(frozen=True)

    vm_id: str
    vm_name: str
    cluster_id: str
    host_id: str | None
    recovery_point_id: str
    created_at: datetime
    consistency: str
    """The level that was reached."""
    consistency_wanted: str = "crash"
    disks: tuple[DiskSnapshot, ...]
    """The VM's own in its order, then those of its volume groups."""
    volume_groups: tuple[CapturedGroup, ...] = ()
    lacks: tuple[str, ...] = ()
    """What belongs to the VM and is not in the recovery point, in words (N3)."""
    vm_config: dict[str, Any]
    warnings: tuple[str, ...] = ()
    entry: Entry

    def source(self) -> dict[str, Any]:
        """What the commit record says of where the restore point came from (N8), and what it is (N1, N3)."""
        return {
            "kind": "nutanix-recovery-point",
            "cluster_id": self.cluster_id,
            "recovery_point_id": self.recovery_point_id,
            "consistency_wanted": self.consistency_wanted,
            "volume_groups": [group.model_dump(mode="json") for group in self.volume_groups],
            "lacks": list(self.lacks),
        }


@dataclass(frozen=True, slots=True)
class _Ask:
    """One way of asking for a recovery point."""

    group_ids: tuple[str, ...]
    consistency: str


def take_snapshot(session: BackupSession, vm_id: str) -> Snapshot:
    """Take one recovery point over all disks and volume groups of a VM, and read back what it holds.

    Journalled before it is created; the caller discards it with `abandon_snapshot` unless a commit
    record comes to name it. Calling again after a failure resends the same request id, so that at
    most one recovery point comes of it. A cluster that refuses volume groups in it, or application
    consistency, is asked for less, and the snapshot says what it lacks; `ConsistencyNotReached`
    where the job will not have less. Also raises `VmBusy`, `SnapshotIncomplete`, `JobInvalid` or
    `NutanixError`.
    """
    session.raise_if_stopped()
    vm = session.client.vm(vm_id)
    tight = check_containers(session.space, session.client, session.clock, session.job.space, vm)
    if session.job.consistency == "application" and not vm.can_vss:
        _require_policy(session, vm.name, "its guest tools cannot quiesce it")
    rule = session.disk_rule(vm.id)
    nothing = why_no_disk(rule, vm)
    if nothing is not None:
        raise JobInvalid("disk_rules", nothing)
    groups = choose_groups(session.client, vm, are_wanted=rule.volume_groups)
    name = session.object_name(vm.name)
    entry = session.journal.intend("recovery-point", name, vm.id)
    _require_first(session, vm, entry)
    refusals: list[str] = []
    if entry.object_id is None:
        point_id, refusals = _create(session, vm, groups, entry)
        entry = session.journal.created(entry, point_id)
    snapshot = _read_back(session, vm, groups, [*tight], refusals, entry)
    try:
        if snapshot.consistency != session.job.consistency == "application":
            _require_policy(session, snapshot.vm_name, "the cluster made a crash-consistent one")
    except ConsistencyNotReached:
        abandon_snapshot(session, snapshot)
        raise
    return snapshot


def _require_policy(session: BackupSession, vm_name: str, why: str) -> None:
    """Go on with less than application consistency only where the job allows it (N1)."""
    if session.job.if_not_consistent == "fail":
        raise ConsistencyNotReached(vm_name, why)


def _create(
    session: BackupSession, vm: Vm, groups: GroupChoice, entry: Entry
) -> tuple[str, list[str]]:
    """Create the recovery point, asking for less each time it is refused; its id, and the refusals."""
    refusals: list[str] = []
    asks = list(_asks(session, vm, groups))
    for number, ask in enumerate(asks):
        try:
            return _ask(session, vm, entry, ask, number), refusals
        except (RequestInvalid, OperationFailed) as error:
            _remove_refused(session, entry)
            if number + 1 == len(asks):
                session.journal.forget(entry)  # The cluster has answered: nothing can come of it.
                raise
            log.warning("%s: asking for less, because %s", vm.name, error)
            refusals.append(str(error))
    raise AssertionError("there is always a way to ask")


def _asks(session: BackupSession, vm: Vm, groups: GroupChoice) -> Iterator[_Ask]:
    """The ways to ask, best first: volume groups are kept before quiescing is given up."""
    wanted, group_ids = session.job.consistency, tuple(each.id for each in groups.taken)
    levels = ["crash"]
    if wanted == "application" and vm.can_vss:
        levels = ["application"] if session.job.if_not_consistent == "fail" else [wanted, "crash"]
    for level in levels:
        yield _Ask(group_ids, level)
        if group_ids:
            yield _Ask((), level)


def _ask(session: BackupSession, vm: Vm, entry: Entry, ask: _Ask, number: int) -> str:
    first = number == 0
    other_id = uuid.uuid5(uuid.UUID(entry.request_id), f"ask-{number}")
    return session.client.create_recovery_point(
        name=entry.name,
        vm_ids=[vm.id],
        volume_group_ids=ask.group_ids,
        # From the entry and not from now: a resent request must be the same request.
        expires_at=entry.created_at + timedelta(days=session.job.reference_expiry_days),
        consistency="application" if ask.consistency == "application" else "crash",
        request_id=entry.request_id if first else str(other_id),
    )


def _remove_refused(session: BackupSession, entry: Entry) -> None:
    """What a failed operation made all the same; its name was made for this VM and session alone."""
    for point in session.client.recovery_points(name_prefix=entry.name):
        if point.name == entry.name:
            session.client.delete_recovery_point(point.id)


def _read_back(
    session: BackupSession,
    vm: Vm,
    groups: GroupChoice,
    warnings: list[str],
    refusals: list[str],
    entry: Entry,
) -> Snapshot:
    client = session.client
    point = client.recovery_point(str(entry.object_id))
    captured, told = _captured(session, vm, point.vm_recovery_points[0].id)
    captured_groups, lacks = capture_groups(client, captured, point, groups)
    own, ruled_out = _own_disks(session, captured, point)
    disks = [*own, *_group_disks(captured_groups)]
    lacks = [*ruled_out, *lacks]
    return Snapshot(
        vm_id=vm.id,
        vm_name=captured.name,
        cluster_id=vm.cluster_id or "",
        host_id=vm.host_id,
        recovery_point_id=point.id,
        created_at=point.created_at,
        consistency=point.consistency,
        consistency_wanted=session.job.consistency,
        disks=tuple(disks),
        volume_groups=captured_groups,
        lacks=tuple(lacks),
        vm_config=captured.config,
        warnings=(*warnings, *told, *_told_honestly(session, point.consistency, lacks, refusals)),
        entry=entry,
    )


def _own_disks(
    session: BackupSession, captured: Vm, point: RecoveryPoint
) -> tuple[list[DiskSnapshot], list[str]]:
    """The VM's own disks that the job wants (E3), and in words those that it does not."""
    vm_point_id = point.vm_recovery_points[0].id
    points = session.client.disk_recovery_points(point.id, vm_point_id)
    held = {disk.disk_id: disk.ref for disk in points}
    rule = session.disk_rule(captured.id)
    wanted = [disk for disk in captured.data_disks if rule.takes(disk.label)]
    ruled_out = [
        f"not in the restore point: disk {disk.label}: {RULED_OUT}"
        for disk in captured.data_disks
        if not rule.takes(disk.label)
    ]
    missing = [disk.label for disk in wanted if disk.id not in held]
    if missing:
        raise SnapshotIncomplete(captured.name, missing)
    disks = [
        DiskSnapshot(
            disk_id=disk.id,
            label=disk.label,
            size_bytes=disk.size_bytes,
            recovery_point=held[disk.id],
        )
        for disk in wanted
    ]
    return disks, ruled_out


def _group_disks(groups: tuple[CapturedGroup, ...]) -> Iterator[DiskSnapshot]:
    for group in groups:
        for disk in group.disks:
            yield DiskSnapshot(
                disk_id=disk.disk_id,
                label=disk.label,
                size_bytes=disk.size_bytes,
                recovery_point=disk.recovery_point,
            )


def _captured(session: BackupSession, vm: Vm, vm_recovery_point_id: str) -> tuple[Vm, list[str]]:
    """The VM's configuration at the snapshot; the live one, with a warning, on an old cluster."""
    try:
        return session.client.captured_vm(vm_recovery_point_id), []
    except FeatureMissing as error:
        return vm, [f"the configuration stored is the one just before the snapshot: {error}"]


def _told_honestly(
    session: BackupSession, got: str, lacks: list[str], refusals: list[str]
) -> Iterator[str]:
    """What the restore point will lack; nothing is left out or downgraded in silence (N1, N3)."""
    why = f" ({refusals[0]})" if refusals else ""
    wanted = session.job.consistency
    if wanted == "application" and got != wanted and session.job.if_not_consistent == "warn":
        yield f"the snapshot is crash-consistent; application consistency was not reached{why}"
    # What a rule leaves out is as the operator wants it: stored and shown, but no warning.
    yield from (text for text in lacks if not text.endswith(RULED_OUT))


def _require_first(session: BackupSession, vm: Vm, entry: Entry) -> None:
    """Of several sessions that want the same VM at once, the one whose intent is oldest goes on (S11)."""
    state = read_journal(session.repository.live, session.clock)
    for other in state.of_others("recovery-point", vm.id, but=session.session_id):
        if (other.created_at, other.key) < (entry.created_at, entry.key):
            session.journal.forget(entry)
            raise VmBusy(vm.name, other.session_id)


def abandon_snapshot(session: BackupSession, snapshot: Snapshot) -> None:
    """Delete a recovery point that no commit record names (N6); quiet when it is gone already.

    The commit of a VM that failed may have been carried out all the same: then the recovery point
    is the reference of a restore point that exists, and stays. Raises `RepositoryError` when that
    cannot be found out; nothing is deleted then.
    """
    if snapshot.recovery_point_id not in committed_sources(session.repository):
        session.client.delete_recovery_point(snapshot.recovery_point_id)
    session.journal.forget(snapshot.entry)
