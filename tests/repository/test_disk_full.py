"""A real file system that fills up at random moments: a typed error, and nothing committed is lost."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from repository import Repository, RestorePoint, StoreFull, VerifyLevel

CHUNK = 64 * 1024
VOLUME_BYTES = 48 * 1024 * 1024
MOMENTS_PER_REPOSITORY = 10
MakeDisk = Callable[..., Any]


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own; skips where nobody may mount one."""
    folder = tmp_path / "volume"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={VOLUME_BYTES},mode=700", "ahvault-test", str(folder)]
    if (
        os.geteuid()
        or subprocess.run(["mount", *options], check=False, capture_output=True).returncode
    ):
        pytest.skip("only root can mount a small file system here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(volume: Path, free_bytes: int) -> Path:
    """Ballast that leaves this much room."""
    status = os.statvfs(volume)
    ballast = volume / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, status.f_bavail * status.f_frsize - free_bytes))
    return ballast


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "moments", [8, pytest.param(300, marks=pytest.mark.long)], ids=["short", "300"]
)
def test_a_full_disk_loses_nothing(
    volume: Path, bench: Any, make_disk: MakeDisk, moments: int, count: Callable[[str, int], None]
) -> None:
    """Full before, in or after the packs, segments, maps or record: StoreFull; room made, it works."""
    chooser = random.Random(300)
    fulls = 0
    known: list[tuple[RestorePoint, bytes]] = []
    for number in range(moments):
        if number % MOMENTS_PER_REPOSITORY == 0:
            bench.url, known = str(volume / str(number)), []
            subprocess.run(["rm", "-rf", *map(str, volume.iterdir())], check=True)
            bench.repository = Repository.create(bench.url, options=bench.options)
        data = chooser.randbytes(20 * CHUNK)
        ballast = fill(volume, chooser.randrange(26 * CHUNK))
        try:
            known.append((bench.commit(bench.write(make_disk(data))), data))
        except StoreFull:
            fulls += 1
            with Repository.open(bench.url) as full:
                assert full.verify(VerifyLevel.STORED).is_clean
        ballast.unlink()
        with Repository.open(bench.url) as opened:
            assert opened.verify(VerifyLevel.CONTENT).is_clean
            assert {point.id for point, _ in known} <= {each.id for each in opened.points().points}
        for point, expected in known:
            assert bench.read(point) == expected
        if number % 3 == 0:  # with room again, the same backup works and reuses what was stored
            known.append((bench.commit(bench.write(make_disk(data))), data))
    count("disk full at a random moment", fulls)
    assert fulls >= moments // 4
