"""Proving bytes equal: restore points, exported files and restored VMs against what was frozen.

The truth is the simulator's own file behind each disk recovery point. Files are compared byte by
byte. A restore point whose recovery point will be gone by the end is compared by the BLAKE3 digest
of the whole disk, taken while the recovery point stood.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from cli.demo.guests import Guests
from cli.point_reference import moment_reference

if TYPE_CHECKING:
    from nutanix import AhvClient
    from repository import DiskReader, DiskRecord, FileSource, Repository, RestorePoint

BUFFER_BYTES = 8 * 1024 * 1024
_ZEROS = bytes(BUFFER_BYTES)

MARK = "ahvault-"
"""How everything is called that sessions make on a cluster, and so are the demo's workers."""

Truth = dict[tuple[str, str], str]
"""Restore point id and disk id to the digest of the frozen disk."""


@dataclass(frozen=True, slots=True)
class Proof:
    """One comparison. `detail` says what held, or where it did not."""

    subject: str
    compared_with: str
    size_bytes: int
    held: bool
    detail: str


def disk_recovery_point_id(disk: DiskRecord) -> str:
    """The disk recovery point that a stored disk was read from."""
    return str(disk.source_facts["recovery_point"]["disk_recovery_point_id"])


def frozen_digests(points: Iterable[RestorePoint], guests: Guests) -> Truth:
    """Digests of the recovery points behind restore points, while they stand."""
    return {
        (point.id, disk.disk_id): digest_file(guests.frozen_path(disk_recovery_point_id(disk)))
        for point in points
        for disk in point.disks
    }


def prove_points(repository: Repository, truth: Truth) -> Iterator[Proof]:
    """Every disk of every restore point, read back through the repository."""
    for point in repository.points().points:
        for disk in point.disks:
            found = digest_disk(repository.open_disk(point, disk.disk_id))
            held = found == truth.get((point.id, disk.disk_id))
            yield Proof(
                f"restore point {moment_reference(point)} {disk.label}",
                "its recovery point",
                disk.size_bytes,
                held,
                f"BLAKE3 {found[:16]}" if held else "the digests differ",
            )


def prove_export(image: Path, disk: DiskRecord, guests: Guests) -> Proof:
    """An exported file against the recovery point, byte by byte."""
    frozen = guests.frozen_path(disk_recovery_point_id(disk))
    return _prove_file(f"exported file {image.name}", image, frozen)


def prove_restored_vm(
    client: AhvClient, guests: Guests, point: RestorePoint, vm_name: str
) -> list[Proof]:
    """Every disk of a restored VM, frozen by a snapshot of it, against the original's, byte by byte.

    Also the file system inside its first disk, against what the original's guest sees.
    """
    with _frozen_images(client, guests, vm_name) as images:
        proofs = [
            _prove_file(
                f"restored VM {vm_name} {disk.label}",
                images[disk.label],
                guests.frozen_path(disk_recovery_point_id(disk)),
            )
            for disk in point.disks
        ]
        first = point.disks[0]
        files = guests.files(point.vm_name, disk=0)
        proofs.append(prove_inside(f"{vm_name} {first.label}", images[first.label], files))
    return proofs


def prove_inside(subject: str, image: Path, files: dict[str, Any]) -> Proof:
    """The file system inside an image: clean, and holding exactly the files that the guest sees."""
    from simulator import inspect_image

    found = inspect_image(image)
    broken = [part["name"] for part in found["partitions"] if part["is_clean"] is False]
    differing = sorted(
        path
        for path in found["files"].keys() | files.keys()
        if found["files"].get(path) != files.get(path)
    )
    size_bytes = sum(each["size_bytes"] for each in found["files"].values())
    if broken:
        detail = f"e2fsck finds faults in partition {', '.join(broken)}"
    elif differing:
        detail = f"{len(differing)} files differ, the first is {differing[0]}"
    else:
        detail = f"{len(files)} files alike by SHA-256; e2fsck finds it clean"
    held = not broken and not differing and bool(files)
    return Proof(f"file system inside {subject}", "the guest's own files", size_bytes, held, detail)


def digest_file(path: Path) -> str:
    """BLAKE3 of a whole file, holes included."""
    from repository import FileSource

    with FileSource(path) as source:
        return digest_disk(source)


def digest_disk(source: FileSource | DiskReader) -> str:
    """BLAKE3 of a whole disk: zeros that the source knows of are hashed without being read."""
    digest = blake3(max_threads=blake3.AUTO)
    buffer = bytearray(BUFFER_BYTES)
    for extent in source.extents():
        for start_bytes in range(extent.start_bytes, extent.end_bytes, BUFFER_BYTES):
            length_bytes = min(BUFFER_BYTES, extent.end_bytes - start_bytes)
            if extent.kind == "zero":
                digest.update(memoryview(_ZEROS)[:length_bytes])
                continue
            part = memoryview(buffer)[:length_bytes]
            source.read_into(start_bytes, part)
            digest.update(part)
    return digest.hexdigest()


def first_difference(one: Path, other: Path) -> int | None:
    """The offset of the first byte that differs, the shorter length if one ends early, else None."""
    with one.open("rb", buffering=0) as left, other.open("rb", buffering=0) as right:
        offset_bytes = 0
        while True:
            mine, its = left.read(BUFFER_BYTES), right.read(BUFFER_BYTES)
            if mine != its:
                return offset_bytes + _shared_length(mine, its)
            if not mine:
                return None
            offset_bytes += len(mine)


def _shared_length(one: bytes, other: bytes) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (mine, its) in pairs if mine != its), min(len(one), len(other)))


def _prove_file(subject: str, image: Path, frozen: Path) -> Proof:
    offset_bytes = first_difference(image, frozen)
    held = offset_bytes is None
    detail = "every byte alike" if held else f"the first difference is at byte {offset_bytes}"
    return Proof(subject, "its recovery point", image.stat().st_size, held, detail)


def prove_clean_up(guests: Guests, vm_names: Iterable[str]) -> Proof:
    """What the sessions left on the cluster: one recovery point per VM to build on, nothing else."""
    found = guests.act("describe")
    groups = [name for name in found["volume_groups"].values() if name.startswith(MARK)]
    snapshots = [name for name in found["recovery_points"].values() if name.startswith(MARK)]
    running = [
        vm["name"]
        for vm in found["vms"]
        if vm["name"].startswith(MARK) and vm["power_state"] != "OFF"
    ]
    wanted = len(list(vm_names))
    held = not groups and not running and len(snapshots) == wanted
    detail = (
        f"{len(snapshots)} recovery points to build on ({wanted} VMs), {len(groups)} volume groups, "
        f"{len(running)} workers running"
    )
    return Proof("the cluster afterwards", "what may stay there", 0, held, detail)


@contextmanager
def _frozen_images(client: AhvClient, guests: Guests, vm_name: str) -> Iterator[dict[str, Path]]:
    """The frozen file behind each disk of a VM, by label, while a snapshot of it stands."""
    vm = client.find_vm(vm_name)
    labels = {disk.id: disk.label for disk in vm.data_disks}
    recovery_point_id = client.create_recovery_point(
        name=f"demo comparison of {vm_name}",
        vm_ids=[vm.id],
        expires_at=datetime.now(UTC) + timedelta(hours=1),
        request_id=str(uuid.uuid4()),
    )
    try:
        vm_point = client.recovery_point(recovery_point_id).vm_recovery_points[0]
        held = client.disk_recovery_points(recovery_point_id, vm_point.id)
        yield {
            labels[disk.disk_id]: guests.frozen_path(disk.ref.disk_recovery_point_id)
            for disk in held
            if disk.disk_id in labels
        }
    finally:
        client.delete_recovery_point(recovery_point_id)
