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
