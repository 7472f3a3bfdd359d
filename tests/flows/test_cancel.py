"""A run that somebody cancels in Prefect, started by hand: it notices by itself, and cleans up."""

from __future__ import annotations

from threading import Event
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.context import FlowRunContext
from prefect.states import Cancelling

from flows.backup import backup
from jobs import BackupJob, NullObserver, Scope, observed_by
from tasks import cause_first
from tests.flows.test_flows import assert_nothing_is_left

pytestmark = [pytest.mark.prefect, pytest.mark.xdist_group("prefect")]


class Canceller(NullObserver):
    """Cancels the session over Prefect's API when the first disk starts, and holds that disk up."""

    def __init__(self) -> None:
        self.stopped = Event()

    def disk_started(
        self, vm_id: str, disk_id: str, label: str, to_read_bytes: int, counters: Any
    ) -> None:
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        with get_client(sync_client=True) as client:
            task_run = client.read_task_run(context.flow_run.parent_task_run_id)
            client.set_flow_run_state(task_run.flow_run_id, Cancelling())
        self.stopped.wait(60)

    def session_step(self, text: str) -> None:
        pass


def test_a_session_started_by_hand_heeds_a_cancel_from_the_api(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API's cancel reaches a run that gets no signal: it stops, releases everything, and ends as Cancelled."""
    monkeypatch.setattr("tasks.cancel.LOOK_PERIOD_S", 0.2)
    canceller = Canceller()
    told = "jobs.session.BackupSession.wind_down"
    wind_down = __import__("jobs.session").session.BackupSession.wind_down

    def note(self: Any, why: str, *, at_once: bool = False) -> None:
        wind_down(self, why, at_once=at_once)
        canceller.stopped.set()

    monkeypatch.setattr(told, note)
    with observed_by(canceller):
        state = backup(
            site.cluster,
            site.repository,
            site.workers,
            BackupJob(name="nightly", scope=Scope(vms=("web01",))),
            return_state=True,
        )
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(state.state_details.flow_run_id)
    assert run.state is not None
    assert run.state.type is StateType.CANCELLED, run.state
    assert_nothing_is_left(site)
    with site.repository.open() as repository:
        assert [each["status"] for each in repository.reports().reports] == ["stopped"]
        assert repository.points().points == []


@flow
@cause_first
def fails_while_it_is_cancelled() -> None:
    """As a session that was stopped by a cancel ends."""
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(context.flow_run.id, Cancelling())
    raise KeyError("vm")


@flow(retries=1)
@cause_first
def succeeds_at_the_second_try(tried: list[int]) -> int:
    """As a user may set it for all flows."""
    tried.append(len(tried))
    if len(tried) == 1:
        raise KeyError("vm")
    return len(tried)


@flow
@cause_first
def fails_as_nobody_expected() -> None:
    """A defect of ours."""
    raise KeyError("vm")


def test_callers_get_what_was_raised_whatever_prefect_makes_of_the_run() -> None:
    """A run that is being cancelled takes no other end, one with retries tries again, and an error of no kind of ours is named."""
    with pytest.raises(KeyError, match="vm"):
        fails_while_it_is_cancelled()
    assert succeeds_at_the_second_try([]) == 2
    state = fails_as_nobody_expected(return_state=True)
    assert (state.is_failed(), state.message) == (True, "KeyError: 'vm'")
