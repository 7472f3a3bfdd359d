"""The queries of the format page, run as they stand there, answer what our own reader says."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import duckdb
import pytest

from repository import Repository, RestorePoint

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "data" / "plain"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[object, ...]]]:
    """The answers to the page's three queries, between the first two points of web01."""
    monkeypatch.chdir(GOLDEN)
    page = (ROOT / "docs" / "repository-format.md").read_text(encoding="utf-8")
    views, *queries = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    with Repository.open(str(GOLDEN)) as repository, duckdb.connect() as connection:
        older, newer, *_ = repository.points("vm/web01").points
        connection.execute(f"SET VARIABLE older = '{older.id}'; SET VARIABLE newer = '{newer.id}'")
        connection.execute(views)
        return [connection.execute(query).fetchall() for query in queries]


def stored_chunks(repository: Repository, point: RestorePoint) -> dict[bytes, int]:
    """Id and stored bytes of every data chunk of a point."""
    found = {}
    for disk in point.disks:
        reader = repository.open_disk(point, disk.disk_id)
        for number in range(reader._shape.window_count):
            for place in reader._window(number):
                if place["length"]:
                    found[place["id"].tobytes()] = int(place["length"])
    return found


def test_the_pages_queries_answer(asked: list[list[tuple[object, ...]]]) -> None:
    """Changed bytes, shared bytes and bytes per VM are those that the engine's maps add up to."""
    chunks: defaultdict[str, dict[bytes, int]] = defaultdict(dict)
    with Repository.open(str(GOLDEN)) as repository:
        every = repository.points().points + [it.point for it in repository.forgotten()]
        for point in every:
            chunks[point.vm_name] |= stored_chunks(repository, point)
        older, newer, *_ = repository.points("vm/web01").points
        before, after = (repository.open_disk(it, "disk-a") for it in (older, newer))
        changed = sum(part.length_bytes for part in after.extents_changed_since(before))
    web, db = chunks["web01"], chunks["db01"]
    shared = web.keys() & db.keys()
    assert changed
    assert shared
    assert asked[0] == [("disk-a", 2, changed)]
    assert asked[1] == [("db01", "web01", len(shared), sum(db[it] for it in shared))]
    own = {
        "web01": sum(size for it, size in web.items() if it not in db),
        "db01": sum(size for it, size in db.items() if it not in web),
    }
    totals = {vm: sum(held.values()) for vm, held in chunks.items()}
    assert {row[0]: row[1:] for row in asked[2]} == {
        vm: (totals[vm], own[vm] or None) for vm in own
    }
