"""A backup session of one VM in a process of its own that kills itself, without warning, at a named moment.

Started by test_reconcile.py: `python dying_session.py SETTINGS.json MOMENT`. SIGKILL runs no cleanup.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import jobs
from jobs import BackupJob, NullObserver, VmStory, WorkerSpec, open_backup_session
from nutanix import AhvClient, ClusterConnection
from repository import Repository

MOMENTS = (
    "worker on",
    "before recovery point",
    "after recovery point",
    "before volume group",
    "after volume group",
    "after attach",
    "in transfer",
    "after transfer",
    "after detach",
    "after removal",
    "after commit",
    "after settle",
)


def die_at(moment: str) -> None:
    """Die here if this is the moment."""
    if moment == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)


class DyingClient(AhvClient):
    """A client whose process dies right before or right after the cluster did something."""

    def create_recovery_point(self, **options: Any) -> str:
        die_at("before recovery point")
        made = super().create_recovery_point(**options)
        die_at("after recovery point")
        return made

    def create_volume_group(self, **options: Any) -> str:
        die_at("before volume group")
        made = super().create_volume_group(**options)
        die_at("after volume group")
        return made


class DyingSource:
    """A disk whose reader dies in the middle."""

    def __init__(self, source: Any) -> None:
        self.source, self.size_bytes = source, source.size_bytes

    def read_into(self, offset_bytes: int, buffer: memoryview) -> None:
        if offset_bytes > 0:
            die_at("in transfer")
        self.source.read_into(offset_bytes, buffer)


def main() -> None:
    """Run the steps in the order of flows/backup.py."""
    settings = json.loads(Path(sys.argv[1]).read_text())
    connection = ClusterConnection.model_validate(settings["connection"])
    with (
        DyingClient(connection) as client,
        Repository.open(settings["repository"]) as repository,
        open_backup_session(
            client=client,
            repository=repository,
            workers=[WorkerSpec.model_validate(each) for each in settings["workers"]],
            job=BackupJob(name="nightly"),
            observer=NullObserver(),
        ) as session,
    ):
        session.workers.prepare()
        die_at("worker on")
        vm_id = settings["vm_id"]
        snapshot = jobs.take_snapshot(session, vm_id)
        reference = jobs.find_reference(session, snapshot)
        plans = jobs.plan_reads(session, snapshot, reference)
        group = jobs.group_snapshot(session, snapshot)
        attachment = jobs.attach(session, group, {})
        die_at("after attach")
        story = VmStory.begin(vm_id, "web01", clock=session.clock, observer=session.observer)
        write_disk = session.writer.write_disk
        session.writer.write_disk = (  # type: ignore[method-assign]
            lambda spec, source, *rest, **options: write_disk(
                spec, DyingSource(source), *rest, **options
            )
        )
        records = [
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
        die_at("after transfer")
        jobs.detach(session, attachment)
        die_at("after detach")
        jobs.remove_group(session, group)
        die_at("after removal")
        jobs.commit_point(session, snapshot, reference, records)
        die_at("after commit")
        jobs.settle_snapshot(session, snapshot, reference)
        die_at("after settle")


if __name__ == "__main__":
    main()
