"""One run: the handles that every step works with, opened and closed in one place."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from datetime import datetime

from jobs.admission import Admission
from jobs.errors import JobError, SessionStopped
from jobs.journal import Journal
from jobs.leases import LeaseHolder
from jobs.marks import object_name
from jobs.model import BackupJob, WorkerSpec
from jobs.progress import Observer
from jobs.reconcile import remove_own_leftovers
from jobs.results import JobPart, SessionResult, VmResult, worst_status
from jobs.retention import RetentionResult
from jobs.scope import ALL_DISKS, ChosenVms, VmTarget
from jobs.selection import DiskRule
from jobs.slots import Slots
from jobs.space import SpaceWatch, check_repository
from jobs.stop_requests import forget_request
from jobs.story import VmStory
from jobs.throttle import ThrottleEngine, open_throttle
from jobs.throttle_lane import SharedLimits
from jobs.throttle_rules import ThrottleRule, rules_of_job
from jobs.worker_checks import QueueCheck
from jobs.worker_pool import WorkerPool
from nutanix import AhvClient
from repository import Clock, Repository, Stopped, SystemClock, WriteSession

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The open handles of one run. Thread-safe; shared by everything the run does."""

    session_id: str
    job_name: str
    client: AhvClient
    repository: Repository
    journal: Journal
    workers: WorkerPool
    observer: Observer
    throttle: ThrottleEngine
    stop: threading.Event
    """Set: transfers end at the next chunk and raise, and what is held is released."""
    clock: Clock
    started_at: datetime
    started_s: float

    def object_name(self, vm_name: str) -> str:
        """The marked name for what this run creates for a VM (N10)."""
        return object_name(
            repository_id=self.repository.id,
            session_id=self.session_id,
            job=self.job_name,
            vm_name=vm_name,
        )

    def raise_if_stopped(self) -> None:
        """Raise `SessionStopped` once somebody asked the run to stop."""
        if self.stop.is_set():
            raise SessionStopped("it was interrupted")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupSession(Session):
    """A run that makes restore points."""

    job: BackupJob
    writer: WriteSession
    admission: Admission
    """Whether a further VM may start."""
    part: JobPart | None = None
    """Which of the job's VMs it takes; None for all."""
    space: SpaceWatch = field(default_factory=SpaceWatch)
    results: list[VmResult] = field(default_factory=list)
    """One per VM that ended, in the order in which they ended; a retried VM has its last."""
    results_lock: threading.Lock = field(default_factory=threading.Lock)
    disk_rules: dict[str, DiskRule] = field(default_factory=dict)
    """By VM id, which disks are wanted."""
    warnings: list[str] = field(default_factory=list)
    """What concerns the session as a whole."""
    left_out: list[str] = field(default_factory=list)
    """VMs that the scope selects and that are not backed up, with the reason."""

    def take(self, chosen: ChosenVms) -> None:
        """Keep what was found out about the scope: rules, and what the report must not leave out."""
        self.admission.expect(len(chosen.targets))
        self.disk_rules.update({vm.vm_id: vm.disk_rule for vm in chosen.targets})
        self.left_out.extend(str(each) for each in chosen.left_out)
        self.warnings.extend(chosen.warnings)
        for name, error in chosen.unknown_vms.items():
            self._keep(self._begin(VmTarget(name, name)).result(error))

    def disk_rule(self, vm_id: str) -> DiskRule:
        """Which disks of a VM are wanted (E3)."""
        return self.disk_rules.get(vm_id, ALL_DISKS)

    def warn(self, text: str) -> None:
        """Keep a warning about the session as a whole for its result, and show it now."""
        self.warnings.append(text)
        self.observer.session_step(f"warning: {text}")

    def finish(self, story: VmStory, error: BaseException | None = None) -> VmResult:
        """A VM's part is over: keep its result, in place of that of an earlier try."""
        stopped = isinstance(error, Stopped | SessionStopped)
        if stopped and self.admission.is_closed:
            error = SessionStopped(self.admission.refusal() or "it was interrupted")
        result = self._keep(story.result(error, stopped=stopped))
        tripped = None if stopped else self.admission.ended(error)
        if tripped is not None:
            self.warn(f"no further VM is started: {tripped}")
        return result

    def expected_kind(self, vm_id: str) -> str:
        """`incremental` if this job has a restore point of the VM to build on, else `full`.

        For names only: what was made is in the result. Raises the repository's errors.
        """
        points = self.repository.points(vm_id).points
        return "incremental" if any(each.job == self.job.name for each in points) else "full"

    def finish_unstarted(self, vms: Sequence[VmTarget], error: JobError | None = None) -> None:
        """VMs that never began are in the result too, each with `error` or why it did not begin."""
        why = self.admission.refusal() or "it ended before this VM began"
        for vm in self._without_result(vms):
            story = self._begin(vm)
            self._keep(story.result(error or SessionStopped(why), stopped=error is None))

    def to_try_again(self, vms: Sequence[VmTarget]) -> list[VmTarget]:
        """The VMs that failed, and those that were not started because others had failed (J4)."""
        failed = {result.vm_id for result in self.results if result.status == "failed"}
        return [vm for vm in vms if vm.vm_id in failed] + self._without_result(vms)

    def wind_down(self, why: str, *, at_once: bool = False) -> None:
        """Start no further VM (J7); `at_once` also stops those that run, at their next chunk."""
        self.admission.close(why)
        if at_once:
            self.stop.set()

    def _without_result(self, vms: Sequence[VmTarget]) -> list[VmTarget]:
        begun = {result.vm_id for result in self.results}
        return [vm for vm in vms if vm.vm_id not in begun]

    def _begin(self, vm: VmTarget) -> VmStory:
        return VmStory.begin(vm.vm_id, vm.vm_name, clock=self.clock, observer=self.observer)

    def _keep(self, result: VmResult) -> VmResult:
        with self.results_lock:
            earlier = [each for each in self.results if each.vm_id == result.vm_id]
            kept = result.after(earlier[0]) if earlier else result
            # One step, because others read the list without asking.
            self.results[:] = [each for each in self.results if each not in earlier] + [kept]
        return kept

    def result(
        self, cleaned: Sequence[str], retention: RetentionResult | None = None
    ) -> SessionResult:
        """The session as it stands."""
        results = tuple(sorted(self.results, key=lambda vm: (vm.vm_name, vm.vm_id)))
        return SessionResult(
            session_id=self.session_id,
            job=self.job.name,
            started_at=self.started_at,
            duration_s=self.clock.monotonic_s() - self.started_s,
            status="stopped" if self.stop.is_set() else worst_status(results, self.warnings),
            vms=results,
            part=self.part,
            warnings=tuple(self.warnings),
            left_out=tuple(self.left_out),
            cleaned=tuple(cleaned),
            retention=retention,
        )


@contextmanager
def open_session(
    *,
    client: AhvClient,
    repository: Repository,
    workers: Sequence[WorkerSpec],
    job_name: str,
    observer: Observer,
    clock: Clock | None = None,
    slots: Slots | None = None,
    queue_check: QueueCheck | None = None,
    shared_limits: SharedLimits | None = None,
    limit_rules: tuple[ThrottleRule, ...] = (),
) -> Iterator[Session]:
    """Open a run; on every way out, power off the workers we powered on and end the lease.

    `client` and `repository` stay the caller's to close. `slots` counts over everybody who shares
    the workers (this run alone, unless given); `queue_check` knows the Prefect workers. Limits hold
    over whatever `shared_limits` reaches, by default this process; `limit_rules` hold beside the
    repository's own.
    """
    session_id, clock = str(uuid.uuid4()), clock or SystemClock()
    stop = threading.Event()
    lease = LeaseHolder(
        repository.live, session_id=session_id, job=job_name, clock=clock, on_lapse=stop.set
    )
    journal = Journal(
        repository.live, session_id=session_id, cluster_url=client.connection.url, clock=clock
    )
    pool = WorkerPool(
        client,
        workers,
        journal=journal,
        records=repository.live,
        clock=clock,
        slots=slots,
        queue_check=queue_check,
    )
    with ExitStack() as stack:
        lease.open()
        stack.callback(lease.close)
        stack.callback(forget_request, repository.live, session_id)
        stack.callback(remove_own_leftovers, client, repository, session_id=session_id, clock=clock)
        stack.callback(lambda: pool.release_all(hurry=stop.is_set()))
        throttle = stack.enter_context(
            open_throttle(repository, shared=shared_limits, clock=clock, extra_rules=limit_rules)
        )
        yield Session(
            session_id=session_id,
            job_name=job_name,
            client=client,
            repository=repository,
            journal=journal,
            workers=pool,
            observer=observer,
            throttle=throttle,
            stop=stop,
            clock=clock,
            started_at=clock.now(),
            started_s=clock.monotonic_s(),
        )


@contextmanager
def open_backup_session(
    *,
    client: AhvClient,
    repository: Repository,
    workers: Sequence[WorkerSpec],
    job: BackupJob,
    observer: Observer,
    part: JobPart | None = None,
    clock: Clock | None = None,
    slots: Slots | None = None,
    queue_check: QueueCheck | None = None,
    shared_limits: SharedLimits | None = None,
) -> Iterator[BackupSession]:
    """Open a run that makes restore points, of the job's VMs or a part; otherwise as `open_session`.

    Raises `TransferUnencrypted` where its data would go in the clear against a rule.
    """
    opened = open_session(
        client=client,
        repository=repository,
        workers=workers,
        job_name=job.name,
        observer=observer,
        clock=clock,
        slots=slots,
        queue_check=queue_check,
        shared_limits=shared_limits,
        limit_rules=rules_of_job(job.name, job.limits),
    )
    with ExitStack() as stack:
        run = stack.enter_context(opened)
        run.throttle.require_encryption()
        writer = stack.enter_context(repository.write_session(run.session_id))
        handles = {each.name: getattr(run, each.name) for each in fields(run)}
        admission = Admission(job, clock=run.clock)
        session = BackupSession(**handles, job=job, part=part, writer=writer, admission=admission)
        nearly_full = check_repository(repository, job.space)
        if nearly_full is not None:
            log.warning("Of the session of job %s: %s", job.name, nearly_full)
            session.warnings.append(nearly_full)
        yield session
