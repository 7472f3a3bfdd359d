"""Sessions of a part of their job: what failed in the last one, or VMs that somebody names (J5)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName

from flows.backup import backup
from jobs import BackupJob, JobInvalid, NothingToBackUp, SessionFailed, known_jobs
from repository import SystemClock
from simulator import Simulator

pytestmark = [pytest.mark.prefect, pytest.mark.xdist_group("prefect")]

MIB = 1 << 20
SNAPSHOTS = {"method": "POST", "path": "/config/recovery-points"}
JOB = {"name": "nightly", "parallel_vms": 1, "scope": {"vms": ["web01", "db01"]}}


def run(site: Any, fields: dict[str, Any] | None = None, **part: Any) -> Any:
    job = BackupJob.model_validate({**JOB, **(fields or {})})
    return backup(site.cluster, site.repository, site.workers, job, **part)


def failing(site: Any, fields: dict[str, Any] | None = None, **part: Any) -> Any:
    with pytest.raises(SessionFailed) as caught:
        run(site, fields, **part)
    return caught.value.result


@pytest.fixture
def refused(simulator: Simulator) -> Any:
    """Let the cluster refuse the next `times` recovery points that are asked for."""

    def refuse(times: int) -> None:
        fault = {"kind": "status", "status": 422, "match": SNAPSHOTS, "times": times}
        simulator.story.set_faults({"seed": 1, "faults": [fault]})

    yield refuse
    simulator.story.set_faults({"seed": 1, "faults": []})


def runs_named(name: str) -> list[str]:
    """Messages of the states of the flow runs with this name."""
    with get_client(sync_client=True) as prefect:
        runs = prefect.read_flow_runs(
            flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[name]))
        )
    return [each.state.message or "" for each in runs if each.state is not None]


def taken(result: Any) -> list[str]:
    return [vm.vm_name for vm in result.vms]


def test_a_retry_takes_what_failed_until_nothing_is_left_of_it(site: Any, refused: Any) -> None:
    """Only the VM that failed; record and run name say so; the job's own record keeps all its VMs; a retry after that does nothing."""
    refused(1)
    first = failing(site)
    assert [(vm.vm_name, vm.status) for vm in first.vms] == [
        ("db01", "success"),
        ("web01", "failed"),
    ]
    again = run(site, retry_failed=True)
    assert (again.status, taken(again)) == ("success", ["web01"])
    assert again.vms[0].point_id is not None
    assert again.part.retry_of == first.session_id
    named = f"backup nightly: retry of {first.session_id[:8]}: web01"
    assert runs_named(named)
    with site.repository.open() as repository:
        record = repository.reports(newest=1).reports[0]
        assert record["session_id"] == again.session_id
        assert record["part"]["retry_of"] == first.session_id
        assert record["part"]["vms"] == ["web01"]
        known = known_jobs(repository.live)["nightly"]
        assert {vm.name for vm in known.vms.values()} == {"web01", "db01"}
        assert known.narrower_scope is None
        points = len(repository.points().points)

    nothing = run(site, retry_failed=True)
    assert (nothing.status, nothing.vms) == ("success", ())
    (told,) = runs_named(f"backup nightly: retry of {again.session_id[:8]}: nothing")
    assert told.startswith(f"Nothing to retry: after session {again.session_id[:8]} of 20")
    with site.repository.open() as repository:
        assert len(repository.points().points) == points
        assert len(repository.reports().reports) == 2


def test_a_session_of_other_vms_does_not_hide_what_failed(site: Any, refused: Any) -> None:
    """After a selection that went well, the retry still takes what failed before it, and what failed again."""
    refused(2)
    assert {vm.status for vm in failing(site).vms} == {"failed"}
    picked = run(site, only=("db01",))
    assert (picked.status, taken(picked)) == ("success", ["db01"])
    assert runs_named("backup nightly: only db01")
    refused(1)
    assert taken(failing(site, retry_failed=True)) == ["web01"]
    again = run(site, retry_failed=True)
    assert (again.status, taken(again)) == ("success", ["web01"])


def test_what_a_stop_kept_from_starting_is_retried_too(site: Any, refused: Any) -> None:
    """VMs that the circuit breaker kept from starting have no restore point either."""
    refused(1)
    stopped = failing(site, {"breaker": {"failures_in_a_row": 1}})
    assert [(vm.vm_name, vm.status) for vm in stopped.vms] == [
        ("db01", "stopped"),
        ("web01", "failed"),
    ]
    assert taken(run(site, retry_failed=True)) == ["db01", "web01"]


def test_what_failed_and_left_the_job_is_told(site: Any, refused: Any) -> None:
    """Beside others it is named among those left out; alone there is nothing that a retry could do."""
    refused(2)
    failing(site)
    smaller = run(site, {"scope": {"vms": ["db01"]}}, retry_failed=True)
    assert taken(smaller) == ["db01"]
    assert smaller.left_out == ("web01: it is not in the job's scope any more",)
    refused(1)
    failing(site, only=("web01",))
    with pytest.raises(NothingToBackUp, match=r"\(web01\) is not in the job's scope any more"):
        run(site, {"scope": {"vms": ["db01"]}}, retry_failed=True)


def test_a_vm_that_nobody_knows_fails_again(site: Any) -> None:
    """A named VM that is gone stays a failure, told with the near name."""
    fields = {"scope": {"vms": ["db01", "web1"]}}
    failing(site, fields)
    again = failing(site, fields, retry_failed=True)
    assert taken(again) == ["web1"]
    assert "Did you mean web01?" in again.vms[0].error


def test_a_vm_that_came_back_is_taken_by_its_name_once(site: Any, simulator: Simulator) -> None:
    """It failed under the name in the job, and succeeds under its id; then nothing is left of it."""
    fields = {"scope": {"vms": ["db01", "web02"]}}
    failing(site, fields)
    vm_id = simulator.story.add_vm("web02", [MIB])
    try:
        again = run(site, fields, retry_failed=True)
        assert [(vm.vm_id, vm.status) for vm in again.vms] == [(vm_id, "success")]
        assert run(site, fields, retry_failed=True).vms == ()
    finally:
        simulator.story.remove_vm("web02")


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"only": ("web1",)}, "job nightly has no VM web1 in its scope; did you mean web01?"),
        ({"only": ("zzz",)}, "`ahvault plan` lists its VMs"),
        ({"only": ("files01",)}, "job nightly has no VM files01 in its scope"),
        ({"only": ("db01",), "retry_failed": True}, "not both"),
        ({"retry_failed": True}, "the repository has no session of job nightly"),
    ],
)
def test_what_cannot_be_taken_is_refused(site: Any, part: dict[str, Any], said: str) -> None:
    """Names outside of the job's scope, with the nearest inside; contradictions; a job that never ran."""
    with pytest.raises(JobInvalid) as caught:
        run(site, **part)
    assert said in str(caught.value)


def test_an_excluded_vm_is_refused_with_the_reason(site: Any) -> None:
    """It is in the scope's lists, and yet the job does not take it."""
    scope = {"vms": ["web01", "db01"], "exclude": {"vms": ["db01"]}}
    with pytest.raises(JobInvalid, match="job nightly leaves out db01: excluded by the job"):
        run(site, {"scope": scope}, only=("db01",))


class _MonthsLater(SystemClock):
    """The machine's clock, 90 days ahead."""

    def now(self) -> datetime:
        return super().now() + timedelta(days=90)


def test_retention_runs_and_lets_no_other_vm_depart(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy is carried out for the job; but a VM that was not asked for has not left the job (D2)."""
    policy = {"keep_days": 7, "departed_after_days": 7, "drop_percent_max": 100}
    fields = {"retention": {**policy, "minimum_kept": 1}}
    run(site, fields)
    monkeypatch.setattr("jobs.session.SystemClock", _MonthsLater)
    result = run(site, fields, only=("web01",))
    assert result.retention is not None
    assert [each.vm_name for each in result.retention.forgotten] == ["web01"]
    with site.repository.open() as repository:
        assert sorted(each.vm_name for each in repository.points().points) == ["db01", "web01"]
