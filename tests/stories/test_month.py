"""A month of nightly sessions over a site where everything happens that the B table knows (S1-S11, N1-N11, B1-B7).

After each day every restore point that is kept is restored whole and compared with what its recovery
point held, the cluster has exactly the recovery points that N4 allows and nothing else of ours, and
the repository verifies. `test_a_month` is the whole story, `test_four_days` its short form.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import jobs
from jobs import BackupJob, ReadCause, Scope, SessionResult
from jobs.journal import all_entries
from jobs.leases import LEASES
from jobs.marks import repository_prefix
from jobs.selection import Selection
from repository import CollectSettings, CollectStage, RetentionPolicy, VerifyLevel


def _load_site() -> Any:
    path = Path(__file__).parent / "site.py"
    spec = importlib.util.spec_from_file_location("ahvault_story_site", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


world = _load_site()
MIB = world.MIB

OTHERS = ("web01", "db01", "files01")
"""The simulator's own guests, which no job of the story takes."""
NIGHTLY = BackupJob(
    name="nightly",
    scope=Scope(exclude=Selection(vms=OTHERS)),
    retention=RetentionPolicy(keep_days=6),
    full_read_days=12,
    departed_days=8,
    reference_expiry_days=30,
)
WEEKLY = BackupJob(
    name="weekly",
    scope=Scope(vms=("db1", "db2")),
    retention=RetentionPolicy(keep_last=2, keep_days=None),
    full_read_days=None,
    departed_days=20,
)
COLLECTION = CollectSettings(undelete_hours=24, grace_hours=24)


@dataclass
class Month:
    """The story: what happens on which day, and what must be true afterwards."""

    site: Any
    nightly: SessionResult | None = None
    gone: frozenset[str] = frozenset()
    """References that were deleted behind our back, or rightly by the reconciler."""
    size_max_bytes: int = 0

    # -- what happens ----------------------------------------------------------------------------

    def happen(self, day: int) -> None:
        """The events of one day, before its night."""
        event: Callable[[], object] | None = getattr(self, f"day_{day}", None)
        for vm in sorted(vm["name"] for vm in self.site.simulator.story.describe()["vms"]):
            if "worker" not in vm and vm not in OTHERS:
                self.site.live_a_day(vm)
        if event is not None:
            event()

    def day_2(self) -> None:
        """Growth: a disk, a new disk, and a guest that fills up."""
        story = self.site.simulator.story
        story.grow_disk("files1", self.site.disk_sizes("files1")[0] + 3 * MIB + 512)
        story.add_disk("app1", 5 * MIB)
        self.site.write("app1", 1, MIB, MIB)
        self.site.write("files1", 0, 11 * MIB, 2 * MIB)

    def day_3(self) -> None:
        """A host migration, and a reference that somebody deletes."""
        self.site.simulator.story.migrate("web1", "host-2")
        self.lose_reference("web2")

    def day_4(self) -> None:
        """To another cluster under its old id; a disk replaced in its slot."""
        self.site.simulator.story.relocate("mail1", "second-cluster")
        self.site.simulator.story.replace_disk("app2", 6 * MIB, disk=1)
        self.site.write("app2", 1, MIB, MIB)

    def day_6(self) -> None:
        """The cluster refuses one snapshot: that VM fails, the others do not (S10)."""
        self.fail("CreateRecoveryPoint", nth=[3])

    def day_7(self) -> None:
        """A disk is removed."""
        self.site.simulator.story.remove_disk("app1", disk=1)

    def day_9(self) -> None:
        """To another cluster under a new id."""
        self.site.simulator.story.relocate("web2", "second-cluster", keeps_id=False)

    def day_11(self) -> None:
        """Back to what it was yesterday."""
        point = self.newest("db2", "nightly")
        recovery_point = self.site.client.recovery_point(point.source["recovery_point_id"])
        self.site.simulator.story.revert("db2", recovery_point.vm_recovery_points[0].id)

    def day_13(self) -> None:
        """A VM leaves for good, another one comes."""
        self.site.simulator.story.remove_vm("app2")
        self.site.add_vm("new1", 7)

    def day_15(self) -> None:
        """The session's machine loses power in the middle."""
        with self.site.dying("db2"), pytest.raises(world.Died):
            self.site.run(NIGHTLY)
        live = self.site.repository.live
        for session_id, lease in live.list(LEASES).records.items():
            live.put(LEASES, session_id, {**lease, "machine": "one that has lost its power"})
        assert all_entries(live), "it must have left something"

    def day_17(self) -> None:
        """A rough network: answers are lost after the work was done."""
        lost = {"kind": "dropped", "is_done": True, "probability": 0.03}
        where = {"side": "element", "path": "*compute-changed-regions"}
        bad = {"kind": "bad_regions", "how": "truncated", "times": 3, "match": where}
        self.site.simulator.story.set_faults({"seed": 17, "faults": [lost, bad]})

    def day_19(self) -> None:
        """The cluster hides changes: the samples find out."""
        self.site.write("files1", 1, 2 * MIB, MIB)
        self.site.client.hides = True

    def day_21(self) -> None:
        """The volume group is taken away from its VM."""
        self.site.client.detach_volume_group(self.group_id(), self.site.simulator.vm_id("db1"))

    def day_22(self) -> None:
        """And comes back."""
        self.site.client.attach_volume_group(self.group_id(), self.site.simulator.vm_id("db1"))

    def day_24(self) -> None:
        """A worker sees no disks: the other one does the work."""
        self.site.simulator.story.set_faults(
            {"faults": [{"kind": "no_device", "match": {"vm": "ahvault-worker-1"}}]}
        )

    def day_26(self) -> None:
        """Deletions: most of a disk is given back."""
        self.site.simulator.story.discard_raw("files1", 0, 8 * MIB)
        self.lose_reference("mail1")

    # -- tools of the story ----------------------------------------------------------------------

    def fail(self, operation: str, *, nth: list[int]) -> None:
        """One of the night's operations fails."""
        fault = {"kind": "task", "outcome": "fails", "match": {"operation": operation}, "nth": nth}
        self.site.simulator.story.set_faults({"faults": [fault]})

    def group_id(self) -> str:
        """The volume group of db1."""
        groups = self.site.client.volume_groups(name_prefix="db1-log")
        return str(groups[0].id)

    def newest(self, vm: str, job: str) -> Any:
        """The newest restore point of a VM in a job."""
        vm_id = self.site.simulator.vm_id(vm)
        points = [each for each in self.site.repository.points(vm_id).points if each.job == job]
        return points[-1]

    def lose_reference(self, vm: str) -> None:
        """Somebody deletes a recovery point of ours."""
        lost = self.newest(vm, "nightly").source["recovery_point_id"]
        self.site.simulator.story.delete_recovery_point(lost)

    # -- a night, and the morning after ----------------------------------------------------------

    def night(self, day: int) -> None:
        """Sessions, then upkeep."""
        self.nightly = self.site.run(NIGHTLY)
        self.site.client.hides = False
        self.site.simulator.story.set_faults({})
        if day % 7 == 0:
            self.site.run(WEEKLY)
        if day % 2 == 0:
            report = self.site.repository.collect(COLLECTION)
            self.site.figures["collection steps"] += 1
            if report.stage is CollectStage.SWEPT:
                self.site.figures["collected KiB"] += report.freed_bytes // 1024
        if day % 5 == 0:
            assert self.site.repository.verify(VerifyLevel.CONTENT).findings == ()
            self.site.figures["verifications"] += 1

    def morning(self, day: int) -> None:
        """All that must be true after each day."""
        assert self.nightly is not None
        self.site.figures["restore points checked"] += self.site.check_points()
        self.size_max_bytes = max(self.size_max_bytes, self.site.size_bytes())
        failed = {vm.vm_name: vm.error for vm in self.nightly.vms if vm.error}
        assert len(failed) == (1 if day == 6 else 0), (day, failed)
        self.check_cluster(day)

    def check_cluster(self, day: int) -> None:
        """N4: one recovery point per VM and job that still has one, no volume group, no journal, workers off."""
        client, repository = self.site.client, self.site.repository
        prefix = repository_prefix(repository.id)
        standing = {point.id for point in client.recovery_points(name_prefix=prefix)}
        newest = jobs.reconcile.newest_points(repository.points().points)
        wanted = {point.source["recovery_point_id"] for point in newest} - self.departed(day)
        assert standing == wanted, day
        assert client.volume_groups(name_prefix=prefix) == []
        assert all_entries(repository.live) == []
        assert not [vm.name for vm in client.vms() if vm.is_on and "worker" in vm.name]
        self.site.figures["days on which the cluster held what N4 says"] += 1

    def departed(self, day: int) -> set[str]:
        """References that the reconciler has let go of by the morning of this day (N9).

        app2 was last backed up on day 12 and web2 had its old id until day 8; the job waits for 8
        days, and the session that finds out counts from its own start.
        """
        repository = self.site.repository
        current = {vm.id for vm in self.site.client.vms()}
        last = {"app2": 12, "web2": 8}
        return {
            point.source["recovery_point_id"]
            for point in jobs.reconcile.newest_points(repository.points().points)
            if point.vm_id not in current and day >= last[point.vm_name] + 8
        }


def live_through(site: Any, days: int) -> Month:
    month = Month(site)
    for day in range(1, days + 1):
        month.happen(day)
        month.night(day)
        month.morning(day)
        site.next_day()
    return month


def test_four_days(tmp_path: Path, count: Callable[[str, int], None]) -> None:
    """Full, grown, moved between hosts and clusters, replaced, reference lost: all points right, the cluster clean."""
    with world.open_site(tmp_path, "four days") as site:
        live_through(site, 4)
        causes = {key: value for key, value in site.figures.items() if "disks read" in key}
        assert causes["disks read: vm-moved"] == 1
        assert causes["disks read: replaced-disk"] == 1
        assert causes["disks read: reference-gone"] == 1
        assert causes["disks read: new-disk"] == 1
        count("story: restore points restored and compared", site.figures["restore points checked"])


@pytest.mark.long
def test_a_month(tmp_path: Path, count: Callable[[str, int], None]) -> None:
    """31 nights: growth, deletions, migrations, failures, a dead session, a lying cluster, retention, collection, verification; nothing is left over."""
    with world.open_site(tmp_path, "a month") as site:
        month = live_through(site, 31)
        figures = site.figures
        for cause in ReadCause:
            if cause not in (ReadCause.BASE_DAMAGED, ReadCause.REFERENCE_UNKNOWN):
                assert figures[f"disks read: {cause}"] > 0, cause
        assert figures["VMs that failed"] == 1
        assert figures["restore points forgotten"] > 100
        figures["repository KiB at its largest"] = month.size_max_bytes // 1024
        figures["repository KiB at the end"] = site.size_bytes() // 1024
        assert figures["collected KiB"] > 0
        assert site.size_bytes() <= month.size_max_bytes

        for point in site.repository.points().points:
            site.repository.forget(point, "the month is over")
        for _ in range(6):
            site.clock.ahead += world.timedelta(days=3)
            site.repository.collect(COLLECTION)
        packs = list((tmp_path / "repository" / "data").rglob("*"))
        figures["packs left when all is forgotten"] = sum(each.is_file() for each in packs)
        assert figures["packs left when all is forgotten"] == 0
        for name, figure in figures.items():
            count(f"month: {name}", figure)
