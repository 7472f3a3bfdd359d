"""Readers of the golden repositories: one written from the format page alone, and ours.

The golden repositories under tests/data/ were written once and are never written again: what reads
them reads format 1.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from repository import KeyFile, Passphrase, Repository, Secret

TESTS = Path(__file__).parents[1]
DATA = TESTS / "data"
PROGRAM = TESTS / "second_reader" / "second_reader.py"
PASSPHRASE = "korrekt pferd bätterie"
KEY_FILE_BYTES = bytes(range(64))
GOLDEN = [
    pytest.param("plain", {}, None, id="plain"),
    pytest.param("encrypted", {"passphrase": PASSPHRASE}, Passphrase(PASSPHRASE), id="passphrase"),
    pytest.param("encrypted", {"key_file": KEY_FILE_BYTES}, KeyFile(KEY_FILE_BYTES), id="key file"),
]


@pytest.fixture(scope="module")
def second() -> ModuleType:
    """The second reader as a module."""
    spec = importlib.util.spec_from_file_location("second_reader", PROGRAM)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def expected_of(name: str) -> dict[str, dict[str, str]]:
    expected: dict[str, dict[str, str]] = json.loads((DATA / f"{name}.expected.json").read_text())
    return expected


def restore_all(reader: Any) -> dict[str, dict[str, str]]:
    """The SHA-256 of every disk of every restore point."""
    restored: dict[str, dict[str, str]] = {}
    for point in reader.points():
        digests = restored[point["id"]] = {}
        for disk in point["disks"]:
            sink = io.BytesIO()
            reader.restore(disk, sink)
            digests[disk["disk_id"]] = hashlib.sha256(sink.getvalue()).hexdigest()
    return restored


@pytest.mark.parametrize(("name", "secret", "_ours"), GOLDEN)
def test_the_page_suffices_to_restore(
    second: ModuleType, name: str, secret: dict[str, Any], _ours: Secret | None
) -> None:
    """Every disk of every point restores bit-exact without a line of ours; forgotten ones hide."""
    reader = second.SecondReader(DATA / name, **secret)
    assert restore_all(reader) == expected_of(name)


@pytest.mark.parametrize(("name", "_second", "secret"), GOLDEN)
def test_this_version_reads_what_the_first_wrote(
    name: str, _second: dict[str, Any], secret: Secret | None, tmp_path: Path
) -> None:
    """Our own reader restores the golden repositories bit-exact, and verification finds no fault."""
    shutil.copytree(DATA / name, tmp_path / name)
    with Repository.open(str(tmp_path / name), secret=secret) as repository:
        listing = repository.points()
        restored = {}
        for point in listing.points:
            restored[point.id] = {}
            for disk in point.disks:
                reader = repository.open_disk(point, disk.disk_id)
                content = bytearray(reader.size_bytes)
                reader.read_into(0, memoryview(content))
                restored[point.id][disk.disk_id] = hashlib.sha256(content).hexdigest()
        assert listing.damaged == []
        assert restored == expected_of(name)
        assert repository.verify().findings == ()


def test_the_golden_repositories_show_what_matters() -> None:
    """Deltas, zero runs, a disk that has grown, shared chunks and a tomb are among what is read."""
    with Repository.open(str(DATA / "plain")) as repository:
        web01 = repository.points("vm/web01").points
        forgotten = repository.forgotten()
    disks = [point.disks[0] for point in web01]
    assert [len(disk.maps) for disk in disks] == [1, 2, 3]
    assert disks[2].size_bytes > disks[1].size_bytes
    assert all(disk.figures.zero_bytes for disk in disks[:2])
    assert len(forgotten) == 1


def test_the_second_reader_runs_as_a_program(tmp_path: Path) -> None:
    """It lists and restores from the command line, with nothing of ours importable."""
    points = expected_of("plain")
    point_id = next(iter(points))
    disk_id, digest = next(iter(points[point_id].items()))
    target = tmp_path / "disk.raw"
    arguments = [sys.executable, "-I", str(PROGRAM), str(DATA / "plain")]
    listed = subprocess.run(arguments, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert len(listed.stdout.splitlines()) == sum(len(disks) for disks in points.values())
    subprocess.run([*arguments, point_id, disk_id, str(target)], check=True, cwd=tmp_path)
    assert hashlib.sha256(target.read_bytes()).hexdigest() == digest


def test_the_second_reader_refuses_what_is_not_as_written(
    second: ModuleType, tmp_path: Path
) -> None:
    """A flipped bit in a pack, a map or a record ends in a refusal, never in other bytes."""
    for folder in ("data", "maps", "points"):
        root = tmp_path / folder
        shutil.copytree(DATA / "plain", root)
        for path in root.joinpath(folder).rglob("*"):
            if path.is_file():
                content = bytearray(path.read_bytes())
                content[len(content) // 3] ^= 4
                path.write_bytes(content)
        with pytest.raises((second.Unreadable, second.zstandard.ZstdError)):
            restore_all(second.SecondReader(root))
    with pytest.raises(second.Unreadable, match="no key wrap"):
        second.SecondReader(DATA / "encrypted", passphrase="wrong")
