"""A writer to be killed: commits one state of a disk after the other and says each that exists.

The states follow from their numbers, so that whoever kills it knows the bytes of each.
"""

from __future__ import annotations

import datetime as dt
import random
import sys

from repository import DiskSpec, Extent, PointDraft, Repository

KiB = 1024
CHUNK = 64 * KiB
CHUNKS = 60
CHANGED = 12


def state(number: int) -> bytes:
    """The disk at state `number`: state 0 is noise; each later one changes some chunks."""
    data = bytearray(random.Random(1).randbytes(CHUNKS * CHUNK))
    for each in range(1, number + 1):
        chooser = random.Random(each)
        for chunk in chooser.sample(range(CHUNKS), CHANGED):
            data[chunk * CHUNK : (chunk + 1) * CHUNK] = chooser.randbytes(CHUNK)
    return bytes(data)


class Disk:
    """The disk in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size_bytes = len(data)

    def read_into(self, offset_bytes: int, buffer: memoryview) -> None:
        buffer[:] = self.data[offset_bytes : offset_bytes + len(buffer)]


def write_states(url: str, first: int) -> None:
    """Commit the states from `first` on, for ever; prints the id of each once it is committed."""
    repository = Repository.open(url)
    newest = repository.points().newest()
    print("ready", flush=True)
    number = first
    while True:
        disk = Disk(state(number))
        with repository.write_session(f"killed-{number}") as session:
            record = session.write_disk(
                DiskSpec(disk_id="disk-1", size_bytes=disk.size_bytes),
                disk,
                [Extent(0, disk.size_bytes)],
                newest.disk("disk-1") if newest else None,
                read_method="all",
            )
            moment = dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(minutes=number)
            newest = session.commit(
                PointDraft(
                    vm_id="vm-1",
                    vm_name="web01",
                    job="nightly",
                    session_id=f"killed-{number}",
                    session_started_at=moment,
                    created_at=moment,
                    consistency="crash",
                    source={"state": number},
                    disks=(record,),
                )
            )
        print(newest.id, flush=True)
        number += 1


if __name__ == "__main__":
    write_states(sys.argv[1], int(sys.argv[2]))
