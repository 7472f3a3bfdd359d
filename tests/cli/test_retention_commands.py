"""Retention, forgetting and collection, as an operator meets them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cli.exit_codes import ExitCode
from repository import Repository


@pytest.fixture
def configured(stored, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The stored repository as the configured one; caches go to the test's own folder."""
    monkeypatch.setenv("AHVAULT_REPOSITORY_URL", str(stored.path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return stored


@pytest.fixture
def keep_days(configured) -> int:
    """As many days as the stored restore points are old today, and one to spare."""
    with Repository.open(str(configured.path)) as repository:
        oldest = min(point.session_started_at for point in repository.points().points)
    return (datetime.now(UTC) - oldest).days + 2


@pytest.fixture
def strict(tmp_path: Path, keep_days: int) -> str:
    """A policy that keeps the stored restore points, and nothing that is older."""
    path = tmp_path / "strict.toml"
    rules = f"keep_last = 1\nminimum_kept = 1\ndrop_percent_max = 50\nkeep_days = {keep_days}\n"
    path.write_text(rules)
    return str(path)


def _points(ahvault) -> list[str]:
    return [point["id"] for point in ahvault("points", "--json").document["points"]]


def _age(stored) -> None:
    """Commit the older restore point of db01 once more, as of a session one year before its own."""
    with Repository.open(str(stored.path)) as repository:
        older = repository.points().points[0]
        with repository.write_session("again") as session:
            early = older.session_started_at - timedelta(days=365)
            fields = older.model_dump(exclude={"id", "key", "committed_at", "gc_generation"})
            session.commit(type(older).__bases__[0](**{**fields, "session_started_at": early}))


def test_retention_says_why_and_changes_nothing_in_a_dry_run(
    ahvault, configured, strict, keep_days
) -> None:
    """A verdict and a reason for each restore point, and all of them are still there."""
    _age(configured)
    before = _points(ahvault)
    told = ahvault("retention", "--policy", strict, "--dry-run")
    assert told.code == ExitCode.OK
    assert f"older than {keep_days} day" in told.out
    assert "1 of 4 restore points would be forgotten." in told.out
    assert _points(ahvault) == before


def test_retention_forgets_what_it_said(ahvault, configured, strict) -> None:
    """What a dry run named is what goes; a second run has nothing to do."""
    _age(configured)
    told = ahvault("retention", "--policy", strict, "--dry-run", "--json").document
    going = [d["point_id"] for d in told["decisions"] if d["verdict"] == "dropped"]
    done = ahvault("retention", "--policy", strict, "--json").document
    assert done["forgotten"] == going != []
    assert not set(going) & set(_points(ahvault))
    assert "older than" in ahvault("undelete", "--json").document["forgotten"][0]["reason"]
    assert ahvault("retention", "--policy", strict, "--json").document["forgotten"] == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("keep_day = 3", "keep_day"),
        ("keep_days = 0", "keep_days"),
        ("keep_days =", "not TOML"),
        ('time_zone = "Mars/Olympus"', "time_zone"),
    ],
)
def test_a_wrong_policy_is_one_sentence(ahvault, configured, tmp_path, text, said) -> None:
    """It names the file and the setting, and nothing is done."""
    path = tmp_path / "policy.toml"
    path.write_text(text)
    ended = ahvault("retention", "--policy", str(path))
    assert ended.code == ExitCode.USAGE
    assert said in ended.err
    assert "policy.toml" in ended.err
    assert "Traceback" not in ended.err


def test_forget_and_undelete(ahvault, configured) -> None:
    """Forgotten restore points leave the list, are named by undelete alone, and come back."""
    before = _points(ahvault)
    assert ahvault("forget", "db01@2026-11-23T08", "web01", "--reason", "test").code == ExitCode.OK
    assert len(_points(ahvault)) == 1
    listed = ahvault("undelete")
    assert "web01" in listed.out
    assert "test" in listed.out
    assert "Brought back web01" in ahvault("undelete", "web01").out
    assert ahvault("undelete", "db01").code == ExitCode.OK
    assert _points(ahvault) == before
    assert ahvault("undelete").out == "No restore point is forgotten.\n"


def test_one_wrong_name_forgets_nothing(ahvault, configured) -> None:
    """All names are looked up first."""
    ended = ahvault("forget", "db01", "nothing")
    assert ended.code == ExitCode.NOT_FOUND
    assert len(_points(ahvault)) == 3


def test_a_held_point_stays(ahvault, configured) -> None:
    """Neither forget nor retention takes it before it is released."""
    assert ahvault("hold", "web01", "--reason", "audit").code == ExitCode.OK
    refused = ahvault("forget", "web01")
    assert refused.code == ExitCode.REPOSITORY
    assert "held (audit)" in refused.err
    why = ahvault("retention", "--dry-run", "--json").document["decisions"]
    assert any("held: audit" in r["text"] for d in why for r in d["reasons"])
    assert ahvault("release", "web01").code == ExitCode.OK
    assert ahvault("forget", "web01").code == ExitCode.OK


def test_collect_from_plan_to_sweep(ahvault, configured) -> None:
    """Nothing within the week; a dry run changes nothing; without rest the space is freed at once."""
    ahvault("forget", "web01")
    assert ahvault("collect").out.strip() == "Generation 0: nothing to collect."
    dry = ahvault("collect", "--undelete-hours", "0", "--dry-run", "--json").document
    assert dry["stage"] == "planned"
    assert dry["freed_bytes"] > 1_000_000
    planned = ahvault("collect", "--undelete-hours", "0")
    assert "planned" in planned.out
    assert "rests until" in ahvault("collect").out
    assert ahvault("collect", "--cancel").code == ExitCode.OK
    swept = ahvault("collect", "--undelete-hours", "0", "--grace-hours", "0", "--json").document
    assert (swept["stage"], swept["generation"]) == ("swept", 2)
    assert swept["deleted_objects"] == swept["delete_requests"]
    assert ahvault("undelete", "web01").code == ExitCode.NOT_FOUND
    assert ahvault("verify").code == ExitCode.OK
    target = Path("db01.raw")
    assert ahvault("export", "db01", "scsi.0", str(target)).code == ExitCode.OK
    assert target.read_bytes() == configured.images["db01 scsi.0"]


def test_collect_refuses_on_doubt(ahvault, configured) -> None:
    """A restore point that cannot be read stops it, in one sentence, with nothing deleted."""
    record = next((configured.path / "points").rglob("*.json"))
    record.write_bytes(record.read_bytes()[:-9])
    ended = ahvault("collect")
    assert ended.code == ExitCode.REPOSITORY
    assert "nothing was collected" in ended.err
    assert "Traceback" not in ended.err
