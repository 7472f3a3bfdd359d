"""`ahvault repair` says what it would do, does it, and leaves a repository that a backup can heal."""

from __future__ import annotations

import pytest

from cli.exit_codes import ExitCode


@pytest.fixture
def configured(stored, monkeypatch: pytest.MonkeyPatch):
    """The stored repository as the configured one."""
    monkeypatch.setenv("AHVAULT_REPOSITORY_URL", str(stored.path))
    return stored


def test_repair_has_nothing_to_do(ahvault, configured) -> None:
    """On a sound repository it says so."""
    done = ahvault("repair")
    assert done.code == ExitCode.OK
    assert "Nothing to repair" in done.out


def test_repair_plans_and_then_acts(ahvault, configured) -> None:
    """A bad index segment: the dry run names it and writes nothing, the run makes it again."""
    segment = next(configured.path.glob("index/*.parquet"))
    segment.write_bytes(segment.read_bytes()[:-7])
    planned = ahvault("repair", "--dry-run", "--json")
    assert planned.document["segments_quarantined"] == [f"index/{segment.name}"]
    assert not configured.path.joinpath("quarantine").exists()
    assert ahvault("verify").code == ExitCode.DAMAGE
    done = ahvault("repair")
    assert done.code == ExitCode.OK
    assert "put into the index again" in done.out
    assert ahvault("verify").code == ExitCode.OK


def test_repair_says_what_it_cannot_mend(ahvault, configured) -> None:
    """A bad commit record is named, and the exit code is the one for damage."""
    record = next(configured.path.glob("points/*/*.json"))
    record.write_bytes(record.read_bytes()[:-7])
    done = ahvault("repair")
    assert done.code == ExitCode.DAMAGE
    assert record.name in done.out


def test_export_of_what_is_left(ahvault, configured, tmp_path) -> None:
    """With all packs gone, `--allow-damaged` writes the file, names the ranges, fails the code."""
    for pack in configured.path.glob("data/*/*"):
        pack.unlink()
    file = tmp_path / "disk.raw"
    assert ahvault("export", "web01", "scsi.0", str(file)).code != ExitCode.OK
    assert not file.exists()
    done = ahvault("export", "web01", "scsi.0", str(file), "--allow-damaged", "--json")
    assert done.code == ExitCode.DAMAGE
    assert done.document["damaged_ranges_bytes"]
    assert file.stat().st_size == done.document["size_bytes"]


def test_a_way_past_a_damaged_record(ahvault, configured) -> None:
    """Collection names the command; without `--yes` that only tells; with it collection goes on."""
    record = next(configured.path.glob("points/*/*.json"))
    record.write_bytes(record.read_bytes()[:-7])
    name = record.relative_to(configured.path).as_posix()
    refused = ahvault("collect")
    assert refused.code != ExitCode.OK
    assert f"ahvault give-up {name}" in refused.err
    told = ahvault("give-up", name)
    assert told.code == ExitCode.OK
    assert "LOST" in told.out
    assert "--yes" in told.out
    assert ahvault("collect").code != ExitCode.OK
    done = ahvault("give-up", name, "--yes", "--reason", "gone", "--json")
    assert done.document["lost"][0]["key"] == name
    assert ahvault("collect").code == ExitCode.OK
    assert ahvault("verify").code == ExitCode.OK


def test_collection_tells_of_quarantine(ahvault, configured) -> None:
    """What only its quarantine keeps is named with the option that lets it go."""
    segment = next(configured.path.glob("index/*.parquet"))
    segment.write_bytes(segment.read_bytes()[:-7])
    ahvault("repair")
    at_once = ("--undelete-hours", "0", "--grace-hours", "0")
    assert "--discard-quarantined" in ahvault("collect", *at_once).out
    assert segment.exists()
    assert ahvault("collect", *at_once, "--discard-quarantined").code == ExitCode.OK
    assert not segment.exists()
