"""Scale-out, broken in every way the operator fears: real processes, a real server, a real network.

Each time the session ends in bounded time, resumed or failed; nothing is left on the cluster after the
reconciler; the repository verifies; the next run is a normal incremental; no slot stays taken.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.states import Cancelling

from tests.scale.processes import send, wait_until
from tests.scale.site import ScaleSite

pytestmark = [
    pytest.mark.long,
    pytest.mark.prefect,
    pytest.mark.xdist_group("scale"),
    pytest.mark.timeout(1800),
]
SLOW_MBIT_PER_S = 8.0
Count = Callable[[str, int], None]


def begin(site: ScaleSite, seed: str) -> tuple[UUID, int]:
    """A session over web01 with much to read, slowed down, in mid-transfer; its run and its worker."""
    site.simulator.story.write_file("web01", "/srv/break.bin", size_bytes=24 << 20, seed=seed)
    run = site.start("web01", mbit_per_s=SLOW_MBIT_PER_S)
    _, number = site.wait_moving()
    return run, number


def finish(site: ScaleSite, count: Count, what: str, began_s: float) -> None:
    """What must hold after every break, and the figure for the table."""
    count(f"scale: {what}: seconds until the session had ended", round(time.monotonic() - began_s))
    site.assert_sound()
    site.simulator.story.write_file("web01", "/srv/next.bin", size_bytes=1 << 20, seed=what)
    site.assert_next_is_incremental("web01")


def revive(site: ScaleSite, number: int) -> None:
    """The worker VM comes back, as its service manager brings it."""
    site.workers[number - 1].end(within_s=1.0)
    site.workers[number - 1].start()


def test_a_mover_process_that_is_killed(site: ScaleSite, record_property: Count) -> None:
    """kill -9 of the process that moves the disks: another worker goes on, or the same again, and the session succeeds."""
    run, number = begin(site, "mover")
    began_s = time.monotonic()
    send(site.children_of(site.workers[number - 1]), signal.SIGKILL)
    state = site.wait_end(run, within_s=400)
    assert state.is_completed(), state
    assert any("failed and is left out" in each for each in site.last_report().vms[0].warnings)
    finish(site, record_property, "mover killed", began_s)


def test_a_worker_with_all_its_processes_that_is_lost(
    site: ScaleSite, record_property: Count
) -> None:
    """Host loss: every process of the worker dies at once, no signal, no hook; the VM goes on elsewhere."""
    run, number = begin(site, "host")
    began_s = time.monotonic()
    if site.network.bridge is not None:
        site.network.cut(number)
    send(site.all_of_worker(number), signal.SIGKILL)
    state = site.wait_end(run, within_s=600)
    assert state.is_completed(), state
    if site.network.bridge is not None:
        site.network.mend(number)
    revive(site, number)
    finish(site, record_property, "worker lost", began_s)


def test_a_worker_that_is_cut_off_the_network(site: ScaleSite, record_property: Count) -> None:
    """The cable is pulled: the mover cannot reach Prefect, goes on with the repository, and the session succeeds."""
    if site.network.bridge is None:
        pytest.skip("needs root and network namespaces")
    run, number = begin(site, "cut")
    began_s = time.monotonic()
    site.network.cut(number)
    state = site.wait_end(run, within_s=600)
    assert state.is_completed(), state
    site.network.mend(number)
    finish(site, record_property, "worker cut off", began_s)


def test_a_server_that_is_away_for_a_minute(site: ScaleSite, record_property: Count) -> None:
    """The Prefect server stops for 60 s in mid-transfer: the transfer does not notice, and the session succeeds."""
    run, _ = begin(site, "server")
    began_s = time.monotonic()
    site.server.child.end()
    time.sleep(60)
    site.server.start()
    state = site.wait_end(run, within_s=600)
    assert state.is_completed(), state
    finish(site, record_property, "server away 60 s", began_s)


def test_a_session_process_that_is_killed_is_cleaned_up_after_by_its_hook(
    site: ScaleSite, record_property: Count
) -> None:
    """kill -9 of the session's own process: the Prefect worker's hook removes what it left, before any other run."""
    run, _ = begin(site, "session")
    began_s = time.monotonic()
    send(site.children_of(site.control), signal.SIGKILL)
    state = site.wait_end(run, within_s=120)
    assert state.is_crashed(), state
    wait_until(
        "the hook said what it removed",
        lambda: "Removed volume-group" in site.log_of(run),
        within_s=180,
        every_s=2.0,
    )
    wait_until("nothing is left", lambda: not site.left(), within_s=60)
    finish(site, record_property, "session killed", began_s)


def test_a_control_machine_that_is_lost_is_cleaned_up_after_by_the_janitor(
    site: ScaleSite, record_property: Count
) -> None:
    """The session and its Prefect worker die together: only the silence tells, and the clean-up run that it starts cleans."""
    run, _ = begin(site, "control")
    began_s = time.monotonic()
    send([*site.children_of(site.control), site.control.pid], signal.SIGKILL)
    site.control.end(within_s=1.0)
    assert site.left() != []
    state = site.wait_end(run, within_s=300)
    assert state.is_crashed(), state
    assert "no heartbeat" in str(state.message)
    site.control.start()
    wait_until("the janitor has cleaned up", lambda: not site.left(), within_s=400, every_s=2.0)
    assert "Removed" not in site.log_of(run)
    finish(site, record_property, "control machine lost", began_s)


def test_a_session_that_is_cancelled_in_prefect(site: ScaleSite, record_property: Count) -> None:
    """Cancel from the API: the session's own exit releases what it holds within its grace, and the mover ends."""
    run, _ = begin(site, "cancel")
    began_s = time.monotonic()
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run, Cancelling())
    state = site.wait_end(run, within_s=300)
    assert state.is_cancelled() or state.is_crashed(), state
    finish(site, record_property, "session cancelled", began_s)
