"""What can go wrong in a session, as types.

JobError
├── JobInvalid          the job as written cannot run: name the field, change the job
├── NothingToBackUp     the scope selects no VM
├── NoWorker            no configured worker can be used for a VM
├── DeployRefused       a worker cannot be made as asked; nothing was done
├── WorkerBusy          a worker that is in use cannot be removed
├── WorkerLost          a worker died under a transfer: another one may go on
├── VmBusy              another session is backing up this VM right now
├── MoveFailed          a mover could not move a VM's disks, and no other worker could
├── MoveWithdrawn       the control side ended a move while its mover was at work, or before
├── DisksUnexpected     a volume group does not hold the disks that were asked for
├── SnapshotIncomplete  a recovery point does not hold what was asked for
├── ConsistencyNotReached  the job insists on application consistency, and it was not reached
├── StorageNearlyFull   the cluster has too little free space for a snapshot
├── HookFailed          a program of the operator's failed before or after the session
├── RestoreRefused      the restore as asked would do harm or cannot be done
├── LimitsUnavailable   the limits that transfers share cannot be asked
├── ThrottleInvalid     the throttle rules cannot be read, or one cannot be carried out
├── RuleBuiltIn         the throttle rule about public addresses cannot be removed
├── TransferUnencrypted a throttle rule asks for encryption, and the data would go in the clear
├── SessionStopped      the operator or the system asked the session to stop
├── BackupsLate         VMs have no good restore point that is young enough
├── DamageFound         verification has open findings
└── SessionFailed       the session ended, and at least one VM has no new restore point
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobs.results import SessionResult
    from repository import VerifyReport


class JobError(Exception):
    """Root of what `jobs` raises. `is_transient` says whether the same call may succeed later."""

    is_transient = False


class JobInvalid(JobError):
    """A job definition that cannot run. The operator changes `field`."""

    def __init__(self, field: str, reason: str) -> None:
        self.field, self.reason = field, reason
        super().__init__(f"The job cannot run: {field}: {reason}")


class NothingToBackUp(JobError):
    """The scope selects no VM."""

    def __init__(self, scope: str) -> None:
        self.scope = scope
        super().__init__(
            f"Nothing to back up: {scope} selects no VM. `ahvault vms` lists what the cluster has."
        )


class NoWorker(JobError):
    """No configured worker can serve (W4). `reasons` says why, worker by worker."""

    def __init__(self, purpose: str, reasons: Mapping[str, str]) -> None:
        self.purpose, self.reasons = purpose, dict(reasons)
        told = "; ".join(f"{name}: {why}" for name, why in self.reasons.items())
        super().__init__(
            f"No worker can be used to {purpose}: {told or 'none is configured'}. "
            "Name at least one worker VM of the cluster that can be powered on."
        )


class DeployRefused(JobError):
    """A worker cannot be made as it was asked for. Nothing was done on the cluster."""

    def __init__(self, worker: str, reason: str) -> None:
        self.worker, self.reason = worker, reason
        super().__init__(f"Worker {worker} was not deployed: {reason}")


class WorkerBusy(JobError):
    """Somebody uses the worker, so it stays in the settings (W14)."""

    def __init__(self, worker: str, use: str) -> None:
        self.worker, self.use = worker, use
        super().__init__(
            f"Worker {worker} cannot be removed: {use}. "
            f"Run `ahvault workers drain {worker} --wait` first, then remove it."
        )


class WorkerLost(JobError):
    """A worker, or what moves data on it, died under a transfer. Another worker can go on."""

    def __init__(self, worker: str, reason: str) -> None:
        self.worker, self.reason = worker, reason
        super().__init__(f"Worker {worker} was lost: {reason}.")


class SnapshotIncomplete(JobError):
    """The recovery point lacks a disk of the VM, so a restore point of it would be a lie."""

    def __init__(self, vm_name: str, disks: Sequence[str]) -> None:
        self.vm_name, self.disks = vm_name, tuple(disks)
        super().__init__(
            f"The recovery point of {vm_name} does not hold disk {', '.join(disks)}. "
            "Look at the VM's disks on the cluster, then run the job again."
        )


class ConsistencyNotReached(JobError):
    """No application-consistent recovery point could be had, and the job accepts nothing less (N1)."""

    def __init__(self, vm_name: str, why: str) -> None:
        self.vm_name, self.why = vm_name, why
        super().__init__(
            f"{vm_name} was not backed up: application consistency was not reached, {why}. Mend the "
            "guest tools in the VM, or let the job warn about it or accept it (if_not_consistent)."
        )


class StorageNearlyFull(JobError):
    """The VM was skipped before its snapshot, because snapshots need space (P4)."""

    def __init__(self, vm_name: str, container: str, free_percent: float, limit: float) -> None:
        self.vm_name, self.container = vm_name, container
        self.free_percent, self.limit = free_percent, limit
        super().__init__(
            f"{vm_name} was skipped before its snapshot: storage container {container} has "
            f"{free_percent:.1f} % free, and the job's limit is {limit:g} %. Make room on the cluster."
        )


class VmBusy(JobError):
    """Another session began this VM earlier and has not ended; one at a time (S11)."""

    def __init__(self, vm_name: str, session_id: str) -> None:
        self.vm_name, self.session_id = vm_name, session_id
        super().__init__(
            f"{vm_name} is being backed up by session {session_id[:8]}. Run the job again when that has ended."
        )


class MoveFailed(JobError):
    """The mover of a VM's disks failed in a way that would meet another worker as well."""

    def __init__(self, vm_name: str, worker: str, why: str) -> None:
        self.vm_name, self.worker, self.why = vm_name, worker, why
        super().__init__(f"The disks of {vm_name} were not moved by worker {worker}: {why}")


class MoveWithdrawn(JobError):
    """A mover's permission is gone: its session ended, or gave the VM to another worker."""

    def __init__(self, move_id: str, why: str = "its session has withdrawn it") -> None:
        self.move_id, self.why = move_id, why
        super().__init__(
            f"Move {move_id} ends: {why}. What it has stored counts for nothing by itself, and is "
            "used again by the next move of this VM."
        )


class DisksUnexpected(JobError):
    """The cluster made a volume group with other disks than asked for; nothing of it was used."""

    def __init__(self, name: str, wanted: Sequence[int], found: Sequence[int]) -> None:
        self.name, self.wanted, self.found = name, tuple(wanted), tuple(found)
        super().__init__(
            f"Volume group {name} should have disks of {list(wanted)} bytes at places 0 to "
            f"{len(wanted) - 1}, but has {list(found)}. Run the job again; if it stays so, report it."
        )


class HookFailed(JobError):
    """A hook did not do its work; `reason` says how it ended and what it printed last."""

    def __init__(self, when: str, program: str, reason: str) -> None:
        self.when, self.program, self.reason = when, program, reason
        super().__init__(f"The hook {when} the session, {program}, failed: {reason}")


class RestoreRefused(JobError):
    """The restore as asked cannot be done, or would harm something that exists."""

    def __init__(self, subject: str, reason: str) -> None:
        self.subject, self.reason = subject, reason
        super().__init__(f"{subject} was not restored: {reason}")


class LimitsUnavailable(JobError):
    """Whoever holds the shared limits does not answer; transfers go on at their last share."""

    is_transient = True

    def __init__(self, key: str, reason: str) -> None:
        self.key, self.reason = key, reason
        super().__init__(f"The shared limit {key} cannot be asked: {reason}")


class ThrottleInvalid(JobError):
    """A throttle rule that cannot be carried out, or a record of rules that cannot be read."""

    def __init__(self, field: str, reason: str) -> None:
        self.field, self.reason = field, reason
        super().__init__(f"The throttle rule cannot be used: {field}: {reason}")


class RuleBuiltIn(JobError):
    """A throttle rule that is always there."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"The throttle rule {name} is built in and cannot be removed, only adjusted: "
            f"`ahvault throttle set {name} --no-encrypt` lets data go in the clear, without "
            "--limit it limits nothing."
        )


class TransferUnencrypted(JobError):
    """What would move to or from the store could be read on its way; nothing was moved."""

    def __init__(self, url: str, host: str, address: str, rule: str) -> None:
        self.url, self.host, self.address, self.rule = url, host, address, rule
        place = address if host == address else f"{host} ({address})"
        super().__init__(
            f"No data moves to or from repository {url}: it lies at the public address {place}, "
            "neither the transport nor the repository encrypts, and throttle rule "
            f"{rule} asks for one of them. Use a transport that encrypts, such as an https:// "
            "endpoint; or copy to an encrypted repository, made with `ahvault repo init --encrypt`; "
            f"or let data go in the clear with `ahvault throttle set {rule} --no-encrypt`."
        )


class SessionStopped(JobError):
    """Somebody asked the session to stop; what it had on the cluster was released."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(
            f"The session was stopped: {why}. What is stored so far is used again by the next run."
        )


class SessionFailed(JobError):
    """At least one VM has no new restore point. `result` has the story of every VM."""

    def __init__(self, result: SessionResult) -> None:
        self.result = result
        failed = [vm for vm in result.vms if vm.status == "failed"]
        if not failed:
            why = next((vm.error for vm in result.vms if vm.error), "it selected no VM")
            super().__init__(f"No VM was backed up: {why}")
            return
        first = failed[0]
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        super().__init__(
            f"{len(failed)} of {len(result.vms)} VMs failed: {first.vm_name}: {first.error}{more}"
        )


class BackupsLate(JobError):
    """VMs have no good restore point that is young enough. `vm_names` are those, the longest first."""

    def __init__(self, told: str, vm_names: Sequence[str]) -> None:
        self.vm_names = tuple(vm_names)
        super().__init__(told)


class DamageFound(JobError):
    """What is stored is not what was written. `object_keys` names the damaged objects."""

    def __init__(self, object_keys: Sequence[str], vm_names: Sequence[str]) -> None:
        self.object_keys, self.vm_names = tuple(object_keys), tuple(vm_names)
        count = len(self.object_keys)
        objects = "1 object is" if count == 1 else f"{count} objects are"
        concerned = (
            f"restore points of {', '.join(self.vm_names)}" if vm_names else "no restore point"
        )
        super().__init__(
            f"{objects} not what was written, which concerns {concerned}. Run `ahvault verify` for "
            "the byte ranges, then `ahvault repair`; the next backups heal what still exists."
        )

    @classmethod
    def of(cls, report: VerifyReport) -> DamageFound:
        """All that is known to be wrong, by this verification or an earlier one."""
        findings = [*report.findings, *(each.finding for each in report.still_open)]
        vm_names = {part.vm_name for finding in findings for part in finding.concerned}
        return cls(sorted({finding.key for finding in findings}), sorted(vm_names))
