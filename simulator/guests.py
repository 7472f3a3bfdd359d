"""What guests do to their disks: files written, appended to, deleted with or without discard.

Each function gets the path of an image it may change (a copy, lent by `DiskStore.session`) and leaves a
clean file system behind. Content that is only described (size and seed) is made here.
"""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path, PurePosixPath

from simulator import filesystems
from simulator.errors import GuestError
from simulator.filesystems import BLOCK_BYTES, edit, file_extents, quoted
from simulator.sparse import Extent, MiB, merge, punch

_WORDS = [
    "accept",
    "archive",
    "balance",
    "batch",
    "cache",
    "client",
    "cluster",
    "commit",
    "connect",
    "container",
    "customer",
    "data",
    "delete",
    "delivery",
    "deploy",
    "disk",
    "entry",
    "error",
    "event",
    "export",
    "fetch",
    "file",
    "filter",
    "flush",
    "host",
    "import",
    "index",
    "insert",
    "invoice",
    "item",
    "journal",
    "key",
    "ledger",
    "limit",
    "list",
    "load",
    "log",
    "merge",
    "message",
    "node",
    "notice",
    "offset",
    "order",
    "page",
    "parse",
    "payment",
    "policy",
    "query",
    "queue",
    "read",
    "record",
    "region",
    "reject",
    "release",
    "report",
    "request",
    "response",
    "retry",
    "row",
    "schedule",
    "segment",
    "select",
    "server",
    "session",
    "shard",
    "size",
    "snapshot",
    "source",
    "status",
    "stock",
    "store",
    "stream",
    "table",
    "target",
    "task",
    "tenant",
    "ticket",
    "timeout",
    "token",
    "total",
    "transfer",
    "update",
    "user",
    "value",
    "vendor",
    "write",
]


def prose(length_bytes: int, seed: str) -> bytes:
    """Text that compresses as log files do: stamped lines of ordinary words and numbers."""
    rng = random.Random(seed)
    said = [" ".join(rng.choices(_WORDS, k=rng.randrange(5, 14))) for _ in range(512)]
    levels = ("INFO", "INFO", "INFO", "WARN", "DEBUG")
    count = length_bytes // 40 + 1
    stamp = 1_767_225_600 + rng.randrange(10**7)
    picks = zip(rng.choices(said, k=count), rng.choices(levels, k=count), strict=True)
    lines = (
        f"{stamp + n} {level} [{rng.getrandbits(32):08x}] {words}\n"
        for n, (words, level) in enumerate(picks)
    )
    return "".join(lines).encode()[:length_bytes]


def noise(length_bytes: int, seed: str) -> bytes:
    """Bytes that do not compress, as photographs and archives do not."""
    return random.Random(seed).randbytes(length_bytes)


def write_file(image: Path, path: str, content: bytes) -> None:
    """Create a file or replace one, making its folders; GuestError if the disk is full."""
    with tempfile.NamedTemporaryFile() as source:
        source.write(content)
        source.flush()
        commands = [f"rm {quoted(path)}"] if exists(image, path) else []
        commands += [f"mkdir {quoted(folder)}" for folder in _missing_folders(image, path)]
        edit(image, [*commands, f"write {source.name} {quoted(path)}"])


def append_file(image: Path, path: str, content: bytes) -> None:
    """Add bytes at the end of a file without moving what it has, as a log grows."""
    old_bytes = file_size(image, path)
    new_bytes = old_bytes + len(content)
    first, last = -(-old_bytes // BLOCK_BYTES), -(-new_bytes // BLOCK_BYTES) - 1
    commands = [f"fallocate {quoted(path)} {first} {last}"] if last >= first else []
    edit(image, [*commands, f"sif {quoted(path)} size {new_bytes}"])
    _write_blocks(image, file_extents(image, path), old_bytes, content)


def _write_blocks(image: Path, blocks: list[Extent], offset: int, content: bytes) -> None:
    """Write into a file from `offset` on, through the places of its blocks in the image."""
    with image.open("r+b") as file:
        while content:
            start, end = blocks[offset // BLOCK_BYTES]
            at = start + offset % BLOCK_BYTES
            os.pwrite(file.fileno(), content[: end - at], at)
            offset, content = offset + end - at, content[end - at :]


def delete_file(image: Path, path: str, *, discard: bool) -> list[Extent]:
    """Remove a file; with `discard` its blocks go back to the storage, as with `mount -o discard`."""
    if not exists(image, path):
        raise GuestError(f"The guest has no file {path}.")
    freed = merge(file_extents(image, path)) if discard else []
    edit(image, [f"rm {quoted(path)}"])
    for start, end in freed:
        punch(image, start, end)
    return freed


def exists(image: Path, path: str) -> bool:
    """Whether the guest has a file or folder of this name."""
    try:
        said = edit(image, [f"stat {quoted(path)}"])
    except GuestError:
        return False
    return "Inode:" in said


def file_size(image: Path, path: str) -> int:
    """Length of a guest file in bytes. GuestError if there is none."""
    words = edit(image, [f"stat {quoted(path)}"]).split()
    return int(words[words.index("Size:") + 1])


def list_files(image: Path) -> dict[str, dict[str, object]]:
    """Every file of the guest file system on an image: path to size and sha256."""
    return filesystems.list_files(image, filesystems.linux_partition(image))


def _missing_folders(image: Path, path: str) -> list[str]:
    if not path.startswith("/"):
        raise GuestError(f"A guest path starts with a slash: {path!r}")
    parents = [str(parent) for parent in PurePosixPath(path).parents][::-1][1:]
    return [folder for folder in parents if not exists(image, folder)]


def content_of(*, content: bytes | None, size_bytes: int, seed: str) -> bytes:
    """Bytes as given, or made from size and seed: mostly text, with a part that does not compress."""
    if content is not None:
        return content
    if size_bytes > 256 * MiB:
        raise GuestError("One guest write of more than 256 MiB is more than this story needs.")
    text = prose(size_bytes * 3 // 4, seed)
    return text + noise(size_bytes - len(text), seed)
