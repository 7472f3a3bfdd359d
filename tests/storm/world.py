"""One installation in the storm: sessions one after another over one repository, looked over after each."""

from __future__ import annotations

import filecmp
import random
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

from blocks import AhvCluster, BackupRepository, BackupWorkers
from flows.backup import backup
from flows.restore import restore_vm
from jobs import (
    BackupJob,
    JobError,
    NullObserver,
    Scope,
    SessionFailed,
    WorkerSpec,
    find_leftovers,
    observed_by,
    remove_leftovers,
)
from jobs.journal import all_entries
from jobs.leases import leased_sessions
from jobs.marks import repository_prefix
from jobs.policies import RetryPolicy
from jobs.reconcile import CREATION_LIFE, newest_points
from jobs.session import BackupSession
from jobs.worker_power import release_worker
from nutanix import AhvClient, NutanixError
from nutanix import RetryPolicy as CallRetries
from repository import FileTarget, Repository, RepositoryError, RestorePoint, SystemClock
from simulator import Settings, Simulator
from tests.storm.weather import Weather

VMS = ("web01", "db01", "files01")
SETTINGS = Settings(task_s=0.005, power_on_s=0.01, region_count_max=6)
"""Few regions to a page, so that lists have pages to be cut off between."""
IMPATIENT = CallRetries(delay_s_first=0.002, delay_s_max=0.02)
TYPED = (NutanixError, JobError, RepositoryError)
SENTENCE = re.compile(r"[A-Z0-9\"'h].*[.?!)]$", re.DOTALL)
OBJECT = re.compile(
    r"web01|db01|files01|ahvault-|[0-9a-f]{8}-[0-9a-f]{4}-|https://|list [a-zA-Z ]+s\b"
)
"""One by its name, id or address, or the list of all of a kind."""
NEXT_STEP = re.compile(
    r"[Tt]ry again|Look |look at|Run |run |Check |Give |Name |Mend |Set |Make |Update |Is the worker|`ahvault"
)
MiB = 1 << 20


@contextmanager
def impatient() -> Iterator[None]:
    """A session that waits milliseconds where a real one waits seconds."""
    connection = AhvCluster.connection

    def client(self: AhvCluster) -> AhvClient:
        hurried = connection(self).model_copy(update={"operation_timeout_s": 1.0})
        return AhvClient(hurried, retries=IMPATIENT)

    with ExitStack() as stack:
        stack.enter_context(patch.object(AhvCluster, "client", client))
        for name, value in (("CHANGE_PAUSE_S", 0.005), ("FRESH_WAIT_S", 0.5), ("POLL_S_FIRST", 0.003),
                            ("POLL_S_MAX", 0.05)):  # fmt: skip
            stack.enter_context(patch(f"nutanix.api.{name}", value))
        for place, value in (
            ("nutanix.iscsi_disks.BUSY_PAUSE_S", 0.001),
            ("jobs.worker_pool.PATIENCE_S", 1.5),
            ("jobs.worker_pool.SLOT_POLL_S", 0.05),
            ("jobs.worker_power.POLL_S", 0.02),
        ):
            stack.enter_context(patch(place, value))
        waits = {"shutdown_timeout_s": 0.3}
        stack.enter_context(patch.dict(release_worker.__kwdefaults__, waits))
        yield


class Later(SystemClock):
    """A clock that is ahead: by then nothing that was asked for can still appear."""

    def now(self) -> datetime:
        return super().now() + CREATION_LIFE + timedelta(minutes=1)


class HostFailure(NullObserver):
    """Takes a host down as soon as the first snapshot is taken."""

    def __init__(self, simulator: Simulator, host: str | None) -> None:
        self._simulator, self._host = simulator, host

    def step(self, vm_id: str, text: str) -> None:
        host, self._host = (self._host, None) if "snapshot" in text else (None, self._host)
        if host is not None:
            self._simulator.story.set_host_state(host, is_up=False)


class World:
    """A simulated cluster with a repository of its own, and what came of its sessions so far."""

    def __init__(self, simulator: Simulator, folder: Path) -> None:
        self.simulator, self.folder = simulator, folder
        self.url = f"file://{folder}/repository"
        Repository.create(self.url).close()
        self.seen: set[str] = set()
        """Ids of the restore points that were compared."""
        self.outcomes: Counter[str] = Counter()
        self.messages: set[str] = set()
        self._errors: list[BaseException] = []

    def run(self, weather: Weather) -> None:
        """One session in this weather, then fair weather and the accounts; AssertionError names the seed."""
        chance = random.Random(f"story/{weather.seed}")
        self._move_the_world(chance)
        self.simulator.story.set_faults(weather.plan())
        job = BackupJob(
            name="storm",
            retry=RetryPolicy(
                times=chance.choice((0, 0, 1, 2)), wait_minutes=0, started_by_hand=True
            ),
            parallel_vms=2,
            scope=Scope(vms=tuple(chance.sample(VMS, chance.randint(1, 3)))),
        )
        vm_errors = self._errors = []
        ended: BaseException | None = None
        with observed_by(HostFailure(self.simulator, weather.host_down)), self._listening():
            try:
                backup(*self._blocks(weather), job)
            except Exception as error:  # noqa: BLE001 - which ones are allowed is looked at below
                ended = error
        self._keep("sessions", f"seed {weather.seed}", ended, vm_errors)
        self._count_faults(weather)
        if weather.with_restore:
            self._restore(weather, chance)
        self.simulator.story.set_faults({})
        self.simulator.story.set_host_state("host-1", is_up=True)
        self.simulator.story.set_host_state("host-2", is_up=True)
        self.look_over(f"seed {weather.seed}")

    # -- before ------------------------------------------------------------------------------------

    def _move_the_world(self, chance: random.Random) -> None:
        """Guests write and discard a little, disks grow now and then."""
        story = self.simulator.story
        for _ in range(chance.randint(0, 6)):
            vm, place = chance.choice(VMS), chance.randrange(0, 30 * MiB, 4096)
            if chance.random() < 0.75:
                story.write_raw(vm, place, chance.randbytes(chance.choice((4096, 70_000))))
            else:
                story.discard_raw(vm, place, 256 * 1024)
        if chance.random() < 0.03:
            vm = chance.choice(VMS)
            disk = self.simulator.cluster.documents.find("vm", self.simulator.vm_id(vm))
            assert disk is not None
            size = disk.document["disks"][0]["backingInfo"]["diskSizeBytes"]
            story.grow_disk(vm, size + MiB)
        if chance.random() < 0.1:
            story.migrate(chance.choice(VMS), chance.choice(("host-1", "host-2")))

    def _blocks(self, weather: Weather) -> tuple[AhvCluster, BackupRepository, BackupWorkers]:
        sim = self.simulator
        cluster = AhvCluster(
            url=sim.pc_url,
            username=sim.username,
            password=sim.password,  # type: ignore[arg-type]
            ca_file=str(sim.ca_file),
            prism_element_port=int(sim.pe_url.rpartition(":")[2]),
            iscsi_port=int(sim.iscsi_portal.rpartition(":")[2]),
        )
        workers = [
            WorkerSpec(
                vm=each.name,
                access=weather.access,  # type: ignore[arg-type]
                device_root=str(each.device_root),
                disk_timeout_s=0.25,
                boot_timeout_s=1.0,
                shutdown_timeout_s=0.3,
            )
            for each in sim.workers
        ]
        return cluster, BackupRepository(url=self.url), BackupWorkers(workers=workers)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Keep the errors that VMs ended with, of which results hold only the words."""
        finish, errors = BackupSession.finish, self._errors

        def kept(session: BackupSession, story: Any, error: BaseException | None = None) -> Any:
            if error is not None:
                errors.append(error)
            return finish(session, story, error)

        with patch.object(BackupSession, "finish", kept):
            yield

    # -- after -------------------------------------------------------------------------------------

    def _keep(
        self, what: str, seed: str, ended: BaseException | None, vm_errors: list[BaseException]
    ) -> None:
        """Every failure is typed, and says in a sentence what happened, to what, and what to do next."""
        errors = [*vm_errors, *([ended] if ended is not None else [])]
        for error in errors:
            assert isinstance(error, TYPED), f"{seed}: {type(error).__name__}: {error!r}"
            for wanted in (SENTENCE.match, OBJECT.search, NEXT_STEP.search):
                assert wanted(str(error)), f"{seed}: {type(error).__name__}: {error}"
            self.messages.add(f"{type(error).__name__}: {error}")
        whole = (
            "made"
            if ended is None
            else "some failed"
            if isinstance(ended, SessionFailed)
            else "refused"
        )
        self.outcomes[f"{what} {whole}"] += 1
        for error in vm_errors:
            self.outcomes[f"  VM failed with {type(error).__name__}"] += 1

    def _count_faults(self, weather: Weather) -> None:
        struck = self.simulator.story.struck_faults()
        for fault, times in zip(weather.faults, struck, strict=True):
            how = fault.get("outcome") or fault.get("how") or fault.get("status") or ""
            self.outcomes[f"faults struck, {fault['kind']} {how}".rstrip()] += times
        self.outcomes["hosts taken down"] += weather.host_down is not None

    def _restore(self, weather: Weather, chance: random.Random) -> None:
        """A restore in the same weather: the right bytes, or a typed refusal and nothing left."""
        with Repository.open(self.url) as repository:
            points = repository.points().points
            if not points:
                return
            point = chance.choice(points)
        ended: BaseException | None = None
        try:
            made = restore_vm(*self._blocks(weather), point.id, f"restored-{weather.seed}")
        except Exception as error:  # noqa: BLE001 - which ones are allowed is looked at below
            ended = error
        self._keep("restores", f"seed {weather.seed}, restore", ended, [])
        self.simulator.story.set_faults({})
        if ended is None:
            self._compare_restored(weather.seed, point, made.vm_id)

    def _compare_restored(self, seed: int, point: RestorePoint, vm_id: str) -> None:
        disks = self.simulator.cluster.disks
        record = self.simulator.cluster.require("vm", vm_id)
        for disk, shown in zip(point.disks, record.document["disks"], strict=True):
            with self._exported(point, disk.disk_id) as ours:
                theirs = disks.live_path(shown["extId"])
                assert filecmp.cmp(ours, theirs, shallow=False), (
                    f"seed {seed}: restored {disk.label}"
                )
        self.outcomes["restores compared"] += 1
        with AhvClient(self._blocks(Weather(0))[0].connection()) as client:
            client.delete_vm(vm_id)

    def look_over(self, seed: str) -> None:
        """No restore point holds other bytes than its recovery point, and nothing is left behind."""
        with (
            AhvClient(self._blocks(Weather(0))[0].connection()) as client,
            Repository.open(self.url) as repository,
        ):
            for clock in (SystemClock(), Later()):
                found = find_leftovers(
                    client, repository, cluster_url=client.connection.url, clock=clock
                )
                remove_leftovers(client, repository, found, clock=clock)
            listing = repository.points()
            assert not listing.damaged, seed
            for point in listing.points:
                if point.id not in self.seen:
                    self._compare(seed, point)
                    self.seen.add(point.id)
            self._require_nothing_left(seed, client, repository)

    def _compare(self, seed: str, point: RestorePoint) -> None:
        for disk in point.disks:
            facts = disk.source_facts["recovery_point"]
            truth = self.simulator.story.frozen(facts["disk_recovery_point_id"])
            assert truth["size_bytes"] == disk.size_bytes, f"{seed}: {point.vm_name} {disk.label}"
            with self._exported(point, disk.disk_id) as ours:
                same = filecmp.cmp(ours, truth["path"], shallow=False)
            assert same, f"{seed}: {point.vm_name} {disk.label} ({disk.read_method}) is wrong"
            self.outcomes[f"disks compared, read as {disk.read_method}"] += 1
        self.outcomes["restore points compared"] += 1

    @contextmanager
    def _exported(self, point: RestorePoint, disk_id: str) -> Iterator[Path]:
        """A disk of a restore point as a file."""
        disk = next(each for each in point.disks if each.disk_id == disk_id)
        with (
            tempfile.TemporaryDirectory(dir=self.folder) as name,
            Repository.open(self.url) as repository,
        ):
            path = Path(name) / "disk.raw"
            with FileTarget(path, disk.size_bytes) as target:
                repository.open_disk(point, disk_id).restore_to(target, target_is_blank=True)
            yield path

    def _require_nothing_left(self, seed: str, client: AhvClient, repository: Repository) -> None:
        prefix = repository_prefix(repository.id)
        kept = {each.id for each in client.recovery_points(name_prefix=prefix)}
        wanted = {
            point.source["recovery_point_id"] for point in newest_points(repository.points().points)
        }
        assert kept == wanted, f"{seed}: recovery points {kept - wanted} left, {wanted - kept} gone"
        groups = client.volume_groups()
        assert [each.name for each in groups if each.name.startswith("ahvault-")] == [], seed
        assert not any(each.vm_attachments or each.iscsi_client_ids for each in groups), seed
        vms = client.vms()
        assert [vm.name for vm in vms if vm.is_on and "worker" in vm.name] == [], seed
        assert [vm.name for vm in vms if vm.name.startswith("restored-")] == [], seed
        assert all_entries(repository.live) == [], seed
        assert leased_sessions(repository.live) == set(), seed

    def clear(self) -> None:
        """Remove by force what sessions made whose own removal was kept from working."""
        with AhvClient(self._blocks(Weather(0))[0].connection()) as client:
            for group in client.volume_groups(name_prefix="ahvault-"):
                client.delete_volume_group(group.id)
        for worker in self.simulator.workers:
            self.simulator.story.power(worker.name, is_on=False)
        self.end()

    def end(self) -> None:
        """Forget this repository's references, so that the next world begins as this one did."""
        with Repository.open(self.url) as repository:
            prefix = repository_prefix(repository.id)
        points = self.simulator.story.describe()["recovery_points"]
        for point_id, name in points.items():
            if name.startswith(prefix):
                self.simulator.story.delete_recovery_point(point_id)
