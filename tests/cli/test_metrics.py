"""`ahvault metrics`: read back by Prometheus' own parser, in every way it is given."""

from __future__ import annotations

import json
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cli.exit_codes import ExitCode
from jobs import BackupJob, DiskResult, SessionResult, VmResult, VmTarget, remember_job
from jobs.journal import Journal
from repository import Repository, SystemClock


def parsed(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Every sample by name and label values, sorted by label; the parser refuses what Prometheus would."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation.endswith("."), family.name
        assert family.type == "gauge"
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


@pytest.fixture
def watched(stored, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a job whose VMs are late, one session report, and one leftover of a dead session."""
    monkeypatch.setenv("AHVAULT_REPOSITORY_URL", str(stored.path))
    now = datetime.now(UTC)
    disk = DiskResult(
        disk_id="d",
        label="scsi.0",
        provisioned_bytes=4096,
        read_bytes=300,
        stored_bytes=100,
        read_method="allocated",
        read_reason="first run of this VM in this job",
        read_cause="first-run",
    )
    vm = VmResult(
        vm_id="id-of-db01",
        vm_name='db"01',
        status="warning",
        started_at=now,
        duration_s=1,
        disks=(disk,),
    )
    session = SessionResult(
        session_id="s1", job="test", started_at=now, duration_s=60, status="warning", vms=(vm,)
    )
    clock = SystemClock()
    with Repository.open(str(stored.path)) as repository:
        repository.save_report("s1", session.model_dump(mode="json"))
        job = BackupJob(name="test", rpo_hours=0.0001)
        vms = [VmTarget("id-of-db01", "db01"), VmTarget("id-of-new", "new")]
        remember_job(repository.live, job, vms=vms, clock=clock)
        record = dict(repository.live.get("jobs", "test") or {})
        for known in record["vms"].values():
            known["since"] = (now - timedelta(hours=1)).isoformat()
        repository.live.put("jobs", "test", record)
        journal = Journal(repository.live, session_id="dead", cluster_url="https://x", clock=clock)
        journal.intend("volume-group", "ahvault-x", "id-of-db01")
    return stored.path


def test_every_number_that_monitoring_wants_is_there(ahvault, watched: Path) -> None:
    """Breach per VM, the session's bytes, ratio and causes, coverage, findings and leftovers; odd names are quoted."""
    found = parsed(ahvault("metrics").out)
    assert found["ahvault_rpo_breach"][("test", "new")] == 1
    assert found["ahvault_rpo_seconds"][("test", "db01")] == pytest.approx(0.36)
    assert found["ahvault_restore_points"][("false", "test", "db01")] == 2
    # web01 is none of the job's VMs any more: it has an age, and nobody waits for it.
    assert ("test", "web01") in found["ahvault_last_good_point_age_seconds"]
    assert ("test", "web01") not in found["ahvault_rpo_breach"]
    assert found["ahvault_session_read_bytes"] == {("test",): 300}
    assert found["ahvault_session_stored_bytes"] == {("test",): 100}
    assert found["ahvault_session_processed_bytes"] == {("test",): 4096}
    assert found["ahvault_session_reduction_ratio"] == {("test",): 3}
    assert found["ahvault_session_full_read_disks"] == {("first-run", "test"): 1}
    assert found["ahvault_session_vms"][("test", "warning")] == 1
    assert found["ahvault_leftovers"][("volume-group",)] == 1
    assert found["ahvault_verify_covered_ratio"] == {(): 0}
    assert found["ahvault_verify_open_findings"] == {(): 0}
    assert found["ahvault_repository_stored_bytes"][()] > 1_000_000
    data = ahvault("metrics", "--json").document
    assert {each["name"] for each in data} == set(found)


def test_the_text_file_is_replaced_whole_or_not_at_all(
    ahvault, watched: Path, tmp_path: Path
) -> None:
    """A reader never sees half a file; a repository that is away leaves the old one, to be told by its age."""
    target = tmp_path / "ahvault.prom"
    assert ahvault("metrics", "--textfile", str(target)).code == ExitCode.OK
    assert "ahvault_rpo_breach" in parsed(target.read_text())
    assert target.stat().st_mode & 0o444 == 0o444
    before = target.read_text()
    away = ahvault(
        "metrics", "--textfile", str(target), "--repository-url", str(tmp_path / "nowhere")
    )
    assert away.code == ExitCode.REPOSITORY
    assert target.read_text() == before
    assert [each.name for each in tmp_path.glob(".ahvault.prom*")] == []
    assert ahvault("metrics", "--listen", "here").code == ExitCode.USAGE


def test_a_scrape_is_answered_until_the_command_is_told_to_end(
    ahvault_process, watched: Path
) -> None:
    """Over HTTP, the same numbers; SIGTERM ends it."""
    child = ahvault_process(["metrics", "--listen", "127.0.0.1:0"])
    try:
        told = child.stderr.readline()
        url = told.split()[1].rstrip(";")
        found = parsed(httpx.get(url, timeout=30).text)
        assert found["ahvault_session_read_bytes"] == {("test",): 300}
    finally:
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=30)
    assert child.returncode == ExitCode.TERMINATED


def test_the_example_alerts_name_metrics_that_exist(ahvault, watched: Path) -> None:
    """docs/monitoring.md: every metric in the rules is one that is given, so that no alert is silent for ever."""
    page = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()
    given = {each["name"] for each in json.loads(ahvault("metrics", "--json").out)}
    given |= {"ahvault_worker_slots", "ahvault_worker_slots_used"}
    rules = page.partition("```yaml")[2].partition("```")[0]
    used = {word for word in _words(rules) if word.startswith("ahvault_")}
    assert used
    assert used <= given
    assert given <= {word for word in _words(page) if word.startswith("ahvault_")}


def _words(text: str) -> set[str]:
    return set("".join(each if each.isalnum() or each == "_" else " " for each in text).split())
