"""A worker that fails in mid-transfer: its VM goes on on another one, and what was stored is not stored again."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.backup import backup
from flows.restore import restore_vm
from jobs import BackupJob, NullObserver, Scope, SessionFailed, VmResult, observed_by
from jobs.marks import repository_prefix
from jobs.stops import TransferStop
from nutanix import AhvClient
from repository import FileTarget, TransferCounters
from simulator import Simulator

pytestmark = [pytest.mark.prefect, pytest.mark.xdist_group("prefect")]

VM = "files01"


class Trouble(NullObserver):
    """Does harm to the worker of the first transfers of a disk, right before they read; keeps what was told."""

    def __init__(self, *, times: int, label: str = "scsi.0") -> None:
        self.left, self.label = times, label
        self.told: list[str] = []
        self.tries: list[TransferCounters] = []
        self.worker = ""

    def step(self, vm_id: str, text: str) -> None:
        self.told.append(text)
        if text.startswith("disks attached to worker "):
            self.worker = text.split()[4].rstrip(":")

    def disk_started(
        self, vm_id: str, disk_id: str, label: str, to_read_bytes: int, counters: TransferCounters
    ) -> None:
        self.tries.append(counters)
        if label == self.label and self.left:
            self.left -= 1
            self.harm(self.worker, to_read_bytes)

    def harm(self, worker: str, to_read_bytes: int) -> None:
        """What goes wrong."""


class DiskLoss(Trouble):
    """Takes the end of the largest attached disk away, so that reading it fails there; puts it back afterwards."""

    def __init__(self, simulator: Simulator, **options: Any) -> None:
        super().__init__(**options)
        self.roots = {each.name: Path(each.device_root) for each in simulator.workers}
        self.cut: tuple[Path, bytes] | None = None

    def step(self, vm_id: str, text: str) -> None:
        super().step(vm_id, text)
        if self.cut is not None and "is left out for this VM" in text:
            device, end = self.cut
            with device.open("ab") as file:
                file.write(end)
            self.cut = None

    def harm(self, worker: str, to_read_bytes: int) -> None:
        links = (self.roots[worker] / "disk" / "by-path").iterdir()
        device = max({link.resolve() for link in links}, key=lambda each: each.stat().st_size)
        at_bytes = device.stat().st_size - CUT_BYTES
        with device.open("r+b") as file:
            file.seek(at_bytes)
            self.cut = (device, file.read())
            file.truncate(at_bytes)


CUT_BYTES = 512 * 1024


class PowerLoss(Trouble):
    """Powers the worker off and holds the transfer until the session has noticed."""

    def __init__(self, simulator: Simulator, noticed: threading.Event, **options: Any) -> None:
        super().__init__(**options)
        self.simulator, self.noticed = simulator, noticed

    def harm(self, worker: str, to_read_bytes: int) -> None:
        self.simulator.story.power(worker, is_on=False)
        assert self.noticed.wait(60)


@pytest.fixture
def noticed(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set as soon as the session's watch counts a worker as lost; the watch looks often here."""
    monkeypatch.setattr("jobs.worker_watch.PERIOD_S", 0.05)
    seen, lose = threading.Event(), TransferStop.lose

    def spy(stop: TransferStop, reason: str) -> None:
        lose(stop, reason)
        seen.set()

    monkeypatch.setattr(TransferStop, "lose", spy)
    return seen


@pytest.fixture
def large_disk(simulator: Simulator) -> Iterator[str]:
    """The label of an added disk of two and a half packs of noise, with more at its very end."""
    size_bytes = 96 << 20
    simulator.story.add_disk(VM, size_bytes)
    noise = random.Random(5)
    simulator.story.write_raw(VM, 0, noise.randbytes(80 << 20), disk=2)
    simulator.story.write_raw(VM, size_bytes - (1 << 20), noise.randbytes(1 << 20), disk=2)
    yield "scsi.2"
    simulator.story.remove_disk(VM, disk=2)


def run(site: Any, trouble: Trouble) -> VmResult:
    job = BackupJob(name="nightly", scope=Scope(vms=(VM,)))
    with observed_by(trouble):
        return backup(site.cluster, site.repository, site.workers, job).vms[0]


def assert_whole(site: Any, simulator: Simulator, folder: Path) -> None:
    """The newest restore point restores to what its recovery point holds, and nothing else is on the cluster."""
    with site.repository.open() as repository, site.cluster.client() as client:
        point = repository.points().points[-1]
        for disk in point.disks:
            frozen = disk.source_facts["recovery_point"]["disk_recovery_point_id"]
            path = folder / disk.label
            with FileTarget(path, disk.size_bytes) as target:
                repository.open_disk(point, disk.disk_id).restore_to(target, target_is_blank=True)
            assert path.read_bytes() == Path(simulator.story.frozen(frozen)["path"]).read_bytes()
        assert client.volume_groups(name_prefix=repository_prefix(repository.id)) == []
        assert not [vm.name for vm in client.vms() if vm.is_on and "worker" in vm.name]


def test_a_vm_whose_worker_loses_a_disk_goes_on_on_another(
    site: Any, simulator: Simulator, large_disk: str, tmp_path: Path
) -> None:
    """W2: the other worker finishes the VM, the story says why, and what the first had uploaded is not uploaded again."""
    trouble = DiskLoss(simulator, times=1, label=large_disk)
    vm = run(site, trouble)
    warning = next(each for each in vm.warnings if "is left out for this VM" in each)
    assert vm.worker not in (None, warning.split()[1])
    assert_whole(site, simulator, tmp_path)
    first, second = (each for each in trouble.tries if each.read_bytes > 64 << 20)
    assert first.stored_bytes > 30 << 20
    assert second.known_bytes >= first.stored_bytes * 0.99
    with site.repository.open() as repository:
        packs = [
            path
            for path in Path(repository.url.removeprefix("file://")).rglob("*")
            if path.is_file()
        ]
        in_store_bytes = sum(path.stat().st_size for path in packs)
    # Noise does not shrink, so the store would be at least that much larger had it been sent twice.
    assert in_store_bytes < sum(disk.stored_bytes for disk in vm.disks) + first.stored_bytes * 1.1
    assert second.stored_bytes + first.stored_bytes < (82 << 20)


def test_a_vm_whose_worker_is_powered_off_goes_on_on_another(
    site: Any, simulator: Simulator, noticed: threading.Event, tmp_path: Path
) -> None:
    """W11: a worker that goes off under a transfer is noticed by the watch; the transfer ends there and goes on elsewhere."""
    vm = run(site, PowerLoss(simulator, noticed, times=1))
    lost = [each for each in vm.warnings if "left out for this VM: it is powered off" in each]
    assert lost
    assert vm.worker != lost[0].split()[1]
    assert_whole(site, simulator, tmp_path)


def test_the_last_worker_gets_a_second_chance_and_no_third(
    site: Any, simulator: Simulator, large_disk: str
) -> None:
    """W4: every worker loses the disk, twice: the VM fails naming both and why, and nothing stays on the cluster."""
    trouble = DiskLoss(simulator, times=100, label=large_disk)
    with pytest.raises(SessionFailed) as caught:
        run(site, trouble)
    error = caught.value.result.vms[0].error or ""
    assert "No worker can be used to back up files01" in error
    assert all(f"{each.name}: " in error for each in simulator.workers)
    assert trouble.left == 96
    assert len([each for each in trouble.told if "once more" in each]) == 1
    with site.repository.open() as repository, site.cluster.client() as client:
        prefix = repository_prefix(repository.id)
        assert client.volume_groups(name_prefix=prefix) == []
        assert client.recovery_points(name_prefix=prefix) == []


def test_a_restore_whose_worker_is_lost_goes_on_on_another(
    site: Any, simulator: Simulator, noticed: threading.Event
) -> None:
    """W5: the half-filled disks are filled by another worker, and the restored VM has the bytes of the restore point."""
    run(site, Trouble(times=0))
    with site.repository.open() as repository:
        point = repository.points().points[-1]
    with observed_by(PowerLoss(simulator, noticed, times=1)):
        result = restore_vm(site.cluster, site.repository, site.workers, point.id, "again")
    assert [each for each in result.warnings if "it is powered off" in each]
    with site.cluster.client() as client:
        for disk, ours in zip(
            point.disks, frozen_disks(simulator, client, result.vm_id), strict=True
        ):
            frozen = disk.source_facts["recovery_point"]["disk_recovery_point_id"]
            theirs = Path(simulator.story.frozen(frozen)["path"])
            assert ours.read_bytes() == theirs.read_bytes(), disk.label
        client.delete_vm(result.vm_id)


def frozen_disks(simulator: Simulator, client: AhvClient, vm_id: str) -> list[Path]:
    """The bytes of a VM's disks as they are now, in the order of its disks."""
    copy = client.create_recovery_point(
        name="proof",
        vm_ids=[vm_id],
        expires_at=datetime.now(UTC) + timedelta(days=1),
        request_id=str(uuid.uuid4()),
    )
    point = client.recovery_point(copy)
    parts = client.disk_recovery_points(copy, point.vm_recovery_points[0].id)
    made = {part.disk_id: part.ref.disk_recovery_point_id for part in parts}
    return [
        Path(simulator.story.frozen(made[disk.id])["path"]) for disk in client.vm(vm_id).data_disks
    ]
