"""The VMs of a session, a few at a time: rounds, retries, and the ways in which they end early."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from datetime import timedelta

from jobs import BackupSession, VmResult, VmTarget, human_span, stop_asked

log = logging.getLogger(__name__)

RunVm = Callable[[BackupSession, VmTarget], VmResult]

STOP_POLL_S = 5.0
"""How often a session looks whether somebody asked it to stop."""


def run_queue(
    session: BackupSession, vms: Sequence[VmTarget], run_vm: RunVm, *, may_retry: bool
) -> None:
    """Run every VM once, and those that failed again, as the job's retries say (J4).

    Results collect in the session. VMs start in their order, `parallel_vms` at a time, as long as
    the session's admission lets them. On an interrupt the transfers are told to stop and the VMs'
    own cleanup is waited for.
    """
    watch = _Watch(session)
    if vms:
        session.observer.session_step(_beginning(len(vms), session.job.parallel_vms))
    try:
        _run_round(session, vms, run_vm, watch)
        for number in range(1, session.job.retry.times + 1 if may_retry else 1):
            again = session.to_try_again(vms)
            session.admission.reset()
            if not again or session.admission.refusal() is not None:
                return
            if not _pause(session, watch, len(again), number):
                return
            _run_round(session, again, run_vm, watch)
    except BaseException:
        session.wind_down("it was interrupted", at_once=True)
        raise


def _beginning(vm_count: int, parallel_vms: int) -> str:
    named = "1 VM is" if vm_count == 1 else f"{vm_count} VMs are"
    return f"{named} to be backed up" + (
        f", {parallel_vms} at a time" if vm_count > parallel_vms else ""
    )


class _Watch:
    """Looks, once a second, whether the session is to end: for a wish to stop, and the window's edge."""

    def __init__(self, session: BackupSession) -> None:
        self._session, self._next_s = session, 0.0

    def look(self) -> None:
        """Close the session's admission, and stop what runs, if it is time."""
        session = self._session
        edge = session.admission.must_stop()
        if edge is not None and not session.stop.is_set():
            self._end(edge, at_once=True)
        if session.clock.monotonic_s() < self._next_s:
            return
        self._next_s = session.clock.monotonic_s() + STOP_POLL_S
        request = stop_asked(session.repository.live, session.session_id)
        if request is None or session.stop.is_set():
            return
        if request.at_once or not session.admission.is_closed:
            self._end("an operator asked it to stop", at_once=request.at_once)

    def _end(self, why: str, *, at_once: bool) -> None:
        what = "running VMs are stopped" if at_once else "running VMs end, no further one starts"
        self._session.observer.session_step(f"warning: {why}: {what}")
        self._session.wind_down(why, at_once=at_once)


def _run_round(
    session: BackupSession, vms: Sequence[VmTarget], run_vm: RunVm, watch: _Watch
) -> None:
    """Run these VMs. Also on an interrupt, return only when none runs: released too early, a volume
    group would be deleted under a reader."""
    pool = ThreadPoolExecutor(max_workers=session.job.parallel_vms, thread_name_prefix="vm")
    futures = [pool.submit(copy_context().run, _run_admitted, session, vm, run_vm) for vm in vms]
    try:
        # Woken every second: a signal that another thread received is handled only when the main
        # thread runs, and a wait without end would hold it back until the last VM is done.
        while wait(futures, timeout=1.0).not_done:
            watch.look()
        for future in futures:
            future.result()
    except BaseException:
        session.wind_down("it was interrupted", at_once=True)
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        _wait_patiently(futures)


def _run_admitted(session: BackupSession, vm: VmTarget, run_vm: RunVm) -> None:
    if session.admission.refusal() is None:
        run_vm(session, vm)


def _pause(session: BackupSession, watch: _Watch, vm_count: int, number: int) -> bool:
    """Wait before a retry; False when the session is not to go on."""
    pause = timedelta(minutes=session.job.retry.wait_minutes)
    named = "1 VM has" if vm_count == 1 else f"{vm_count} VMs have"
    session.observer.session_step(
        f"{named} no new restore point; retry {number} of {session.job.retry.times} "
        f"in {human_span(pause)}"
    )
    deadline_s = session.clock.monotonic_s() + pause.total_seconds()
    while not session.stop.is_set() and not session.admission.is_closed:
        left_s = deadline_s - session.clock.monotonic_s()
        if left_s <= 0:
            return True
        session.stop.wait(min(1.0, left_s))
        watch.look()
    return False


def _wait_patiently(futures: Sequence[Future[None]]) -> None:
    """Wait for all that run, whatever further interrupts come."""
    while any(future.running() for future in futures):
        try:
            wait(futures, timeout=1.0)
        except KeyboardInterrupt:
            log.warning("Still cleaning up; a moment more")
