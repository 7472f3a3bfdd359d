"""The client on a simulator that misbehaves: each fault is survived, or told as what it is."""

from __future__ import annotations

import hashlib
import random
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nutanix import (
    ConcurrentChange,
    DeviceNotFound,
    DeviceRoot,
    DiskFromRecoveryPoint,
    NutanixError,
    OperationFailed,
    OperationTimedOut,
    RedirectedTooOften,
    RegionsUnusable,
    RetryPolicy,
    open_attached_disks,
)
from simulator import Settings, Simulator

IMPATIENT = RetryPolicy(delay_s_first=0.01, delay_s_max=0.1)


@pytest.fixture(scope="module")
def sim():
    with Simulator(size=0.05, settings=Settings(task_s=0.01, power_on_s=0.02)) as running:
        running.story.power("ahvault-worker-1", is_on=True)
        yield running


@pytest.fixture
def client(sim, connect, monkeypatch):
    monkeypatch.setattr("nutanix.api.CHANGE_PAUSE_S", 0.01)
    with connect(sim, retries=IMPATIENT, operation_timeout_s=2.0) as opened:
        yield opened
    sim.story.set_faults({})


REGION_CALLS = {"path": "*compute-changed-regions"}


def bad_regions(how):
    return {"kind": "bad_regions", "how": how, "match": REGION_CALLS}


def begin(sim, *faults, seed=1):
    sim.story.set_faults({"seed": seed, "faults": list(faults)})


class Backup:
    """One backup of web01's disk, step by step, with everything it made known by name."""

    def __init__(self, sim, client, name):
        self.sim, self.client, self.name = sim, client, name
        self.vm_id, self.worker_id = sim.vm_id("web01"), sim.vm_id("ahvault-worker-1")

    def run(self):
        """Snapshot, regions, attach, read; returns what was read and what should have been."""
        client = self.client
        vm = client.vm(self.vm_id)
        point_id = client.create_recovery_point(
            name=self.name,
            vm_ids=[vm.id],
            expires_at=datetime.now(UTC) + timedelta(days=1),
            request_id=str(uuid.uuid4()),
        )
        (member,) = client.recovery_point(point_id).vm_recovery_points
        (disk,) = (
            each for each in client.disk_recovery_points(point_id, member.id) if each.disk_id
        )
        regions = client.changed_regions(disk.ref, None).regions
        source = DiskFromRecoveryPoint(0, disk.ref.disk_recovery_point_id)
        group_id = client.create_volume_group(
            name=self.name,
            cluster_id=vm.cluster_id,
            disks=[source],
            request_id=str(uuid.uuid4()),
        )
        attachment = client.attach_volume_group(group_id, self.worker_id)
        root = DeviceRoot(Path(self.sim.workers[0].device_root))
        disks = client.volume_disks(group_id)
        with open_attached_disks(root, attachment, disks, timeout_s=0.5) as opened:
            result = bytearray(opened[0].size_bytes)
            for region in regions:
                if not region.is_zeroed:
                    view = memoryview(result)[region.offset_bytes : region.end_bytes]
                    opened[0].read_into(region.offset_bytes, view)
        frozen = self.sim.story.frozen(disk.ref.disk_recovery_point_id)
        truth = Path(frozen["path"]).read_bytes()
        return hashlib.sha256(result).hexdigest(), hashlib.sha256(truth).hexdigest()

    def leftovers(self):
        """What the cluster still has of it."""
        groups = self.client.volume_groups(name_prefix=self.name)
        return [*groups, *self.client.recovery_points(name_prefix=self.name)]

    def release(self):
        """Remove all of it by name, as a reconciler does."""
        for group in self.client.volume_groups(name_prefix=self.name):
            self.client.delete_volume_group(group.id)
        for point in self.client.recovery_points(name_prefix=self.name):
            self.client.delete_recovery_point(point.id)


SURVIVED = {
    "503 now and then": [{"kind": "status", "status": 503, "every": 3}],
    "429 with Retry-After": [{"kind": "status", "status": 429, "retry_after_s": 0, "every": 4}],
    "500 from a gateway": [{"kind": "status", "status": 500, "body": "html", "every": 3}],
    "rate limit by group": [
        {"kind": "status", "status": 400, "group": "RATE_LIMIT_EXCEEDED", "every": 3}
    ],
    "connections break": [{"kind": "dropped", "every": 3}],
    "answers are lost": [{"kind": "dropped", "is_done": True, "every": 3}],
    "answers are cut off": [{"kind": "half", "every": 3}],
    "redirects": [{"kind": "redirect", "every": 2}],
    "stale tags": [{"kind": "stale_tag", "every": 3}],
    "stale tags as tasks": [{"kind": "stale_tag", "shows_as": "task", "every": 3}],
    "tokens of another scope": [{"kind": "wrong_scope", "minor": 2}],
    "expired tokens": [{"kind": "status", "status": 401, "nth": [1], "match": {"side": "element"}}],
    "slow tasks": [{"kind": "task", "outcome": "slow", "delay_s": 0.3, "every": 2}],
}


@pytest.mark.parametrize("name", list(SURVIVED))
def test_faults_that_a_backup_survives(sim, client, name):
    """The backup is made, its bytes are right, all of it is removed, and the fault did strike."""
    backup = Backup(sim, client, f"t-{uuid.uuid4()}")
    begin(sim, *SURVIVED[name])
    read, truth = backup.run()
    backup.release()
    assert read == truth
    assert sum(sim.story.struck_faults()) > 0
    begin(sim)
    assert backup.leftovers() == []


REFUSED = {
    "misordered pages": (RegionsUnusable, bad_regions("misordered")),
    "looping pages": (RegionsUnusable, bad_regions("looping")),
    "pages without a size": (RegionsUnusable, bad_regions("no_size")),
    "cut off pages": (RegionsUnusable, bad_regions("truncated")),
    "overlapping pages": (RegionsUnusable, bad_regions("overlapping")),
    "regions beyond the disk": (RegionsUnusable, bad_regions("beyond_end")),
    "a stuck attach": (
        OperationTimedOut,
        {"kind": "task", "outcome": "stuck", "match": {"operation": "VolumeGroupAttach*"}},
    ),
    "a cause in a sub-task": (
        OperationFailed,
        {"kind": "task", "outcome": "fails", "tells": "subtask", "message": "no space left here"},
    ),
    "a cause in the old field": (
        OperationFailed,
        {"kind": "task", "outcome": "fails", "tells": "legacy", "message": "no space left here"},
    ),
    "no device": (DeviceNotFound, {"kind": "no_device"}),
    "tags that never fit": (ConcurrentChange, {"kind": "stale_tag"}),
    "redirects without end": (RedirectedTooOften, {"kind": "redirect"}),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_faults_that_end_a_backup(sim, client, name):
    """What cannot be survived ends with the type that says what to do, and can be cleaned up after."""
    kind, fault = REFUSED[name]
    backup = Backup(sim, client, f"t-{uuid.uuid4()}")
    begin(sim, fault)
    with pytest.raises(kind) as caught:
        backup.run()
    if kind is OperationFailed:
        assert "no space left here" in str(caught.value)
    begin(sim)
    backup.release()
    assert backup.leftovers() == []


def random_plan(chance):
    """A few faults of any kind, each rare enough that some backups get through."""
    faults = [
        {"kind": "status", "status": chance.choice([408, 429, 500, 502, 503, 504])},
        {"kind": "dropped", "is_done": chance.random() < 0.5},
        {"kind": "half"},
        {"kind": "redirect"},
        {"kind": "stale_tag", "shows_as": chance.choice(["status", "task"])},
        bad_regions(chance.choice(
            ["truncated", "misordered", "overlapping", "beyond_end", "looping", "no_size"])),
        {"kind": "task", "outcome": chance.choice(["fails", "fails_after_work", "slow"]),
         "tells": chance.choice(["task", "subtask", "legacy", "nothing"]), "delay_s": 0.2},
        {"kind": "no_device"},
    ]  # fmt: skip
    chosen = chance.sample(faults, k=3)
    return [{**fault, "probability": chance.choice([0.02, 0.1])} for fault in chosen]


def storm(sim, client, seed):
    """One backup under random faults: right bytes or a typed error, and nothing left either way."""
    chance = random.Random(seed)
    backup = Backup(sim, client, f"t-{seed}-{uuid.uuid4()}")
    begin(sim, *random_plan(chance), seed=seed)
    outcome = "made"
    try:
        read, truth = backup.run()
        assert read == truth, f"seed {seed}"
    except NutanixError as error:
        outcome = type(error).__name__
        time.sleep(0.3)  # A creation whose wait was given up may still finish on the cluster.
    begin(sim)
    backup.release()
    assert backup.leftovers() == [], f"seed {seed}"
    return outcome


def test_a_small_storm(sim, client):
    """Eight seeds: no wrong byte, nothing left, some backups made."""
    outcomes = [storm(sim, client, seed) for seed in range(8)]
    assert "made" in outcomes


@pytest.mark.long
def test_a_great_storm(sim, client):
    """Three hundred seeds of the same."""
    outcomes = [storm(sim, client, seed) for seed in range(1000, 1300)]
    assert outcomes.count("made") > 100
    assert len(set(outcomes)) > 3
