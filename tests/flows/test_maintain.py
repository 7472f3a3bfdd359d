"""Retention inside the session, and the maintenance flows, on a real Prefect server and a simulated cluster."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client

from flows.backup import backup
from flows.maintain import check_rpo, clean_up, collect, retention, verify
from jobs import BackupJob, BackupsLate, DamageFound, Scope, known_jobs, remember_job
from jobs.marks import repository_prefix
from repository import (
    CollectSettings,
    CollectStage,
    Repository,
    RetentionPolicy,
    StoreUnavailable,
    SystemClock,
)

pytestmark = [pytest.mark.prefect, pytest.mark.xdist_group("prefect")]

LAST_TWO = RetentionPolicy(keep_days=None, keep_last=2, minimum_kept=1, drop_percent_max=100)


def run(site: Any, *vms: str, **options: Any) -> Any:
    job = BackupJob(name="nightly", scope=Scope(vms=vms), **options)
    return backup(site.cluster, site.repository, site.workers, job)


def artifact(key: str) -> str:
    """The newest artifact of that key."""
    with get_client(sync_client=True) as prefect:
        found = [each for each in prefect.read_artifacts() if each.key == key]
    return str(max(found, key=lambda each: each.created).data)


def point_ids(site: Any) -> list[str]:
    with site.repository.open() as repository:
        return [point.id for point in repository.points().points]


def test_a_session_forgets_what_its_policy_keeps_no_longer(site: Any) -> None:
    """T6: the third session leaves two points; what went and why stands in the stored report and the artifact."""
    first = [run(site, "web01", retention=LAST_TWO) for _ in range(2)]
    assert [session.retention.forgotten for session in first] == [(), ()]
    oldest = point_ids(site)[0]
    third = run(site, "web01", retention=LAST_TWO)
    assert [each.point_id for each in third.retention.forgotten] == [oldest]
    assert oldest not in point_ids(site)
    assert "Retention: 1 of 3 restore points forgotten" in artifact("session-nightly")
    with site.repository.open() as repository:
        stored = repository.reports().reports[-1]
    assert stored["retention"]["forgotten"][0]["why"] == "not one of the newest 2"


def test_trouble_with_retention_is_a_warning_and_the_backup_stands(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The restore point is made and counted; the session says warning, not failure."""
    run(site, "web01", retention=LAST_TWO)

    def unavailable(*_: object, **__: object) -> None:
        raise StoreUnavailable("list", "holds/", "it went away")

    monkeypatch.setattr(Repository, "retention_facts", unavailable)
    result = run(site, "web01", retention=LAST_TWO)
    assert result.status == "warning"
    assert result.vms[0].status == "success"
    assert "went away" in result.retention.warnings[0]
    assert len(point_ids(site)) == 2


def test_the_daily_run_forgets_with_the_last_known_policy_and_collect_frees_the_space(
    site: Any,
) -> None:
    """The job's record holds the policy; the daily run needs nothing else. Then the space is freed."""
    for _ in range(3):
        run(site, "web01")
    with site.repository.open() as repository:
        job = BackupJob(name="nightly", retention=LAST_TWO)
        remember_job(repository.live, job, vms=None, clock=SystemClock())
    results = retention(site.repository)
    assert [(each.job, len(each.forgotten)) for each in results] == [("nightly", 1)]
    assert "| nightly | 3 | 1 | 0 |" in artifact("retention")
    at_once = CollectSettings(undelete_hours=0, grace_hours=0)
    assert collect(site.repository, at_once).stage is CollectStage.SWEPT
    assert "**Generation 1: swept**" in artifact("collection")
    with site.repository.open() as repository:
        assert repository.forgotten() == []


def test_the_reference_of_a_forgotten_point_leaves_the_cluster(site: Any) -> None:
    """Nobody builds on it any more: clean-up names and removes its recovery point, and nothing else of ours."""
    run(site, "web01", "db01")
    with site.repository.open() as repository:
        for point in repository.points().points:
            if point.vm_name == "db01":
                repository.forget(point, "departed")
    listed = clean_up(site.cluster, site.repository, dry_run=True)
    assert listed == []
    assert "was forgotten" in artifact("clean-up")
    assert len(clean_up(site.cluster, site.repository)) == 1
    with site.cluster.client() as client, site.repository.open() as repository:
        kept = client.recovery_points(name_prefix=repository_prefix(repository.id))
        newest = repository.points().points[-1].source["recovery_point_id"]
        assert [each.id for each in kept] == [newest]


def test_verification_proves_all_within_its_budget_and_stays_red_until_mended(site: Any) -> None:
    """The artifact says how much is proven; a flipped byte fails this run and the next, with VM and way out named."""
    run(site, "web01")
    report = verify(site.repository)
    assert report.coverage is not None
    assert report.coverage.covered_share == 1.0
    assert "**100% proven**" in artifact("verification")
    folder = Path(site.repository.url.removeprefix("file://"))
    pack = next(path for path in sorted((folder / "data").rglob("*")) if path.is_file())
    pack.chmod(0o644)
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.write_bytes(data)
    with pytest.raises(DamageFound, match=r"1 object is not what was written.*web01"):
        verify(site.repository, every_days=1e-9)
    state = verify(site.repository, return_state=True)
    assert state.is_failed()
    assert (state.message or "").startswith("1 object is not what was written")
    assert "restore points of web01" in (state.message or "").splitlines()[0]
    assert "| damaged | its bytes do not match its digest | seen now | web01 |" in artifact(
        "verification"
    )


def test_late_backups_fail_the_check_and_their_names_come_first(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by age alone; a VM that only the cluster knows is late when the job has not run for too long."""
    run(site, "web01", rpo_hours=24)
    assert check_rpo(site.repository).breaches == ()
    with site.repository.open() as repository:
        record = dict(repository.live.get("jobs", "nightly") or {})
        record["definition"] = {"scope": {}, "rpo_hours": 1e-6}
        record["chosen_at"] = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
        repository.live.put("jobs", "nightly", record)
        assert known_jobs(repository.live)["nightly"].rpo_hours == 1e-6
    state = check_rpo(site.repository, site.cluster, site.workers, return_state=True)
    assert state.is_failed()
    assert (state.message or "").startswith("3 VMs are late")
    with pytest.raises(BackupsLate, match=r"files01 \(nightly: no good restore point"):
        state.result()
    assert "| nightly | db01 | **missing** |" in artifact("protection")
