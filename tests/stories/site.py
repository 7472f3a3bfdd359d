"""The site of the simulated month: a cluster with its guests, a repository, and one clock for all of it."""

from __future__ import annotations

import hashlib
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jobs
from jobs import (
    BackupJob,
    BackupSession,
    NullObserver,
    SessionResult,
    VmStory,
    WorkerSpec,
    open_backup_session,
)
from nutanix import AhvClient, ChangedRegions, ClusterConnection
from repository import DiskRecord, Repository, RestorePoint
from simulator import Settings, Simulator

MIB = 1 << 20
KIB64 = 64 * 1024


class StoryClock:
    """The machine's clock plus the days that the story has skipped."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        """The present moment of the story, in UTC."""
        return datetime.now(UTC) + self.ahead

    def monotonic_s(self) -> float:
        """Seconds from an arbitrary start; waiting is real."""
        return time.monotonic()


class DoubtfulClient(AhvClient):
    """A client whose cluster, on request, hides changes from one VM's change lists."""

    hides = False

    def changed_regions(self, disk: Any, reference: Any, **options: Any) -> ChangedRegions:
        """The honest answer, or an empty list."""
        answer = super().changed_regions(disk, reference, **options)
        if self.hides and reference is not None:
            return ChangedRegions(answer.size_bytes, answer.block_size_bytes, ())
        return answer


class MemoryTarget:
    """A blank disk in memory, to be hashed."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.data = bytearray(size_bytes)

    def write_at(self, offset_bytes: int, data: Any) -> None:
        """Keep the bytes."""
        self.data[offset_bytes : offset_bytes + len(data)] = data

    def write_zeros(self, offset_bytes: int, length_bytes: int) -> None:
        """Keep zeros."""
        self.data[offset_bytes : offset_bytes + length_bytes] = bytes(length_bytes)

    def flush(self) -> None:
        """Memory is as durable as the story needs."""


class Died(BaseException):
    """The session's process is gone, from here on nothing of it runs."""


@dataclass
class Site:
    """Everything that exists, what is known to be true of it, and what was counted."""

    simulator: Simulator
    client: DoubtfulClient
    repository: Repository
    workers: list[WorkerSpec]
    clock: StoryClock
    random: random.Random
    truth: dict[tuple[str, str], str] = field(default_factory=dict)
    """By restore point and disk: the digest of what the recovery point held."""
    figures: Counter[str] = field(default_factory=Counter)
    dies_in: str | None = None
    """The VM in whose transfer the next session dies."""

    # -- guests ----------------------------------------------------------------------------------

    def add_vm(self, name: str, *sizes_mib: int) -> None:
        """A new guest with disks that are about a third full."""
        self.simulator.story.add_vm(name, [size * MIB for size in sizes_mib])
        for disk, size in enumerate(sizes_mib):
            for at in range(0, size * MIB, 3 * MIB):
                self.write(name, disk, at, MIB - 5000)

    def write(self, vm: str, disk: int, offset: int, length: int) -> None:
        """A guest writes bytes that nobody has seen before."""
        data = self.random.randbytes(length // 2) + bytes(length - length // 2)
        self.simulator.story.write_raw(vm, offset, data, disk=disk)

    def disk_sizes(self, vm: str) -> list[int]:
        """Sizes of the VM's own disks."""
        return [disk.size_bytes for disk in self.client.vm(self.simulator.vm_id(vm)).data_disks]

    def live_a_day(self, vm: str) -> None:
        """A few writes anywhere, sometimes a range given back."""
        for disk, size in enumerate(self.disk_sizes(vm)):
            for _ in range(self.random.randrange(3)):
                at = self.random.randrange(0, size - KIB64, 512)
                self.write(vm, disk, at, self.random.randrange(512, KIB64, 512))
            if self.random.random() < 0.2:
                at = self.random.randrange(0, size - MIB, 4096)
                self.simulator.story.discard_raw(
                    vm, at, self.random.randrange(4096, MIB, 4096), disk=disk
                )

    def next_day(self) -> None:
        """A day passes, for the cluster and for us."""
        self.clock.ahead += timedelta(days=1)
        self.simulator.story.advance_clock(86_400)

    # -- sessions --------------------------------------------------------------------------------

    def run(self, job: BackupJob) -> SessionResult:
        """One session, step by step as `flows/backup.py` has them."""
        with open_backup_session(
            client=self.client,
            repository=self.repository,
            workers=self.workers,
            job=job,
            observer=NullObserver(),
            clock=self.clock,
        ) as session:
            found = jobs.find_leftovers(
                self.client,
                self.repository,
                cluster_url=self.client.connection.url,
                clock=self.clock,
            )
            cleaned = jobs.remove_leftovers(self.client, self.repository, found, clock=self.clock)
            chosen = jobs.choose_vms(
                self.client, job.scope, never=session.workers.prepare(), disk_rules=job.disk_rules
            )
            session.take(chosen)
            jobs.remember_job(self.repository.live, job, vms=chosen.targets, clock=self.clock)
            for vm in chosen.targets:
                self._run_vm(session, vm.vm_id, vm.vm_name)
            retention = self._retain(session)
            result = session.result(cleaned, retention)
            self.repository.save_report(session.session_id, result.model_dump(mode="json"))
        self._count(result)
        return result

    def _run_vm(self, session: BackupSession, vm_id: str, vm_name: str) -> None:
        story = VmStory.begin(vm_id, vm_name, clock=self.clock, observer=session.observer)
        try:
            story.committed(self._back_up(session, story, vm_id, vm_name))
        except Exception as error:  # noqa: BLE001 - one VM's failure is its result (S10)
            session.finish(story, error)
        else:
            session.finish(story)

    def _back_up(
        self, session: BackupSession, story: VmStory, vm_id: str, vm_name: str
    ) -> RestorePoint:
        snapshot = jobs.take_snapshot(session, vm_id)
        try:
            reference = jobs.find_reference(session, snapshot)
            story.kind = "full" if reference.point is None else "incremental"
            plans = jobs.plan_reads(session, snapshot, reference)
            group = jobs.group_snapshot(session, snapshot)
            try:
                records = self._transfer(session, story, snapshot, reference, plans, group)
                if vm_name == self.dies_in:
                    raise Died
            finally:
                if vm_name != self.dies_in:
                    jobs.remove_group(session, group)
            point = jobs.commit_point(session, snapshot, reference, records)
        except Exception:
            jobs.abandon_snapshot(session, snapshot)
            raise
        self._learn(point)
        jobs.settle_snapshot(session, snapshot, reference)
        return point

    def _transfer(
        self,
        session: BackupSession,
        story: VmStory,
        snapshot: jobs.Snapshot,
        reference: jobs.Reference,
        plans: list[jobs.DiskPlan],
        group: jobs.DiskGroup,
    ) -> list[DiskRecord]:
        attachment = jobs.attach(session, group, {})
        try:
            return [
                jobs.transfer_disk(
                    session,
                    story,
                    disk=disk,
                    index=index,
                    plan=plan,
                    base=reference.base(disk.disk_id),
                    attachment=attachment,
                )
                for index, (disk, plan) in enumerate(zip(snapshot.disks, plans, strict=True))
            ]
        finally:
            jobs.detach(session, attachment)

    def _retain(self, session: BackupSession) -> jobs.RetentionResult | None:
        if session.job.retention is None or any(vm.error for vm in session.results):
            return None
        return jobs.apply_retention(
            self.repository,
            session.job.name,
            session.job.retention,
            now=self.clock.now(),
            by_session=session.session_id,
        )

    @contextmanager
    def dying(self, vm: str) -> Iterator[None]:
        """Sessions inside the block die in the transfer of this VM, and nothing of theirs is tidied up.

        What such a session had on the cluster stays, and its lease ends, as that of a machine that
        lost its power.
        """
        self.dies_in = vm
        before = jobs.session.remove_own_leftovers
        power = jobs.session.WorkerPool.release_all
        jobs.session.remove_own_leftovers = lambda *_, **__: None
        jobs.session.WorkerPool.release_all = lambda *_, **__: None  # type: ignore[method-assign]
        try:
            yield
        finally:
            jobs.session.remove_own_leftovers = before
            jobs.session.WorkerPool.release_all = power  # type: ignore[method-assign]
            self.dies_in = None

    # -- truth -----------------------------------------------------------------------------------

    def _learn(self, point: RestorePoint) -> None:
        """Keep the digest of what the recovery point holds, while it is there."""
        for disk in point.disks:
            reference = disk.source_facts["recovery_point"]["disk_recovery_point_id"]
            frozen = Path(self.simulator.story.frozen(reference)["path"]).read_bytes()
            self.truth[point.id, disk.disk_id] = hashlib.sha256(frozen).hexdigest()

    def check_points(self) -> int:
        """Restore every disk of every restore point and compare; returns how many points there are."""
        points = self.repository.points().points
        for point in points:
            for disk in point.disks:
                target = MemoryTarget(disk.size_bytes)
                self.repository.open_disk(point, disk.disk_id).restore_to(
                    target, target_is_blank=True
                )
                digest = hashlib.sha256(target.data).hexdigest()
                assert digest == self.truth[point.id, disk.disk_id], (point.vm_name, disk.label)
                self.figures["disks restored and compared"] += 1
        return len(points)

    def size_bytes(self) -> int:
        """What the repository takes on its disk."""
        root = Path(self.repository.url.removeprefix("file://"))
        return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())

    def _count(self, result: SessionResult) -> None:
        self.figures["sessions"] += 1
        self.figures["leftovers removed"] += len(result.cleaned)
        for vm in result.vms:
            self.figures["VMs that failed" if vm.error else "restore points made"] += 1
            self.figures["provisioned MiB"] += vm.provisioned_bytes // MIB
            self.figures["read KiB"] += vm.read_bytes // 1024
            self.figures["stored KiB"] += vm.stored_bytes // 1024
            for disk in vm.disks:
                self.figures[f"disks read: {disk.read_cause}"] += 1
        if result.retention is not None:
            self.figures["restore points forgotten"] += len(result.retention.forgotten)


@contextmanager
def open_site(folder: Path, seed: str) -> Iterator[Site]:
    """A cluster with eight guests, one with a volume group, and an empty repository."""
    clock = StoryClock()
    with (
        Simulator(size=0.02, settings=QUICK, further_clusters=["second-cluster"]) as simulator,
        DoubtfulClient(_connection(simulator)) as client,
        Repository.create(f"file://{folder}/repository", clock=clock) as repository,
    ):
        workers = [
            WorkerSpec(vm=each.name, device_root=str(each.device_root), disk_timeout_s=4)
            for each in simulator.workers
        ]
        site = Site(
            simulator,
            client,
            repository,
            workers,
            clock,
            random.Random(seed),
        )
        for name, sizes in GUESTS.items():
            site.add_vm(name, *sizes)
        simulator.story.add_volume_group("db1-log", [6 * MIB], vm="db1")
        yield site


QUICK = Settings(task_s=0.005, power_on_s=0.02)
GUESTS = {
    "web1": (10,),
    "web2": (8,),
    "db1": (10, 9),
    "db2": (8, 8),
    "files1": (12, 7),
    "app1": (9,),
    "app2": (8, 6),
    "mail1": (11,),
}


def _connection(simulator: Simulator) -> ClusterConnection:
    return ClusterConnection(
        url=simulator.pc_url,
        username=simulator.username,
        password=simulator.password,
        ca_file=simulator.ca_file,
        prism_element_port=int(simulator.pe_url.rpartition(":")[2]),
    )
