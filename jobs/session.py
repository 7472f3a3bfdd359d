"""One run: the handles that every step works with, opened and closed in one place."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from datetime import datetime

from jobs.errors import SessionStopped
from jobs.journal import Journal
from jobs.leases import LeaseHolder
from jobs.marks import object_name
from jobs.model import BackupJob, WorkerSpec
from jobs.progress import Observer
from jobs.reconcile import remove_own_leftovers
from jobs.results import SessionResult, VmResult, worst_status
from jobs.retention import RetentionResult
from jobs.scope import ALL_DISKS, ChosenVms, VmTarget
from jobs.selection import DiskRule
from jobs.slots import Slots
from jobs.space import SpaceWatch, check_repository
from jobs.story import VmStory
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
    space: SpaceWatch = field(default_factory=SpaceWatch)
    results: list[VmResult] = field(default_factory=list)
    """One per VM that ended, in the order in which they ended."""
    disk_rules: dict[str, DiskRule] = field(default_factory=dict)
    """By VM id, which disks are wanted."""
    warnings: list[str] = field(default_factory=list)
    """What concerns the session as a whole."""
    left_out: list[str] = field(default_factory=list)
    """VMs that the scope selects and that are not backed up, with the reason."""

    def take(self, chosen: ChosenVms) -> None:
        """Keep what was found out about the scope: rules, and what the report must not leave out."""
        self.disk_rules.update({vm.vm_id: vm.disk_rule for vm in chosen.targets})
        self.left_out.extend(str(each) for each in chosen.left_out)
        self.warnings.extend(chosen.warnings)
        for name, error in chosen.unknown_vms.items():
            story = VmStory.begin(name, name, clock=self.clock, observer=self.observer)
            self.finish(story, error)

    def disk_rule(self, vm_id: str) -> DiskRule:
        """Which disks of a VM are wanted (E3)."""
        return self.disk_rules.get(vm_id, ALL_DISKS)

    def finish(self, story: VmStory, error: BaseException | None = None) -> VmResult:
        """A VM's part is over: keep its result."""
        stopped = isinstance(error, Stopped | SessionStopped)
        result = story.result(error, stopped=stopped)
        self.results.append(result)
        return result

    def finish_unstarted(self, vms: Sequence[VmTarget]) -> None:
        """VMs that never began are in the result too: nothing is skipped in silence."""
        begun = {result.vm_id for result in self.results}
        for vm in vms:
            if vm.vm_id not in begun:
                story = VmStory.begin(
                    vm.vm_id, vm.vm_name, clock=self.clock, observer=self.observer
                )
                self.finish(story, SessionStopped("it ended before this VM began"))

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
) -> Iterator[Session]:
    """Open a run; on every way out, power off the workers we powered on and end the lease.

    `client` and `repository` stay the caller's to close. `slots` counts over everybody who shares
    the workers (this run alone, unless given); `queue_check` knows the Prefect workers.
    """
    session_id, clock = str(uuid.uuid4()), clock or SystemClock()
    lease = LeaseHolder(repository.live, session_id=session_id, job=job_name, clock=clock)
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
    stop = threading.Event()
    with ExitStack() as stack:
        lease.open()
        stack.callback(lease.close)
        stack.callback(remove_own_leftovers, client, repository, session_id=session_id, clock=clock)
        stack.callback(lambda: pool.release_all(hurry=stop.is_set()))
        yield Session(
            session_id=session_id,
            job_name=job_name,
            client=client,
            repository=repository,
            journal=journal,
            workers=pool,
            observer=observer,
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
    clock: Clock | None = None,
    slots: Slots | None = None,
    queue_check: QueueCheck | None = None,
) -> Iterator[BackupSession]:
    """Open a run that makes restore points; otherwise as `open_session`."""
    opened = open_session(
        client=client,
        repository=repository,
        workers=workers,
        job_name=job.name,
        observer=observer,
        clock=clock,
        slots=slots,
        queue_check=queue_check,
    )
    with opened as run, repository.write_session(run.session_id) as writer:
        handles = {each.name: getattr(run, each.name) for each in fields(run)}
        session = BackupSession(**handles, job=job, writer=writer)
        nearly_full = check_repository(repository, job.space)
        if nearly_full is not None:
            log.warning("Of the session of job %s: %s", job.name, nearly_full)
            session.warnings.append(nearly_full)
        yield session
