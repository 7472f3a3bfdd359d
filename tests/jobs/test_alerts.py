"""Who is told of late backups, and how often."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from jobs import Alert, StatusReport, VmProtection, last_told, plan_alert, remember_told
from jobs.alerts import Told
from jobs.status import Protection
from repository import Repository

NOW = datetime(2026, 11, 27, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)


def report(*late: str, at: datetime = NOW) -> StatusReport:
    """A status in which these VMs are late."""
    rows = [
        VmProtection("nightly", vm, vm, Protection.LATE, at - 40 * HOUR, 1, 0, 30 * HOUR, None)
        for vm in late
    ]
    return StatusReport(at, tuple(rows))


def test_a_vm_that_becomes_late_is_told_once_and_once_a_day_after() -> None:
    """Hourly checks: the first tells, the next 23 are quiet, the one a day later reminds."""
    first = plan_alert(None, report("a"))
    assert first.alert is Alert.LATE
    told, alerts = first.told, []
    for hour in range(1, 25):
        plan = plan_alert(told, report("a", at=NOW + hour * HOUR))
        alerts.append(plan.alert)
        told = plan.told
    assert alerts == [Alert.NOTHING] * 23 + [Alert.LATE]


def test_one_more_late_vm_is_told_at_once() -> None:
    """Fewer are not, but one that recovered and is late again is."""
    told = Told(at=NOW - HOUR, vms=("nightly/a", "nightly/b"))
    assert plan_alert(told, report("a", "b", "c")).alert is Alert.LATE
    fewer = plan_alert(told, report("a"))
    assert fewer.alert is Alert.NOTHING
    assert plan_alert(fewer.told, report("a", "b")).alert is Alert.LATE


def test_recovery_is_told_once(tmp_path: Path) -> None:
    """And nothing is told while all is well; what was told lies in the repository."""
    with Repository.create(str(tmp_path / "store")) as repository:
        live = repository.live
        remember_told(live, plan_alert(None, report("a")).told)
        recovered = plan_alert(last_told(live), report())
        assert recovered.alert is Alert.RECOVERED
        remember_told(live, recovered.told)
        assert plan_alert(last_told(live), report()).alert is Alert.NOTHING
        live.put("alerts", "late", {"no": "sense"})
        assert last_told(live) is None
