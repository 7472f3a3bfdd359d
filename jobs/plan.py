"""A preview of a session: what it would do now, and why. Looks, and changes nothing anywhere.

Decides as the session does, with the same functions, as far as that goes without a new recovery
point: what has changed since the last one only a new one can tell, so amounts are estimates, and
each says what it rests on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from jobs.admission import window_closed
from jobs.attached_groups import RULED_OUT, choose_groups
from jobs.audit import is_full_read_due
from jobs.errors import NoWorker, StorageNearlyFull
from jobs.extents import ReadCause, ReadMethod
from jobs.model import BackupJob, WorkerSpec
from jobs.plan_workers import planned_workers
from jobs.planned import Basis, PlannedDisk, PlannedVm, SessionPlan
from jobs.references import Reference, find_reference
from jobs.retention import ForgottenByRule
from jobs.scope import ChosenVms, VmTarget, choose_vms, why_no_disk
from jobs.selection import DiskRule
from jobs.space import SpaceWatch, check_containers, check_repository
from jobs.workers import WorkerState, rank_workers
from nutanix import AhvClient, ChangedRegions, DiskRecoveryPointRef, NutanixError, Vm
from repository import Clock, PointFacts, Repository, RestorePoint, plan_retention

_EVER = datetime.max.replace(tzinfo=UTC)
"""Later than any restore point, also where the cluster's clock runs ahead of ours."""


@dataclass(frozen=True, slots=True)
class DiskNow:
    """A disk as it is now."""

    disk_id: str
    label: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class VmNow:
    """A VM as it is now: what a snapshot of it would say."""

    vm_id: str
    vm_name: str
    cluster_id: str
    created_at: datetime
    disks: Sequence[DiskNow]
    vm_config: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planning:
    """What planning looks at."""

    client: AhvClient
    repository: Repository
    job: BackupJob
    workers: Sequence[WorkerState]
    clock: Clock
    space: SpaceWatch = field(default_factory=SpaceWatch)


def plan_session(
    client: AhvClient,
    repository: Repository,
    workers: Sequence[WorkerSpec],
    job: BackupJob,
    *,
    clock: Clock,
) -> SessionPlan:
    """What a session of this job would do now.

    Raises as `choose_vms` when the scope selects nothing, `NutanixError` and `RepositoryError`. What
    would fail a single VM is told with that VM.
    """
    states = planned_workers(client, repository.live, workers)
    never = [state.vm_id for state in states if state.vm_id]
    chosen = choose_vms(client, job.scope, never=never, disk_rules=job.disk_rules)
    planning = _Planning(client=client, repository=repository, job=job, workers=states, clock=clock)
    vms = (*_unknown(chosen), *(_plan_vm(planning, target) for target in chosen.targets))
    drops, refused = _plan_retention(planning, chosen.targets)
    return SessionPlan(
        job=job.name,
        planned_at=clock.now(),
        vms=vms,
        parallel_vms=job.parallel_vms,
        left_out=tuple(str(each) for each in chosen.left_out),
        warnings=(*chosen.warnings, *_session_warnings(planning)),
        retention_drops=drops,
        retention_refused=refused,
    )


def _unknown(chosen: ChosenVms) -> Iterator[PlannedVm]:
    for name, error in chosen.unknown_vms.items():
        yield PlannedVm(vm_id=name, vm_name=name, problem=str(error))


def _session_warnings(planning: _Planning) -> Iterator[str]:
    closed = window_closed(planning.job.window, planning.clock)
    if closed is not None:
        yield f"no VM would start now: {closed}"
    nearly_full = check_repository(planning.repository, planning.job.space)
    if nearly_full is not None:
        yield nearly_full


def _plan_vm(planning: _Planning, target: VmTarget) -> PlannedVm:
    client, rule = planning.client, target.disk_rule
    vm = client.vm(target.vm_id)
    try:
        warnings = check_containers(planning.space, client, planning.clock, planning.job.space, vm)
    except StorageNearlyFull as error:
        return PlannedVm(vm_id=vm.id, vm_name=vm.name, problem=str(error))
    disks, left_out = _disks_of(client, vm, rule)
    consistency, problem = _consistency_of(planning.job, vm)
    problem = why_no_disk(rule, vm) or problem
    if problem is not None:
        return PlannedVm(vm_id=vm.id, vm_name=vm.name, left_out=tuple(left_out), problem=problem)
    seen = VmNow(vm.id, vm.name, vm.cluster_id or "", _EVER, disks, vm.config)
    reference = find_reference(planning, seen)
    return PlannedVm(
        vm_id=vm.id,
        vm_name=vm.name,
        kind="full" if reference.point is None else "incremental",
        consistency=consistency,
        disks=tuple(_plan_disks(planning, seen, reference)),
        left_out=tuple(left_out),
        **{"warnings": tuple(warnings), **_worker_of(planning, vm, warnings)},
    )


def _consistency_of(job: BackupJob, vm: Vm) -> tuple[str, str | None]:
    """The level to expect, and why the VM would fail for it (N1)."""
    if job.consistency == "crash" or vm.can_vss:
        return job.consistency, None
    if job.if_not_consistent == "fail":
        return (
            "crash",
            "the job insists on application consistency, and its guest tools cannot quiesce it",
        )
    return "crash", None


def _disks_of(client: AhvClient, vm: Vm, rule: DiskRule) -> tuple[list[DiskNow], list[str]]:
    """The disks that a restore point would hold, and in words what it would lack (E3, N3)."""
    own = [DiskNow(disk.id, disk.label, disk.size_bytes) for disk in vm.data_disks]
    disks = [disk for disk in own if rule.takes(disk.label)]
    left_out = [f"disk {disk.label}: {RULED_OUT}" for disk in own if not rule.takes(disk.label)]
    groups = choose_groups(client, vm, are_wanted=rule.volume_groups)
    for group in groups.taken:
        disks += [
            DiskNow(disk.id, f"vg.{group.name}.{disk.index}", disk.size_bytes)
            for disk in client.volume_disks(group.id)
        ]
    return disks, [*left_out, *(reason for _, reason in groups.left_out)]


def _plan_disks(planning: _Planning, seen: VmNow, reference: Reference) -> Iterator[PlannedDisk]:
    now = planning.clock.now()
    known = planning.repository.points(seen.vm_id).points
    for disk in seen.disks:
        method, cause = _expected_method(planning.job, reference, disk, now)
        expected_bytes, basis = _expected_bytes(planning.client, known, reference, disk, method)
        yield PlannedDisk(
            disk_id=disk.disk_id,
            label=disk.label,
            size_bytes=disk.size_bytes,
            method=method,
            cause=cause,
            reason=cause.text,
            expected_bytes=min(expected_bytes, disk.size_bytes),
            basis=basis,
        )


def _expected_method(
    job: BackupJob, reference: Reference, disk: DiskNow, now: datetime
) -> tuple[ReadMethod, ReadCause]:
    """The first rung of the ladder that the session would try (B3)."""
    against, base = reference.of_disk(disk.disk_id), reference.base(disk.disk_id)
    if not isinstance(against, DiskRecoveryPointRef):
        return ReadMethod.ALLOCATED, against
    if base is None:
        return ReadMethod.ALLOCATED, ReadCause.FIRST_RUN
    if is_full_read_due(base, now, job.full_read_days):
        return ReadMethod.ALLOCATED, ReadCause.AUDIT_DUE
    return ReadMethod.CHANGED, ReadCause.CHANGED_REGIONS


def _expected_bytes(
    client: AhvClient,
    known: Sequence[RestorePoint],
    reference: Reference,
    disk: DiskNow,
    method: ReadMethod,
) -> tuple[int, Basis]:
    base = reference.base(disk.disk_id)
    if method is ReadMethod.CHANGED and base is not None:
        if base.read_method == ReadMethod.CHANGED:
            return base.figures.read_bytes, Basis.LAST_RUN
        return disk.size_bytes, Basis.SIZE
    allocated_bytes = _allocated_bytes(client, known, disk.disk_id)
    if allocated_bytes is None:
        return disk.size_bytes, Basis.SIZE
    return allocated_bytes, Basis.ALLOCATED


def _allocated_bytes(client: AhvClient, known: Sequence[RestorePoint], disk_id: str) -> int | None:
    """What the newest recovery point of the disk that still stands holds, of whatever job."""
    for point in reversed(known):
        record = point.disk(disk_id)
        facts = record.source_facts.get("recovery_point") if record is not None else None
        if record is None or facts is None:
            continue
        try:
            answer = client.changed_regions(DiskRecoveryPointRef.model_validate(facts), None)
        except NutanixError:
            return None
        return _in_whole_chunks(answer, record.chunk_size_bytes)
    return None


def _in_whole_chunks(answer: ChangedRegions, chunk_size_bytes: int) -> int:
    """What is read of these regions: every chunk that one of them touches, once."""
    count, reached = 0, 0
    for region in answer.regions:
        if region.is_zeroed:
            continue
        first = max(region.offset_bytes // chunk_size_bytes, reached)
        end = -(-(region.offset_bytes + region.length_bytes) // chunk_size_bytes)
        count += max(0, end - first)
        reached = max(reached, end)
    return count * chunk_size_bytes


def _worker_of(planning: _Planning, vm: Vm, warnings: Sequence[str]) -> Mapping[str, Any]:
    """The worker that would be chosen if the VM were alone, or why none would (W1-W7)."""
    try:
        choice = rank_workers(
            planning.workers,
            purpose=f"back up {vm.name}",
            host_id=vm.host_id,
            cluster_id=vm.cluster_id or "",
        )[0]
    except NoWorker as error:
        return {"problem": str(error)}
    told = {"worker": choice.worker.name, "worker_reason": choice.reason}
    if choice.warning is not None:
        return {**told, "warnings": (*warnings, choice.warning)}
    if choice.worker.is_on:
        return told
    return {**told, "worker_reason": _AFTER_POWER_ON}


_AFTER_POWER_ON = (
    "same cluster; the session powers the workers on, and then prefers one on the VM's host"
)


def _plan_retention(
    planning: _Planning, targets: Sequence[VmTarget]
) -> tuple[tuple[ForgottenByRule, ...], tuple[str, ...]]:
    """What retention would do after a session in which every VM succeeds: its points count, too."""
    job, now = planning.job, planning.clock.now()
    if job.retention is None:
        return (), ()
    facts = [fact for fact in planning.repository.retention_facts() if fact.job == job.name]
    made = [
        PointFacts(f"planned-{vm.vm_id}", vm.vm_id, vm.vm_name, job.name, now) for vm in targets
    ]
    plan = plan_retention([*facts, *made], job.retention, now=now)
    going = {point.point_id for point in plan.drops_within_limits()}
    drops = tuple(
        ForgottenByRule(
            point_id=decision.point.point_id,
            vm_name=decision.point.vm_name,
            session_started_at=decision.point.started_at,
            why="; ".join(reason.text for reason in decision.reasons),
        )
        for decision in plan.decisions
        if decision.point.point_id in going
    )
    return drops, tuple(refusal.sentence for refusal in plan.refusals)
