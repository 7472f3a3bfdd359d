"""Whether a VM may start: the window, the circuit breaker, and a wish to stop, on a clock of the test's own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from jobs import BackupJob, NoWorker, VmBusy
from jobs.admission import Admission

NIGHT = {"times": ["mon-fri 20:00-06:00"], "time_zone": "Europe/Berlin"}


class HandClock:
    """Stands still until it is moved."""

    def __init__(self, moment: datetime) -> None:
        self.moment = moment

    def now(self) -> datetime:
        return self.moment

    def monotonic_s(self) -> float:
        return self.moment.timestamp()


def admission(clock: HandClock | None = None, **fields: object) -> Admission:
    job = BackupJob.model_validate({"name": "nightly", **fields})
    return Admission(job, clock=clock or HandClock(datetime(2026, 11, 23, tzinfo=UTC)))


def test_outside_the_window_nothing_starts_and_the_answer_says_when_it_opens() -> None:
    """J3: the refusal names the next opening, in the job's time zone; inside there is none."""
    clock = HandClock(datetime(2026, 11, 24, 4, 59, tzinfo=UTC))
    job = admission(clock, window=NIGHT)
    assert job.refusal() is None
    clock.moment += timedelta(minutes=1)
    assert job.refusal() == (
        "the job's window is closed; it opens on Tue 2026-11-24 20:00 (Europe/Berlin)"
    )
    clock.moment = datetime(2026, 11, 28, 12, tzinfo=UTC)
    assert "Mon 2026-11-30 20:00" in (job.refusal() or "")


@pytest.mark.parametrize(("at_the_edge", "stops"), [("finish", False), ("stop", True)])
def test_at_the_edge_running_vms_finish_or_stop_as_the_job_says(
    at_the_edge: str, stops: bool
) -> None:
    """J3, J7: by default what runs ends well."""
    clock = HandClock(datetime(2026, 11, 24, 4, 59, tzinfo=UTC))
    job = admission(clock, window={**NIGHT, "at_the_edge": at_the_edge})
    assert job.must_stop() is None
    clock.moment += timedelta(minutes=1)
    assert (job.must_stop() is not None) == stops


def test_failures_in_a_row_of_one_cause_trip_the_breaker() -> None:
    """Only the same cause counts, only without a success between; it says the cause, once, and a retry starts afresh."""
    job = admission(breaker={"failures_in_a_row": 3})
    no_worker, busy = NoWorker("move data", {"w1": "is gone"}), VmBusy("web01", "session-1")
    for error in (no_worker, no_worker, busy, no_worker, no_worker, None, no_worker, no_worker):
        assert job.ended(error) is None
    assert job.refusal() is None
    tripped = job.ended(no_worker)
    assert tripped is not None
    assert tripped.startswith("3 VMs in a row failed of the same cause: No worker can be used")
    assert job.refusal() == tripped
    assert job.ended(no_worker) is None
    job.reset()
    assert job.refusal() is None


def test_a_share_of_the_vms_trips_the_breaker_but_not_on_small_numbers() -> None:
    """Percent of all VMs, in any order, from three failures on."""
    job = admission(breaker={"failures_in_a_row": 0, "percent_of_vms": 20})
    job.expect(12)
    busy = VmBusy("web01", "session-1")
    for error in (busy, None, busy, None):
        assert job.ended(error) is None
    assert "3 of 12 VMs failed of the same cause" in (job.ended(busy) or "")
    few = admission(breaker={"failures_in_a_row": 0, "percent_of_vms": 20})
    few.expect(3)
    assert few.ended(busy) is None
    assert few.ended(busy) is None
    assert few.refusal() is None


def test_the_breaker_can_be_turned_off() -> None:
    """0 and 0: a thousand failures stop nothing."""
    job = admission(breaker={"failures_in_a_row": 0, "percent_of_vms": 0})
    job.expect(1000)
    assert {job.ended(VmBusy("a", "b")) for _ in range(1000)} == {None}


def test_who_closes_first_gives_the_reason() -> None:
    """J7: closing is for good, and a retry does not undo it."""
    job = admission()
    job.close("an operator asked it to stop")
    job.close("it was interrupted")
    job.reset()
    assert job.is_closed
    assert job.refusal() == "an operator asked it to stop"
