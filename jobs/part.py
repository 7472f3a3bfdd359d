"""Which of its job's VMs a session takes, where that is not all of them: a retry, or a selection (J5).

What failed is read from the sessions' own reports beside the restore points, so a retry needs no
history of Prefect's. A session of a part is a session of its job like any other, and leaves the job's
record of what it protects alone.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import chain

from jobs.errors import JobInvalid, NothingToBackUp
from jobs.figures import utc_text
from jobs.known_jobs import known_jobs
from jobs.results import JobPart, SessionResult, VmResult
from jobs.scope import ChosenVms, LeftOut, VmTarget, near_names
from nutanix import VmAmbiguous
from repository import Repository

log = logging.getLogger(__name__)

_REPORTS_AT_FIRST = 20
"""Reports of the newest sessions of any job; nearly always the job's own is among them."""


def part_of_job(
    repository: Repository, job: str, *, only: Sequence[str] = (), retry_failed: bool = False
) -> JobPart | None:
    """What a session of the job was asked to take; None for all of it.

    Raises `JobInvalid` when both are asked for, or when there is no session that a retry could
    follow.
    """
    if only and retry_failed:
        raise JobInvalid("only", "either name VMs or retry those that failed, not both")
    if retry_failed:
        return _failed_part(repository, job)
    return JobPart(vms=tuple(dict.fromkeys(only))) if only else None


def nothing_to_retry(part: JobPart | None, job: str) -> str | None:
    """Why a retry has nothing to do, in a sentence; None where there is something."""
    if part is None or part.vms:
        return None
    at = f" of {utc_text(part.retried_at)}" if part.retried_at else ""
    return (
        f"Nothing to retry: after session {(part.retry_of or '')[:8]}{at}, the newest of job {job}, "
        "every VM that it took has its restore point."
    )


def narrow_to(chosen: ChosenVms, part: JobPart | None, job: str) -> ChosenVms:
    """The VMs of the part among those of the job's scope, in the scope's order.

    Raises `JobInvalid`, with the nearest names, for a VM that was asked for and is not in the scope;
    `NothingToBackUp` when no VM of a retry is in the scope any more. A single one that is not is left
    out, and told.
    """
    if part is None:
        return chosen
    wanted = part.vm_ids or part.vms
    taken = tuple(vm for vm in chosen.targets if vm.vm_id in wanted or vm.vm_name in wanted)
    unknown = {name: error for name, error in chosen.unknown_vms.items() if name in wanted}
    left_out = tuple(vm for vm in chosen.left_out if vm.vm_id in wanted or vm.vm_name in wanted)
    keys = [(vm.vm_id, vm.vm_name) for vm in taken] + [(vm.vm_id, vm.vm_name) for vm in left_out]
    found = {*unknown, *chain.from_iterable(keys)}
    missing = [key for key in wanted if key not in found]
    if part.retry_of is None:
        _refuse_strangers(missing, left_out, chosen, job)
        _refuse_namesakes(taken, wanted)
    elif not taken and not unknown:
        raise NothingToBackUp(
            f"what failed in session {part.retry_of[:8]} ({', '.join(part.vms)}) is not in the job's "
            "scope any more, so the retry"
        )
    names = dict(zip(wanted, part.vms, strict=True))
    gone = tuple(
        LeftOut(key, names[key], "it is not in the job's scope any more") for key in missing
    )
    return replace(
        chosen,
        targets=taken,
        left_out=(*left_out, *gone),
        unknown_vms=unknown,
        errors=tuple(unknown.values()),
    )


def _refuse_strangers(
    missing: Sequence[str], left_out: Sequence[LeftOut], chosen: ChosenVms, job: str
) -> None:
    for vm in left_out:
        raise JobInvalid("only", f"job {job} leaves out {vm.vm_name}: {vm.why}")
    for name in missing:
        near = near_names(name, (vm.vm_name for vm in chosen.targets))
        hint = f"did you mean {' or '.join(near)}?" if near else "`ahvault plan` lists its VMs"
        raise JobInvalid("only", f"job {job} has no VM {name} in its scope; {hint}")


def _refuse_namesakes(taken: Sequence[VmTarget], wanted: Collection[str]) -> None:
    for name in wanted:
        ids = sorted(vm.vm_id for vm in taken if vm.vm_name == name)
        if len(ids) > 1:
            raise VmAmbiguous(name, ids)


def _failed_part(repository: Repository, job: str) -> JobPart:
    """The VMs whose last try failed or was stopped, as of the job's newest session.

    A session of a part tells of that part alone. So its results are laid over those of the sessions
    before it, back to the newest one that took the whole job.
    """
    newest: SessionResult | None = None
    last: list[VmResult] = []
    told: set[str] = set()
    for session in _sessions_newest_first(repository, job):
        newest = newest or session
        last += (vm for vm in session.vms if vm.vm_id not in told)
        # By name as well: a VM that the cluster did not know has its name for an id.
        told.update(*((vm.vm_id, vm.vm_name) for vm in session.vms))
        if session.part is None:
            break
    if newest is None:
        near = near_names(job, known_jobs(repository.live))
        hint = f"; did you mean {near[0]}?" if near else "; run it without a retry first"
        raise JobInvalid("retry_failed", f"the repository has no session of job {job}{hint}")
    failed = [vm for vm in last if vm.status in ("failed", "stopped")]
    return JobPart(
        retry_of=newest.session_id,
        retried_at=newest.started_at,
        vms=tuple(vm.vm_name for vm in failed),
        vm_ids=tuple(vm.vm_id for vm in failed),
    )


def _sessions_newest_first(repository: Repository, job: str) -> Iterator[SessionResult]:
    """The job's sessions on record. Few reports are read where few will do."""
    seen: set[str] = set()
    for newest in (_REPORTS_AT_FIRST, None):
        listing = repository.reports(newest=newest)
        for damaged in listing.damaged:
            log.warning("%s cannot be read: %s", damaged.key, damaged.detail)
        for report in reversed(listing.reports):
            if report.get("job") == job and report["session_id"] not in seen:
                seen.add(report["session_id"])
                yield SessionResult.model_validate(report)
