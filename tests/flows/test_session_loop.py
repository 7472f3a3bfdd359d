"""The session around its VMs: retries, circuit breaker, window, stopping gracefully, and hooks."""

from __future__ import annotations

import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.context import FlowRunContext

from flows.backup import backup
from flows.restore import restore_vm
from jobs import BackupJob, NullObserver, SessionFailed, ask_to_stop, observed_by
from jobs.leases import leased_sessions
from jobs.marks import repository_prefix
from repository import RepositoryError, SystemClock
from simulator import Simulator
from tasks import started_by_schedule

pytestmark = [pytest.mark.prefect, pytest.mark.xdist_group("prefect")]

SNAPSHOTS = {"method": "POST", "path": "/config/recovery-points"}
AT_ONCE = {"times": 2, "wait_minutes": 0, "started_by_hand": True}


class Notes(NullObserver):
    """Keeps what is said of the session as a whole."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def session_step(self, text: str) -> None:
        self.said.append(text)


def run(site: Any, observer: Any = None, **fields: Any) -> Any:
    job = BackupJob.model_validate({"name": "nightly", "parallel_vms": 1, **fields})
    with observed_by(observer or NullObserver()):
        return backup(site.cluster, site.repository, site.workers, job)


def failed(site: Any, observer: Any = None, **fields: Any) -> Any:
    with pytest.raises(SessionFailed) as caught:
        run(site, observer, **fields)
    return {vm.vm_name: vm for vm in caught.value.result.vms}, caught.value


@pytest.fixture
def refused(simulator: Simulator) -> Any:
    """Let the cluster refuse the first `times` recovery points that are asked for."""

    def refuse(times: int | None) -> None:
        fault = {"kind": "status", "status": 422, "match": SNAPSHOTS, "times": times}
        simulator.story.set_faults({"seed": 1, "faults": [fault]})

    yield refuse
    simulator.story.set_faults({"seed": 1, "faults": []})


def test_only_vms_that_failed_are_tried_again_in_the_same_session(site: Any, refused: Any) -> None:
    """J4, J6: one session, one report; the retried VM succeeds, says what went wrong before, and nobody else is read twice."""
    refused(1)
    notes = Notes()
    result = run(site, notes, scope={"vms": ["web01", "db01"]}, retry=AT_ONCE)
    by_name = {vm.vm_name: vm for vm in result.vms}
    assert result.status == "success"
    assert (by_name["web01"].tries, by_name["db01"].tries) == (2, 1)
    assert "refuses" in by_name["web01"].earlier_errors[0]
    assert by_name["db01"].earlier_errors == ()
    assert notes.said == [
        "2 VMs are to be backed up, 1 at a time",
        "1 VM has no new restore point; retry 1 of 2 in 0 min",
    ]
    with site.repository.open() as repository:
        assert len(repository.points().points) == 2
        assert len(repository.reports().reports) == 1


def test_retries_end_and_are_not_for_sessions_started_by_hand(site: Any, refused: Any) -> None:
    """J4: after the last retry the VM counts as failed, once; a session started by hand fails at once unless the job says otherwise."""
    refused(None)
    vms, error = failed(site, scope={"vms": ["web01"]}, retry=AT_ONCE)
    assert (vms["web01"].tries, len(vms["web01"].earlier_errors)) == (3, 2)
    assert str(error).startswith("1 of 1 VMs failed: web01")
    vms, _ = failed(site, scope={"vms": ["web01"]}, retry={**AT_ONCE, "started_by_hand": False})
    assert vms["web01"].tries == 1


def test_a_failed_run_begins_with_its_cause(site: Any, refused: Any) -> None:
    """The lists of the Prefect UI, its notifications and people read the beginning: of the VM's run as of the session's."""
    refused(None)
    vms, error = failed(site, name="causes", scope={"vms": ["web01"]})
    with get_client(sync_client=True) as prefect:
        told = {
            run.name: run.state.message
            for run in prefect.read_flow_runs(
                flow_run_filter=FlowRunFilter(name=FlowRunFilterName(like_="causes"))
            )
            if run.state is not None and run.state.is_failed()
        }
    assert told == {"backup causes": str(error), "causes: web01 full": vms["web01"].error}
    state = restore_vm(
        site.cluster, site.repository, site.workers, "0" * 26, "nobody", return_state=True
    )
    assert state.is_failed()
    with pytest.raises(RepositoryError) as caught:
        state.result()
    assert state.message == str(caught.value)


def test_vms_that_all_fail_of_one_cause_open_the_circuit(site: Any, refused: Any) -> None:
    """After two failures of the same cause the third VM is not started; it and the session say so; a retry begins afresh."""
    refused(None)
    notes = Notes()
    vms, _ = failed(site, notes, breaker={"failures_in_a_row": 2})
    assert [vms[name].status for name in ("db01", "files01", "web01")] == [
        "failed",
        "failed",
        "stopped",
    ]
    assert "2 VMs in a row failed of the same cause" in (vms["web01"].error or "")
    assert [text for text in notes.said if "no further VM is started" in text]
    refused(2)
    result = run(site, breaker={"failures_in_a_row": 2}, retry=AT_ONCE)
    assert result.status == "warning"
    assert "no further VM is started" in result.warnings[0]
    assert {vm.vm_name: vm.tries for vm in result.vms} == {"db01": 2, "files01": 2, "web01": 1}
    assert all(vm.point_id for vm in result.vms)


def closed_window() -> dict[str, Any]:
    """A window that is closed for the next hours, whenever the test runs."""
    later = datetime.now(UTC) + timedelta(hours=12)
    return {"times": [f"{later:%H}:00-{later:%H}:30"]}


def test_outside_the_window_no_vm_starts(site: Any) -> None:
    """J3, J7: nothing was started, so the session fails; the reason names the next opening, and nothing was asked of the cluster."""
    vms, error = failed(site, window=closed_window(), retry=AT_ONCE)
    assert {vm.status for vm in vms.values()} == {"stopped"}
    assert "No VM was backed up: The session was stopped: the job's window is closed" in str(error)
    assert "it opens on" in str(error)
    assert {vm.tries for vm in vms.values()} == {1}


class Asks(NullObserver):
    """Asks the running session to stop when its first VM has its snapshot, and waits until it has seen that."""

    def __init__(self, site: Any, *, at_once: bool) -> None:
        self.site, self.at_once = site, at_once
        self.asked, self.seen = threading.Event(), threading.Event()

    def step(self, vm_id: str, text: str) -> None:
        if self.asked.is_set() or not text.startswith("snapshot taken"):
            return
        self.asked.set()
        with self.site.repository.open() as repository:
            (session_id,) = leased_sessions(repository.live)
            ask_to_stop(repository.live, session_id, at_once=self.at_once, clock=SystemClock())
        assert self.seen.wait(60)

    def session_step(self, text: str) -> None:
        if "an operator asked it to stop" in text:
            self.seen.set()


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.vm_queue.STOP_POLL_S", 0.1)


@pytest.mark.usefixtures("looks_often")
def test_a_graceful_stop_lets_running_vms_finish(site: Any) -> None:
    """J7: the running VM has its restore point, the queued ones do not start; the session counts as stopped, in Prefect too."""
    result = run(site, Asks(site, at_once=False), retry=AT_ONCE)
    by_name = {vm.vm_name: vm for vm in result.vms}
    assert result.status == "stopped"
    assert by_name["db01"].status == "success"
    assert {by_name[name].status for name in ("files01", "web01")} == {"stopped"}
    assert "an operator asked it to stop" in (by_name["web01"].error or "")
    assert {vm.tries for vm in result.vms} == {1}
    with get_client(sync_client=True) as prefect:
        runs = prefect.read_flow_runs(
            flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=["backup nightly"]))
        )
    states = [(each.state.name, each.state.message) for each in runs if each.state is not None]
    assert any(
        name == "Stopped" and "1 of 3 VMs have a new restore point" in (message or "")
        for name, message in states
    )
    with site.repository.open() as repository:
        assert repository.live.list("stop-requests").records == {}


@pytest.mark.usefixtures("looks_often")
def test_a_stop_at_once_stops_running_vms_too(site: Any) -> None:
    """J7: no VM has a restore point, so the session fails; its snapshot is gone from the cluster."""
    vms, error = failed(site, Asks(site, at_once=True))
    assert {vm.status for vm in vms.values()} == {"stopped"}
    assert "an operator asked it to stop" in str(error)
    with site.cluster.client() as client, site.repository.open() as repository:
        assert repository.points().points == []
        prefix = repository_prefix(repository.id)
        assert client.recovery_points(name_prefix=prefix) == []


def writes(path: Path, code: int = 0) -> list[str]:
    """A hook that appends what it was told to a file, and ends with a code."""
    text = (
        "import os, sys; told = {n: v for n, v in os.environ.items() if n.startswith('AHVAULT_')};"
        "open(sys.argv[1], 'a').write(told['AHVAULT_HOOK'] + ' ' + told['AHVAULT_JOB'] + ' ' +"
        "told.get('AHVAULT_RESULT', '-') + '\\n'); sys.exit(int(sys.argv[2]))"
    )
    return [sys.executable, "-c", text, str(path), str(code)]


def test_hooks_run_around_the_session(site: Any, tmp_path: Path) -> None:
    """One before, one after with the result; a failing after-hook is a warning."""
    told = tmp_path / "told"
    hooks = {"before": {"command": writes(told)}, "after": {"command": writes(told, code=4)}}
    result = run(site, scope={"vms": ["web01"]}, hooks=hooks)
    assert told.read_text().splitlines() == ["before nightly -", "after nightly success"]
    assert result.status == "warning"
    assert "The hook after the session" in result.warnings[0]
    assert "ended with code 4" in result.warnings[0]


def test_a_failing_hook_before_stops_the_session_or_warns(site: Any, tmp_path: Path) -> None:
    """By default no VM starts and each says why; `warn` goes on. The hook after runs either way."""
    told = tmp_path / "told"
    before = {"command": writes(told, code=1)}
    after = {"command": writes(told)}
    vms, _ = failed(site, scope={"vms": ["web01"]}, hooks={"before": before, "after": after})
    assert (vms["web01"].status, vms["web01"].point_id) == ("failed", None)
    assert "The hook before the session" in (vms["web01"].error or "")
    assert told.read_text().splitlines() == ["before nightly -", "after nightly failed"]
    lenient = {"before": {**before, "if_it_fails": "warn"}}
    result = run(site, scope={"vms": ["web01"]}, hooks=lenient)
    assert (result.status, result.vms[0].status) == ("warning", "success")


def test_a_vm_that_is_gone_does_not_leave_the_others_unprotected(site: Any) -> None:
    """S10: the VM nobody knows counts as failed with the near name, the other one has its restore point."""
    vms, _ = failed(site, scope={"vms": ["web1", "web01"]})
    assert (vms["web01"].status, vms["web1"].status) == ("success", "failed")
    assert "Did you mean web01?" in (vms["web1"].error or "")


def test_a_disk_left_out_by_rule_is_recorded_and_said_also_at_restore(site: Any) -> None:
    """E3: no warning, since it is wanted so, but in the result, the restore point and the restored VM's warnings; a rule that takes no disk fails the VM."""
    scope, text = {"vms": ["db01"]}, "disk scsi.1: left out by a disk rule of the job"
    result = run(site, scope=scope, disk_rules=[{"vms": ["db01"], "disks": ["scsi.0"]}])
    assert result.status == "success"
    assert [disk.label for disk in result.vms[0].disks] == ["scsi.0"]
    assert text in result.vms[0].ruled_out[0]
    with site.repository.open() as repository:
        point = repository.points().points[-1]
    assert text in point.source["lacks"][0]
    restored = restore_vm(site.cluster, site.repository, site.workers, point.id, "db01-without")
    assert any(text in warning and "not restored" in warning for warning in restored.warnings)
    with site.cluster.client() as client:
        assert len(client.vm(restored.vm_id).data_disks) == 1
        client.delete_vm(restored.vm_id)
    vms, _ = failed(site, scope=scope, disk_rules=[{"disks": ["ide.7"]}])
    assert "take none of the disks of db01, which are scsi.0, scsi.1" in (vms["db01"].error or "")


@flow
def who_started_me(*, scheduled: bool) -> bool:
    """What the flow run below believes; the scheduler marks its runs as here."""
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    context.flow_run.auto_scheduled = scheduled
    return started_by_schedule()


def test_a_session_knows_whether_a_schedule_started_it() -> None:
    """J4: that decides about retries."""
    assert who_started_me(scheduled=True)
    assert not who_started_me(scheduled=False)
    assert not started_by_schedule()
