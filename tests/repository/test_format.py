"""A repository of a newer format is refused as such, and never taken for damage or repaired."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from repository import (
    FindingKind,
    Repository,
    RestorePoint,
    UnsupportedFormat,
)
from repository.maps import open_disk_map
from repository.packs import _footer, read_pack_table
from repository.records import decode_open_record, encode_open_record
from repository.segments import decode_segment

CHUNK = 64 * 1024
MakeDisk = Callable[..., Any]


@pytest.fixture
def filled(bench: Any, make_disk: MakeDisk) -> tuple[Any, RestorePoint]:
    return bench, bench.commit(bench.write(make_disk(b"x" * 3 * CHUNK)))


def rewrite_description(bench: Any, change: dict[str, Any]) -> None:
    """Make `repo.json` anew as another version could have written it."""
    path = Path(bench.url, "repo.json")
    record = decode_open_record("repo.json", "repository", path.read_bytes())
    members = {name: record[name] for name in record if name not in ("ahvault", "format", "digest")}
    path.write_bytes(encode_open_record("repository", {**members, **change}))


@pytest.mark.parametrize(
    "change",
    [
        {"features": {"read": ["erasure-coding"], "write": [], "delete": [], "verify": []}},
        {"algorithms": {"chunk_id": "blake3-keyed", "compression": "brotli"}},
        {"algorithms": {"chunk_id": "sha-512", "compression": "zstd"}},
        {"encryption": {"mode": "xchacha20-poly1305"}},
    ],
    ids=["feature", "compression", "chunk id", "encryption"],
)
def test_a_newer_description_is_refused(filled: Any, change: dict[str, Any]) -> None:
    """UnsupportedFormat, with what to do about it; nothing is opened."""
    bench, _ = filled
    rewrite_description(bench, change)
    with pytest.raises(UnsupportedFormat, match="update ahvault"):
        Repository.open(bench.url)


@pytest.mark.parametrize("kind", ["description", "record"])
def test_a_newer_record_is_refused(filled: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`format` 2 in `repo.json` or a commit record is UnsupportedFormat, not damage."""
    bench, point = filled
    monkeypatch.setattr("repository.records.FORMAT", 2)
    if kind == "description":
        Path(bench.url, "repo.json").write_bytes(bench.repository._description.encode())
    else:
        body = point.model_dump(mode="json", exclude={"key"})
        stored = bench.repository._records.encode(point.key, "point", body)
        Path(bench.url, point.key).write_bytes(stored)
    monkeypatch.undo()
    if kind == "description":
        with pytest.raises(UnsupportedFormat):
            Repository.open(bench.url)
        return
    repository = Repository.open(bench.url)
    with pytest.raises(UnsupportedFormat):
        repository.point(point.id)
    assert [each.key for each in repository.points().damaged] == [point.key]
    kinds = {finding.key: finding.kind for finding in repository.verify().findings}
    assert kinds == {point.key: FindingKind.UNREADABLE}
    assert [finding.key for finding in repository.repair().not_repairable] == [point.key]


def test_newer_tables_are_refused(
    filled: Any, make_disk: MakeDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map or a segment whose document says format 2, with digests that match."""
    bench, _ = filled
    monkeypatch.setattr("repository.tables.FORMAT", 2)
    record = bench.write(make_disk(b"y" * 3 * CHUNK), disk_id="disk-2")
    monkeypatch.undo()
    keys, sealer = bench.repository._records.keys, bench.repository._records.sealer
    with pytest.raises(UnsupportedFormat, match="map format 2"):
        open_disk_map(bench.repository._store, record, keys, sealer)
    refused = 0
    for path in Path(bench.url, "index").iterdir():
        try:
            decode_segment(f"index/{path.name}", path.read_bytes(), keys, sealer)
        except UnsupportedFormat:
            refused += 1
    assert refused == 1


def test_a_newer_pack_is_refused(filled: Any) -> None:
    """Another magic under a footer that is ours; repair neither quarantines nor rewrites it."""
    bench, _ = filled
    (path,) = [path for path in Path(bench.url, "data").rglob("*") if path.is_file()]
    keys, pack_id = bench.repository._records.keys, bytes.fromhex(path.name)
    body = b"AHVPACK2" + path.read_bytes()[8:-76]
    count = int.from_bytes(path.read_bytes()[-76:-72], "little")
    path.write_bytes(body + _footer(keys, pack_id, count, blake3(body).digest()))
    with pytest.raises(UnsupportedFormat):
        read_pack_table(path.read_bytes(), pack_id, keys)
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    report = bench.repository.repair()
    assert {finding.kind for finding in report.findings} == {FindingKind.UNREADABLE}
    assert report.packs_quarantined == ()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


@pytest.mark.parametrize(
    ("operation", "act"),
    [
        ("read", lambda bench: Repository.open(bench.url)),
        ("write", lambda bench: bench.repository.write_session("one")),
        ("write", lambda bench: bench.repository.repair()),
        ("delete", lambda bench: bench.repository.collect()),
        ("delete", lambda bench: bench.repository.give_up(["x"], dry_run=False)),
        ("verify", lambda bench: bench.repository.verify()),
    ],
    ids=["read", "write", "repair", "delete", "give up", "verify"],
)
def test_a_later_feature_stops_what_it_names(
    filled: Any, operation: str, act: Callable[[Any], object]
) -> None:
    """And nothing else: whoever may still read reads."""
    bench, point = filled
    feature = encode_open_record("feature", {"name": "newness", "operations": [operation]})
    Path(bench.url, "features").mkdir()
    Path(bench.url, "features", "newness.json").write_bytes(feature)
    with pytest.raises(UnsupportedFormat, match="newness"):
        act(bench)
    if operation != "read":
        assert bench.read(point) == b"x" * 3 * CHUNK


def test_unknown_members_and_names_are_ignored(filled: Any) -> None:
    """A later version may add to records and to the store without asking."""
    bench, point = filled
    body = {**point.model_dump(mode="json", exclude={"key"}), "colour": "green"}
    stored = bench.repository._records.encode(point.key, "point", json.loads(json.dumps(body)))
    Path(bench.url, point.key).write_bytes(stored)
    Path(bench.url, "novelty").mkdir()
    Path(bench.url, "novelty", "thing").write_bytes(b"?")
    repository = Repository.open(bench.url)
    assert [each.id for each in repository.points().points] == [point.id]
    assert repository.verify().is_clean
