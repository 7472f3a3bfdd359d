"""Real partition tables and real file systems inside raw disk images, through e2fsprogs.

Builds (GPT + `mke2fs -d`), edits (`debugfs -w`) and reads (`debugfs rdump`, `e2fsck -fn`) images as
plain files: no root, no mount, no loop device. Which files a guest has is decided elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulator.errors import GuestError, MissingToolError, ToolFailedError
from simulator.sparse import Extent, KiB, MiB

SECTOR_BYTES = 512
BLOCK_BYTES = 4096
FIRST_PARTITION_BYTES = 1 * MiB
# Backup table and header behind the last partition, rounded so that partitions stay aligned.
_TAIL_BYTES = 1 * MiB
_ENTRY_COUNT, _ENTRY_BYTES = 128, 128
_LINUX_DATA = uuid.UUID("0FC63DAF-8483-4772-8E79-3D69D8477DE4")
_EFI_SYSTEM = uuid.UUID("C12A7328-F81F-11D2-BA4B-00A0C93EC93B")
# Every file system is born at the same moment, so that a seed alone decides the bytes.
BIRTH_S = 1_767_225_600


@dataclass(frozen=True, slots=True)
class Partition:
    """One row of a partition table; `start_bytes` and `size_bytes` are whole sectors."""

    name: str
    type_id: uuid.UUID
    start_bytes: int
    size_bytes: int


def tool(program: str) -> str:
    """Path of a program of e2fsprogs, which many systems keep off the PATH of ordinary users."""
    found = shutil.which(program) or shutil.which(program, path="/sbin:/usr/sbin")
    if found is None:
        raise MissingToolError(program, "e2fsprogs")
    return found


def require_tools() -> None:
    """MissingToolError if something that the simulator will need later is not there now."""
    for program in ("mke2fs", "debugfs", "e2fsck"):
        tool(program)


def _run(
    arguments: Sequence[str | Path], *, good_codes: Sequence[int] = (0,), cwd: Path | None = None
) -> str:
    environment = {"PATH": os.defpath, "E2FSPROGS_FAKE_TIME": str(BIRTH_S), "LC_ALL": "C"}
    program = tool(str(arguments[0]))
    done = subprocess.run(  # noqa: S603 - a fixed program, never a shell
        [program, *arguments[1:]], capture_output=True, check=False, env=environment, cwd=cwd
    )
    said = (done.stdout + done.stderr).decode(errors="replace")
    if done.returncode not in good_codes:
        raise ToolFailedError(str(arguments[0]), done.returncode, said)
    return said


# -- partition tables --------------------------------------------------------------------------


def plan_partitions(disk_bytes: int, name: str, *, esp_bytes: int = 0) -> list[Partition]:
    """One Linux partition over the whole disk, behind an EFI system partition if that has a size."""
    end = disk_bytes - _TAIL_BYTES
    first: list[Partition] = []
    at = FIRST_PARTITION_BYTES
    if esp_bytes:
        first = [Partition("EFI system", _EFI_SYSTEM, at, esp_bytes)]
        at += esp_bytes
    return [*first, Partition(f"{name}-root"[:36], _LINUX_DATA, at, end - at)]


def write_gpt(image: Path, partitions: Sequence[Partition], disk_id: uuid.UUID) -> None:
    """Write protective MBR, both headers and both tables (UEFI 2.10 §5.3) into an existing image."""
    size = image.stat().st_size
    last = size // SECTOR_BYTES - 1
    table = b"".join(_gpt_entry(p, disk_id) for p in partitions).ljust(
        _ENTRY_COUNT * _ENTRY_BYTES, b"\0"
    )
    table_sectors = len(table) // SECTOR_BYTES
    usable = (2 + table_sectors, last - 1 - table_sectors)
    record = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, min(last, 0xFFFFFFFF))
    with image.open("r+b") as file:
        os.pwrite(file.fileno(), bytes(446) + record + bytes(48) + b"\x55\xaa", 0)
        for here, other, table_at in ((1, last, 2), (last, 1, last - table_sectors)):
            header = _gpt_header(here, other, usable, disk_id, table_at, zlib.crc32(table))
            os.pwrite(file.fileno(), header, here * SECTOR_BYTES)
            os.pwrite(file.fileno(), table, table_at * SECTOR_BYTES)


def _gpt_entry(partition: Partition, disk_id: uuid.UUID) -> bytes:
    own_id = uuid.uuid5(disk_id, f"{partition.name}@{partition.start_bytes}")
    first = partition.start_bytes // SECTOR_BYTES
    last = first + partition.size_bytes // SECTOR_BYTES - 1
    name = partition.name.encode("utf-16-le")
    return struct.pack(
        "<16s16sQQQ72s", partition.type_id.bytes_le, own_id.bytes_le, first, last, 0, name
    )


def _gpt_header(
    here: int, other: int, usable: Extent, disk_id: uuid.UUID, table_at: int, table_crc: int
) -> bytes:
    def packed(crc: int) -> bytes:
        return struct.pack(
            "<8sIIIIQQQQ16sQIII",
            *(b"EFI PART", 0x00010000, 92, crc, 0, here, other, *usable, disk_id.bytes_le),
            *(table_at, _ENTRY_COUNT, _ENTRY_BYTES, table_crc),
        )

    return packed(zlib.crc32(packed(0)))


def read_gpt(image: Path) -> list[Partition]:
    """Partitions of an image, from the first header; an image without one has none."""
    with image.open("rb") as file:
        header = os.pread(file.fileno(), 92, SECTOR_BYTES)
        if header[:8] != b"EFI PART":
            return []
        table_at, count, entry_bytes = struct.unpack_from("<QII", header, 72)
        table = os.pread(file.fileno(), count * entry_bytes, table_at * SECTOR_BYTES)
    partitions = []
    for at in range(0, len(table), entry_bytes):
        kind, _own, first, last, _flags, name = struct.unpack_from("<16s16sQQQ72s", table, at)
        if any(kind):
            length = (last - first + 1) * SECTOR_BYTES
            label = name.decode("utf-16-le").rstrip("\0")
            start = first * SECTOR_BYTES
            partitions.append(Partition(label, uuid.UUID(bytes_le=kind), start, length))
    return partitions


def linux_partition(image: Path) -> Partition:
    """The partition that guest activity happens in. GuestError if the disk has none."""
    for partition in read_gpt(image):
        if partition.type_id == _LINUX_DATA:
            return partition
    raise GuestError(f"The disk image {image.name} has no Linux partition to work in.")


# -- ext4 --------------------------------------------------------------------------------------


def make_disk(
    image: Path, size_bytes: int, tree: Path, seed: str, *, has_esp: bool = False
) -> None:
    """Make a sparse image with a partition table and an ext4 file system holding `tree`.

    Same seed, size and tree: same bytes.
    """
    disk_id = uuid.uuid5(uuid.NAMESPACE_OID, f"ahvault-simulator/{seed}")
    with image.open("xb") as file:
        file.truncate(size_bytes)
    partitions = plan_partitions(
        size_bytes, seed.rpartition("/")[2], esp_bytes=4 * MiB if has_esp else 0
    )
    write_gpt(image, partitions, disk_id)
    root = partitions[-1]
    options = f"offset={root.start_bytes},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=1"
    command = f"mke2fs -q -F -t ext4 -b {BLOCK_BYTES} -m 1 -J size=4 -U {disk_id}".split()
    extended: list[str | Path] = ["-E", f"{options},hash_seed={disk_id}", "-d", tree]
    _run([*command, *extended, image, f"{root.size_bytes // KiB}k"])
    # Change times come from the tree, where nobody can set them.
    entries = [f"/{path.relative_to(tree)}" for path in sorted(tree.rglob("*"))]
    edit(image, [f"sif {quoted(entry)} ctime @{BIRTH_S}" for entry in ("/", *entries)])


def edit(image: Path, commands: Sequence[str]) -> str:
    """Run debugfs commands on the Linux partition of an image and return what they said.

    debugfs goes on after a failed command and still ends with 0, so its words are searched for
    what it says on failure. GuestError then, with the words.
    """
    root = linux_partition(image)
    with tempfile.NamedTemporaryFile("w", suffix=".debugfs") as script:
        script.write("\n".join(commands) + "\n")
        script.flush()
        said = _run(["debugfs", "-w", "-f", script.name, f"{image}?offset={root.start_bytes}"])
    answers = [line for line in said.splitlines() if not line.startswith("debugfs")]
    failures = (
        "File not found",
        "Could not allocate",
        "No free space",
        "Ext2 ",
        "while ",
        "not a ",
    )
    failed = [line for line in answers if any(word in line for word in failures)]
    if failed:
        raise GuestError(f"The guest could not do that: {failed[0].strip()}")
    return "\n".join(answers)


def quoted(path: str) -> str:
    """A guest path as one word of a debugfs command."""
    if '"' in path or "\n" in path:
        raise GuestError(f"A guest path may not hold a quote or a line break: {path!r}")
    return f'"{path}"'


def file_extents(image: Path, path: str) -> list[Extent]:
    """Where in the image the blocks of a guest file lie, in the order of the file."""
    start = linux_partition(image).start_bytes
    numbers = [int(word) for word in edit(image, [f"blocks {quoted(path)}"]).split()]
    return [(start + n * BLOCK_BYTES, start + (n + 1) * BLOCK_BYTES) for n in numbers if n]


def check(image: Path, partition: Partition) -> tuple[bool, str]:
    """What `e2fsck -fn` thinks of a file system: whether it is clean, and its words."""
    target = f"{image}?offset={partition.start_bytes}"
    try:
        return True, _run(["e2fsck", "-fn", target])
    except ToolFailedError as failure:
        return False, failure.said


def list_files(image: Path, partition: Partition) -> dict[str, dict[str, Any]]:
    """Every regular file of an ext4 partition: path to `{"size_bytes", "sha256"}`."""
    with tempfile.TemporaryDirectory(prefix="ahvault-inspect-") as name:
        folder = Path(name)
        _run(["debugfs", "-R", f'rdump / "{folder}"', f"{image}?offset={partition.start_bytes}"])
        files: dict[str, dict[str, Any]] = {}
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                size = path.stat().st_size
                files[f"/{path.relative_to(folder)}"] = {"size_bytes": size, "sha256": digest}
        return files


def inspect_image(path: Path) -> dict[str, Any]:
    """Look inside any raw disk image, for example a restored one.

    Returns `{"partitions": [{"name", "start_bytes", "size_bytes", "file_system", "is_clean",
    "verdict"}], "files": {path: {"size_bytes", "sha256"}}}`; `is_clean` and `verdict` are e2fsck's and
    None where there is no ext file system. The image is not written to.
    """
    partitions: list[Mapping[str, Any]] = []
    files: dict[str, dict[str, Any]] = {}
    for partition in read_gpt(path):
        has_ext = _has_ext(path, partition)
        is_clean, verdict = check(path, partition) if has_ext else (None, None)
        if has_ext:
            files |= list_files(path, partition)
        partitions.append(
            {
                "name": partition.name,
                "start_bytes": partition.start_bytes,
                "size_bytes": partition.size_bytes,
                "file_system": "ext4" if has_ext else None,
                "is_clean": is_clean,
                "verdict": verdict,
            }
        )
    return {"partitions": partitions, "files": files}


def _has_ext(image: Path, partition: Partition) -> bool:
    with image.open("rb") as file:
        return os.pread(file.fileno(), 2, partition.start_bytes + 1024 + 56) == b"\x53\xef"
