"""`ahvault status` as an operator and a monitoring system meet it: no Prefect, at most a cluster."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cli.exit_codes import ExitCode
from jobs import BackupJob, Scope, VmTarget, remember_job
from repository import PointDraft, Repository, SystemClock
from simulator import Simulator


@pytest.fixture
def dated(stored, monkeypatch: pytest.MonkeyPatch):
    """The stored repository as the configured one; job `daily`: db01 is 10 hours old, web01 50."""
    monkeypatch.setenv("AHVAULT_REPOSITORY_URL", str(stored.path))
    with Repository.open(str(stored.path)) as repository:
        known = repository.points().points
        with repository.write_session("dated") as session:
            for point, age_hours in ((known[0], 10), (known[-1], 10), (known[1], 50)):
                moment = datetime.now(UTC) - timedelta(hours=age_hours)
                fields = point.model_dump(include=set(PointDraft.model_fields))
                dates = {"created_at": moment, "session_started_at": moment, "job": "daily"}
                session.commit(PointDraft(**{**fields, **dates}))
        for point in known:
            repository.forget(point)
    return stored


def _know_job(dated, *, rpo_hours: float | None, vms=("db01", "web01")) -> None:
    with Repository.open(str(dated.path)) as repository:
        job = BackupJob(name="daily", scope=Scope(vms=vms), rpo_hours=rpo_hours)
        targets = [VmTarget(f"id-of-{vm}", vm) for vm in vms]
        remember_job(repository.live, job, vms=targets, clock=SystemClock())


def test_the_exit_code_tells_monitoring_who_is_late(ahvault, dated) -> None:
    """0 while every VM is young enough; 8, with the VM, its age and its RPO named, when one is not."""
    _know_job(dated, rpo_hours=60)
    good = ahvault("status")
    assert good.code == ExitCode.OK
    assert "All 2 VMs have what their RPO asks for." in good.out
    _know_job(dated, rpo_hours=30)
    late = ahvault("status")
    assert late.code == ExitCode.LATE
    assert "1 VM is late: web01 (daily: " in late.out
    assert "LATE" in late.out
    document = ahvault("status", "--json").document
    assert {row["vm"]: row["is_breach"] for row in document["vms"]} == {
        "db01": False,
        "web01": True,
    }


def test_a_job_without_an_rpo_is_judged_by_the_one_that_is_given(ahvault, dated) -> None:
    """Nobody is late by themselves; with --rpo-hours they can be, and another job's filter hides them."""
    _know_job(dated, rpo_hours=None)
    assert ahvault("status").code == ExitCode.OK
    assert ahvault("status", "--rpo-hours", "0.01").code == ExitCode.LATE
    assert ahvault("status", "--rpo-hours", "0.01", "--job", "other").code == ExitCode.OK


def test_a_retired_job_is_waited_for_no_more(ahvault, dated) -> None:
    """Its VMs stay in the table; an unknown name is refused with those that there are."""
    _know_job(dated, rpo_hours=0.01)
    assert ahvault("status").code == ExitCode.LATE
    unknown = ahvault("status", "--retire", "dayli")
    assert unknown.code == ExitCode.NOT_FOUND
    assert "There are: daily." in unknown.err
    retired = ahvault("status", "--retire", "daily")
    assert retired.code == ExitCode.OK
    assert "left" in retired.out


def test_with_the_cluster_vms_are_found_that_no_session_has_tried(
    ahvault, dated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The simulated cluster has VMs that the job's scope takes and the repository has never seen."""
    with Repository.open(str(dated.path)) as repository:
        everything = BackupJob(name="daily", rpo_hours=0.0001)
        remember_job(repository.live, everything, vms=[], clock=SystemClock())
    with Simulator(size=0.05) as cluster:
        for name, value in {
            "CLUSTER_URL": cluster.pc_url,
            "CLUSTER_USERNAME": cluster.username,
            "CLUSTER_PASSWORD": cluster.password,
            "CLUSTER_CA_FILE": str(cluster.ca_file),
            "WORKERS": ",".join(each.name for each in cluster.workers),
        }.items():
            monkeypatch.setenv(f"AHVAULT_{name}", value)
        ended = ahvault("status", "--with-cluster", "--json")
    assert ended.code == ExitCode.LATE
    found = {row["vm"]: row["state"] for row in ended.document["vms"] if row["points"] == 0}
    assert found == {"db01": "missing", "files01": "missing", "web01": "missing"}
