"""The files that guests have at first: real ones of this machine and made ones, chosen by a seed.

Real text, code and binaries come from Python's standard library and, where present, from `/usr/share`, so that
compression and deduplication meet what they would meet in practice. Logs, tables and photographs are made.
"""

from __future__ import annotations

import os
import random
import shutil
import sysconfig
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path

from simulator.filesystems import BIRTH_S
from simulator.guests import noise, prose
from simulator.sparse import KiB, MiB

_SHARED = ("perl", "vim", "i18n", "icons", "doc")
_FILE_BYTES_MAX = 4 * MiB
# mke2fs adds to a folder in time that grows with the square of its files; and a walk has to end.
_FOLDER_FILES_MAX, _ROOT_FILES_MAX = 100, 2500
# The many tiny files of a documentation tree cost start-up time and teach a backup nothing.
_SHARED_FILE_BYTES_MIN = 6 * KiB


@cache
def _library_files() -> tuple[tuple[Path, Path, int], ...]:
    """Files of the standard library as (path, where it goes in a guest, size), in a stable order."""
    root = Path(sysconfig.get_path("stdlib"))
    return tuple(_walk(root, Path("usr/lib/python3")))


@cache
def _shared_files() -> tuple[tuple[Path, Path, int], ...]:
    found: list[tuple[Path, Path, int]] = []
    for name in _SHARED:
        files = _walk(Path("/usr/share") / name, Path("usr/share") / name)
        found += islice((f for f in files if f[2] >= _SHARED_FILE_BYTES_MIN), _ROOT_FILES_MAX)
    return tuple(found)


def _walk(root: Path, target: Path) -> Iterator[tuple[Path, Path, int]]:
    left_out = {"__pycache__", "site-packages", "dist-packages"}
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if f not in left_out)
        for name in sorted(names)[:_FOLDER_FILES_MAX]:
            path = Path(folder) / name
            if path.is_symlink() or not path.is_file() or '"' in name:
                continue
            size = path.stat().st_size
            if size <= _FILE_BYTES_MAX:
                yield path, target / path.relative_to(root), size


def system_tree(root: Path, budget_bytes: int, name: str, seed: str) -> None:
    """A small Linux system: libraries, documentation, configuration, a log."""
    _copy_some(root, _library_files(), budget_bytes // 2, "system")
    _copy_some(root, _shared_files(), budget_bytes // 4, seed)
    _write(root / "etc/hostname", f"{name}\n".encode())
    _write(root / "etc/hosts", f"127.0.0.1 localhost\n192.0.2.17 {name}\n".encode())
    _write(root / "var/log/syslog", prose(budget_bytes // 12, f"{seed}/syslog"))
    _write(root / "var/log/app.log", prose(budget_bytes // 24, f"{seed}/app"))
    _write(root / "var/cache/blob.bin", noise(budget_bytes // 8, f"{seed}/blob"))
    _pin_times(root)


def database_tree(root: Path, budget_bytes: int, seed: str) -> None:
    """Table files of rows, and a write-ahead log."""
    rng = random.Random(seed)
    row_count = budget_bytes // 7 // 48
    for number in range(6):
        drawn = rng.randbytes(8 * row_count).hex()
        rows = (
            f"{i:09d}|{drawn[16 * i]}|customer-{drawn[16 * i : 16 * i + 3]}|{drawn[16 * i : 16 * i + 16]}|open\n"
            for i in range(row_count)
        )
        _write(root / f"data/base/{16384 + number}", "".join(rows).encode())
    _write(root / "data/wal/000000010000000000000001", noise(budget_bytes // 7, f"{seed}/wal"))
    _pin_times(root)


def document_tree(root: Path, budget_bytes: int, seed: str) -> None:
    """A file share: many texts, some tables, photographs, and copies of the same thing."""
    rng = random.Random(seed)
    _copy_some(root / "share", _shared_files() or _library_files(), budget_bytes // 3, seed)
    spent, number = 0, 0
    while spent < budget_bytes // 2:
        size = rng.randrange(64 * KiB, max(65 * KiB, min(2 * MiB, budget_bytes // 20)))
        folder = root / f"share/photos/{2015 + number % 10}"
        _write(folder / f"img_{number:04d}.jpg", noise(size, f"{seed}/photo/{number}"))
        spent, number = spent + size, number + 1
    for number in range(20):
        text = prose(max(KiB, budget_bytes // 240), f"{seed}/report/{number % 12}")
        _write(root / f"share/reports/{number:02d}/report.txt", text)
    _pin_times(root)


def small_tree(root: Path, name: str) -> None:
    """Hardly anything: what a worker boots from."""
    _write(root / "etc/hostname", f"{name}\n".encode())
    _write(root / "var/log/syslog", prose(256 * KiB, name))
    _pin_times(root)


def _copy_some(
    root: Path, files: tuple[tuple[Path, Path, int], ...], budget_bytes: int, seed: str
) -> None:
    """Copy whole runs of files, beginning at a place the seed chooses, until the budget is spent."""
    if not files:
        return
    start = random.Random(seed).randrange(len(files))
    spent = 0
    for source, target, size in (*files[start:], *files[:start]):
        if spent + size > budget_bytes:
            continue
        place = root / target
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, place)
        spent += size
        if spent > budget_bytes * 0.98:
            return


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _pin_times(root: Path) -> None:
    for folder, _folders, names in os.walk(root):
        for name in names:
            os.utime(Path(folder) / name, (BIRTH_S, BIRTH_S))
        os.utime(folder, (BIRTH_S, BIRTH_S))
