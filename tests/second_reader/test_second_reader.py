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

from repository import CollectSettings, CollectStage, KeyFile, Passphrase, Repository, Secret

TESTS = Path(__file__).parents[1]
DATA = TESTS / "data"
PROGRAM = TESTS / "second_reader" / "second_reader.py"
PASSPHRASE = "korrekt pferd bätterie"
KEY_FILE_BYTES = bytes(range(64))
GOLDEN = [
    pytest.param("plain", {}, None, id="plain"),
    pytest.param("encrypted", {"passphrase": PASSPHRASE}, Passphrase(PASSPHRASE), id="passphrase"),
    pytest.param("encrypted", {"key_file": KEY_FILE_BYTES}, KeyFile(KEY_FILE_BYTES), id="key file"),
    pytest.param("collected", {}, None, id="collected"),
    pytest.param("copied", {"passphrase": PASSPHRASE}, Passphrase(PASSPHRASE), id="copied"),
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
        assert repository.points().damaged == []
        assert restored_by_us(repository) == expected_of(name)
        assert repository.verify().is_clean


@pytest.mark.parametrize(("name", "_second", "secret"), GOLDEN)
def test_this_version_works_on_what_the_first_wrote(
    name: str, _second: dict[str, Any], secret: Secret | None, tmp_path: Path
) -> None:
    """It forgets, plans, rewrites and sweeps in the golden repositories, and all that stays restores."""
    shutil.copytree(DATA / name, tmp_path / name)
    expected = expected_of(name)
    with Repository.open(str(tmp_path / name), secret=secret) as repository:
        repository.cancel_collection("to begin anew")
        dropped = repository.points("vm/web01").points[0]
        repository.release(dropped)
        repository.forget(dropped)
        at_once = CollectSettings(undelete_hours=0, grace_hours=0, rewrite_dead_percent=1)
        assert repository.collect(at_once).stage is CollectStage.SWEPT
        del expected[dropped.id]
        assert restored_by_us(repository) == expected
        assert repository.verify().is_clean


def restored_by_us(repository: Repository) -> dict[str, dict[str, str]]:
    """The SHA-256 of every disk of every restore point, by our own reader."""
    restored: dict[str, dict[str, str]] = {}
    for point in repository.points().points:
        digests = restored[point.id] = {}
        for disk in point.disks:
            reader = repository.open_disk(point, disk.disk_id)
            content = bytearray(reader.size_bytes)
            reader.read_into(0, memoryview(content))
            digests[disk.disk_id] = hashlib.sha256(content).hexdigest()
    return restored


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


@pytest.mark.parametrize(
    ("name", "secret"), [("collected", {}), ("copied", {"passphrase": PASSPHRASE})]
)
def test_collected_repositories_show_moved_chunks(
    second: ModuleType, name: str, secret: dict[str, Any]
) -> None:
    """Maps name packs that are gone or bad: a reader that does not follow chunks cannot restore."""
    reader = second.SecondReader(DATA / name, **secret)
    reader.move = lambda place: place
    with pytest.raises((FileNotFoundError, second.Unreadable)):
        restore_all(reader)


def test_a_collected_repository_shows_what_collection_can_leave() -> None:
    """A generation done, one cancelled and one that waits; a quarantine, a point given up, a hold, a ledger; copies name their origin."""
    kinds = {path.relative_to(DATA / "collected").parts[0] for path in files_of("collected")}
    assert {"gc", "quarantine", "holds", "ledger", "reports", "tomb"} <= kinds
    names = [path.name for path in files_of("collected")]
    assert (names.count("plan.json"), names.count("outcome.json"), names.count("done.json")) == (
        3,
        2,
        1,
    )
    assert any("-lost-" in name for name in names)
    with Repository.open(str(DATA / "copied"), secret=Passphrase(PASSPHRASE)) as repository:
        origins = [point.copied_from for point in repository.points().points]
    assert len([origin for origin in origins if origin]) == 4


# SHA-256 over the names and bytes of all files, sorted by name: format 1 is frozen, and these are what it is.
FROZEN = {
    "plain": "092b1ea3e4084e73bf2dfc568681917c11c5322c664ed0293ba7aeaed0777a91",
    "encrypted": "182af10a08a257c4fa1acd760aeb2a1cf954af6ab45f809c6b974b81ce5330ea",
    "collected": "11ff0cbac9af334fcdf55aa72232c8a961ec0e9f4580bd84f086a189870bfe47",
    "copied": "53b94c4f65ef44100497d2a2929c3e4411072c83af0a91fe876df7b9d22afae6",
}


def files_of(name: str) -> list[Path]:
    return sorted(path for path in (DATA / name).rglob("*") if path.is_file())


@pytest.mark.parametrize("name", FROZEN)
def test_golden_repositories_never_change(name: str) -> None:
    """A change of the format cannot hide by making them anew."""
    digest = hashlib.sha256()
    for path in files_of(name):
        content = path.read_bytes()
        title = path.relative_to(DATA / name).as_posix()
        digest.update(f"{title} {len(content)}\n".encode() + content)
    digest.update((DATA / f"{name}.expected.json").read_bytes())
    assert digest.hexdigest() == FROZEN[name]


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
