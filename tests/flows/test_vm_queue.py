"""The queue of a session on a clock of the test's own: edges of the window, order, and retries across them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flows.vm_queue import run_queue
from jobs import (
    BackupJob,
    BackupSession,
    NullObserver,
    SessionStopped,
    VmBusy,
    VmResult,
    VmStory,
    VmTarget,
    open_backup_session,
)

pytestmark = [pytest.mark.prefect, pytest.mark.xdist_group("prefect")]

VMS = [VmTarget(f"id-{name}", name) for name in ("a", "b", "c")]


class HandClock:
    """Stands still until it is moved; what is waited for by the second passes as the machine's time does."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 11, 24, 5, 59, tzinfo=UTC)

    def now(self) -> datetime:
        return self.moment

    def monotonic_s(self) -> float:
        return self.moment.timestamp()


Open = Callable[..., Any]


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def opened(site: Any, clock: HandClock) -> Open:
    """A real session, whose VMs the test runs itself."""

    @contextmanager
    def opening(**fields: Any) -> Iterator[BackupSession]:
        job = BackupJob.model_validate(
            {"name": "nightly", "parallel_vms": 1, "window": {"times": ["20:00-06:00"]}, **fields}
        )
        with (
            site.cluster.client() as client,
            site.repository.open() as repository,
            open_backup_session(
                client=client,
                repository=repository,
                workers=[],
                job=job,
                observer=NullObserver(),
                clock=clock,
            ) as session,
        ):
            yield session

    return opening


def ends(session: BackupSession, vm: VmTarget, error: Exception | None = None) -> VmResult:
    story = VmStory.begin(vm.vm_id, vm.vm_name, clock=session.clock, observer=session.observer)
    return session.finish(story, error)


def statuses(session: BackupSession) -> dict[str, str]:
    session.finish_unstarted(VMS)
    return {result.vm_name: result.status for result in session.results}


def test_when_the_window_closes_running_vms_finish_and_queued_ones_do_not_start(
    opened: Open, clock: HandClock
) -> None:
    """J3, J7: the default. What was not started says when the window opens."""

    def run_vm(session: BackupSession, vm: VmTarget) -> VmResult:
        clock.moment += timedelta(minutes=2)
        return ends(session, vm)

    with opened() as session:
        run_queue(session, VMS, run_vm, may_retry=True)
        assert not session.stop.is_set()
        assert statuses(session) == {"a": "success", "b": "stopped", "c": "stopped"}
        assert "it opens on Tue 2026-11-24 20:00 (UTC)" in (session.results[-1].error or "")


def test_when_the_window_closes_running_vms_stop_if_the_job_says_so(
    opened: Open, clock: HandClock
) -> None:
    """J3, J7: the transfer is told to stop, and its VM says why."""

    def run_vm(session: BackupSession, vm: VmTarget) -> VmResult:
        clock.moment += timedelta(minutes=2)
        assert session.stop.wait(60)
        return ends(session, vm, SessionStopped("its transfer was told to"))

    with opened(window={"times": ["20:00-06:00"], "at_the_edge": "stop"}) as session:
        run_queue(session, VMS, run_vm, may_retry=True)
        assert statuses(session) == dict.fromkeys("abc", "stopped")
        assert "the job's window is closed" in (session.results[0].error or "")


def test_no_retry_begins_outside_the_window(opened: Open, clock: HandClock) -> None:
    """J4: what failed stays failed, with its own error, when the pause ends after the edge."""
    tried: list[str] = []

    def run_vm(session: BackupSession, vm: VmTarget) -> VmResult:
        tried.append(vm.vm_name)
        if len(tried) == len(VMS):
            clock.moment += timedelta(minutes=5)
        return ends(session, vm, VmBusy(vm.vm_name, "session-1"))

    with opened(retry={"wait_minutes": 0}, breaker={"failures_in_a_row": 0}) as session:
        run_queue(session, VMS, run_vm, may_retry=True)
        assert tried == ["a", "b", "c"]
        assert statuses(session) == dict.fromkeys("abc", "failed")


def test_vms_start_in_their_order_and_a_few_at_a_time(opened: Open, clock: HandClock) -> None:
    """E5, E6: never more than `parallel_vms` at once."""
    started: list[str] = []
    running, most = set(), []
    both = threading.Barrier(2)

    def run_vm(session: BackupSession, vm: VmTarget) -> VmResult:
        started.append(vm.vm_name)
        running.add(vm.vm_name)
        most.append(len(running))
        if vm.vm_name != "c":
            both.wait(60)
        running.discard(vm.vm_name)
        return ends(session, vm)

    with opened(parallel_vms=2) as session:
        run_queue(session, VMS, run_vm, may_retry=False)
        assert started[2] == "c"
        assert max(most) == 2
        assert statuses(session) == dict.fromkeys("abc", "success")


def test_an_interrupt_ends_the_queue_and_is_passed_on(opened: Open, clock: HandClock) -> None:
    """Whatever ends the loop from outside, queued VMs do not start, and the reason is kept."""

    def run_vm(session: BackupSession, vm: VmTarget) -> VmResult:
        raise KeyboardInterrupt

    with opened() as session:
        with pytest.raises(KeyboardInterrupt):
            run_queue(session, VMS, run_vm, may_retry=True)
        assert session.stop.is_set()
        assert statuses(session) == dict.fromkeys("abc", "stopped")
        assert "it was interrupted" in (session.results[-1].error or "")
