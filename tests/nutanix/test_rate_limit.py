"""Keeping below the cluster's limits without spinning (§8)."""

from __future__ import annotations

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from nutanix import AhvClient
from nutanix.rate_limit import RateLimiter, endpoint_family
from simulator import Crowd, Settings, Simulator

LIMITS = {"X-Api-Ratelimit-Limit": "1", "X-Api-Ratelimit-Refresh-Period-Seconds": "1"}


@pytest.mark.parametrize(
    ("path", "family"),
    [
        ("/vmm/v4.3/ahv/config/vms", "GET /vmm/v4.3/ahv/config/vms"),
        ("/vmm/v4.3/ahv/config/vms/0006555e-aaaa-185b-0000-0123456789ab/$actions/power-on",
         "GET /vmm/v4.3/ahv/config/vms/{}/$actions/power-on"),
        ("/prism/v4.4/config/tasks/ZXJnb24%3D%3A4a1c6a0e-0000-4000-8000-0123456789ab",
         "GET /prism/v4.4/config/tasks/{}"),
        ("/dataprotection/v4.0/content/recovery-points", "GET /dataprotection/v4.0/content/recovery-points"),
    ],
)  # fmt: skip
def test_ids_do_not_make_families(path, family):
    """All calls of one kind share a limit, whatever object they are about."""
    assert endpoint_family("GET", path) == family


def test_an_announced_limit_alone_costs_nothing(client, prism, clock):
    """A cluster that announces one call per second and enforces none is not waited for."""
    prism.on("GET", "vms$", prism.reply([], headers={**LIMITS, "X-Api-Ratelimit-Remaining": "0"}))
    for _ in range(5):
        client.vms()
    assert clock.elapsed_s == 0


def test_an_enforced_limit_is_kept_from_then_on(client, prism, clock):
    """After one refusal the family is paced at its announced rate; other families are not."""
    prism.on("GET", "vms$", prism.refusal(429, headers=LIMITS), prism.reply([]))
    client.vms()
    before_s = clock.elapsed_s
    for _ in range(10):
        client.vms()
    assert 10 <= clock.elapsed_s - before_s <= 11
    prism.on("GET", "hosts$", prism.reply([]))
    before_s = clock.elapsed_s
    for _ in range(10):
        client.hosts()
    assert clock.elapsed_s == before_s


def test_an_exhausted_host_pauses_every_family(clock):
    """X-Ratelimit-Remaining 0 stops all calls to that host for the time it says."""
    limiter = RateLimiter(clock)
    limiter.learn("pc", {"X-Ratelimit-Remaining": "0", "X-Ratelimit-Reset": "3"})
    limiter.acquire("elsewhere", "GET /a")
    assert clock.elapsed_s == 0
    limiter.acquire("pc", "GET /a")
    assert clock.elapsed_s == 3


def test_nonsense_headers_are_ignored(clock):
    """Limits that are no numbers, or zero, do not stop the client."""
    limiter = RateLimiter(clock)
    limiter.learn("pc", {"X-Ratelimit-Remaining": "none"})
    limiter.turned_down("pc", "f", {"X-Api-Ratelimit-Limit": "0"}, None)
    limiter.acquire("pc", "f")
    assert clock.elapsed_s == 0


def test_32_threads_share_a_tight_limit(connection):
    """32 parallel callers against one call per 100 ms all succeed, in order of the limit, without
    busy waiting: hardly more calls are sent than needed, and hardly any CPU is used."""
    period_s, burst, lock = 0.1, 2.0, threading.Lock()
    headers = {**LIMITS, "X-Api-Ratelimit-Refresh-Period-Seconds": str(period_s)}
    state = {"tokens": burst, "at_s": time.monotonic(), "refused": 0.0}

    def handle(request: httpx.Request) -> httpx.Response:
        if request.method == "OPTIONS":
            return httpx.Response(200, json={"data": "v4.3"})
        with lock:
            now_s = time.monotonic()
            gained = (now_s - state["at_s"]) / period_s
            state.update(tokens=min(burst, state["tokens"] + gained), at_s=now_s)
            if state["tokens"] < 1:
                state["refused"] += 1
                return httpx.Response(429, headers=headers, json={})
            state["tokens"] -= 1
        return httpx.Response(200, headers=headers, json={"data": {"extId": "v"}})

    with AhvClient(connection, transport=httpx.MockTransport(handle)) as client:
        cpu_s, wall_s = time.process_time(), time.monotonic()
        with ThreadPoolExecutor(32) as pool:
            found = list(
                pool.map(
                    client.vm, [f"0006555e-0000-0000-0000-{place:012d}" for place in range(32)]
                )
            )
        cpu_s, wall_s = time.process_time() - cpu_s, time.monotonic() - wall_s
    assert len(found) == 32
    assert state["refused"] < 48
    assert wall_s < 8
    assert cpu_s < 0.5 * wall_s


@pytest.mark.long
def test_32_disks_ask_a_cluster_that_allows_one_call_a_second(connect):
    """Changed regions of 32 disks at once against limits that are enforced: all answered, at the limit's pace, asleep."""
    crowd = Crowd(vm_count=4, disks_per_vm=8, host_count=2, worker_count=2)
    settings = Settings(api_limit_per_s=1, tells_retry_after=False, task_s=0.01)
    with Simulator(size=0.02, crowd=crowd, settings=settings) as sim, connect(sim) as client:
        vms = [vm.id for vm in client.vms() if vm.name.startswith("vm-")]
        point_id = client.create_recovery_point(
            name="t-limit",
            vm_ids=vms,
            expires_at=datetime.now(UTC) + timedelta(days=1),
            request_id=str(uuid.uuid4()),
        )
        parts = client.recovery_point(point_id).vm_recovery_points
        disks = [disk for part in parts for disk in client.disk_recovery_points(point_id, part.id)]
        assert len(disks) == 32
        started_s, used_s = time.monotonic(), time.process_time()
        with ThreadPoolExecutor(32) as threads:
            found = list(threads.map(lambda disk: client.changed_regions(disk.ref, None), disks))
        elapsed_s = time.monotonic() - started_s
    assert all(each.regions for each in found)
    assert elapsed_s > 30  # Two families, one call a second each, side by side.
    assert time.process_time() - used_s < elapsed_s / 4
