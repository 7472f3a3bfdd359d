"""Limits through Prefect: one queue for everybody, and a real session that a limit slows down."""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.backup import backup
from flows.restore import restore_vm
from jobs import (
    BackupJob,
    LimitsUnavailable,
    RuleBook,
    Scope,
    TransferUnencrypted,
    parse_rule,
)
from jobs.policies import TransferLimits
from tasks import PrefectLimits
from tasks.throttle import PREFIX, SLOT_BYTES
from tests.flows.conftest import Site

pytestmark = [pytest.mark.prefect, pytest.mark.xdist_group("prefect")]

KIB = 1024


@pytest.fixture
def limits() -> Iterator[tuple[PrefectLimits, PrefectLimits]]:
    """Two users of one server, as two processes are."""
    with closing(PrefectLimits()) as one, closing(PrefectLimits()) as other:
        yield one, other


@pytest.fixture
def key() -> str:
    return f"test:{uuid.uuid4().hex}"


def test_whoever_asks_is_put_behind_all_that_is_reserved(
    limits: tuple[PrefectLimits, PrefectLimits], key: str
) -> None:
    """Q3: turns of 2 s each, reserved by two users, begin one after the other."""
    start_s = time.monotonic()
    waits = [limits[number % 2].reserve(key, 1000 * KIB, 2000 * KIB).wait_s for number in range(4)]
    passed_s = time.monotonic() - start_s
    expected = [0, 2, 4, 6]
    assert all(
        due - passed_s - 0.1 <= wait_s <= due + 0.1
        for due, wait_s in zip(expected, waits, strict=True)
    )


def test_a_rate_that_one_changes_is_that_of_all(
    limits: tuple[PrefectLimits, PrefectLimits], key: str
) -> None:
    """Q7: what was reserved before is void, and who has not heard yet gets turns at the new rate."""
    one, other = limits
    for _ in range(3):
        one.reserve(key, 1000 * KIB, 1000 * KIB)
        other.reserve(key, 1000 * KIB, 1000 * KIB)
    changed = one.reserve(key, 10 * KIB, 10 * KIB)
    assert changed.wait_s == 0
    late = other.reserve(key, 1000 * KIB, 1000 * KIB)
    assert late.bytes_s == 10 * KIB
    assert late.length_bytes == 80 * KIB  # eight seconds, not a hundred
    assert late.wait_s <= 1
    assert one.reserve(key, 10 * KIB, 10 * KIB).wait_s <= 9
    with get_client(sync_client=True) as client:
        found = client.read_global_concurrency_limit_by_name(f"{PREFIX}{key}")
    assert found.slot_decay_per_second == 10 * KIB / SLOT_BYTES


def test_a_server_that_is_away_is_said_to_be(key: str) -> None:
    """An error of ours that names the limit; the transfer goes on by itself then."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (
        temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}),
        closing(PrefectLimits()) as limits,
        pytest.raises(LimitsUnavailable, match=key),
    ):
        limits.reserve(key, 1000, 1000)


def test_a_limit_slows_a_session_and_is_named_its_bottleneck(site: Site) -> None:
    """Q11, and Q9: an ad-hoc full backup keeps to the rule; the load of the limit is the highest."""
    with site.repository.open() as repository:
        RuleBook(repository.live).put(parse_rule({"name": "store", "limit": "2 MiB/s"}))
    job = BackupJob(scope=Scope(vms=("web01",)))
    result = backup(site.cluster, site.repository, site.workers, job)
    (vm,) = result.vms
    stored_bytes = sum(disk.stored_bytes for disk in vm.disks)
    assert stored_bytes > 2**20
    assert vm.bottleneck == "throttling"
    assert vm.loads["throttling"] > max(
        load for stage, load in vm.loads.items() if stage != "throttling"
    )
    assert vm.transfer_s >= 0.9 * stored_bytes / 2**21


def test_a_job_is_held_to_its_own_limit_and_a_restore_is_not(site: Site) -> None:
    """The field of the job's form acts; Q6: the restore of what was backed up so slowly is not slowed."""
    job = BackupJob(name="slow", scope=Scope(vms=("web01",)), limits=TransferLimits(mbit_per_s=16))
    result = backup(site.cluster, site.repository, site.workers, job)
    (vm,) = result.vms
    stored_bytes = sum(disk.stored_bytes for disk in vm.disks)
    assert vm.bottleneck == "throttling"
    assert vm.transfer_s >= 0.9 * stored_bytes / 2e6
    with site.repository.open() as repository:
        RuleBook(repository.live).put(parse_rule({"name": "store", "limit": "8 KiB/s"}))
    restored = restore_vm(
        site.cluster,
        site.repository,
        site.workers,
        vm.point_id or "",
        f"back-{uuid.uuid4().hex[:6]}",
    )
    with site.cluster.client() as client:
        client.delete_vm(restored.vm_id)
    assert restored.restored_bytes > 10 * 8192


def test_a_restore_in_the_clear_is_refused_before_it_makes_anything(site: Site) -> None:
    """Q8: from a store at a public address nothing is read unencrypted, and no VM or disk is left."""
    job = BackupJob(name="public", scope=Scope(vms=("web01",)))
    (vm,) = backup(site.cluster, site.repository, site.workers, job).vms
    with site.repository.open() as repository:
        RuleBook(repository.live).place_at(ip_address("8.8.8.8"))
    with site.cluster.client() as client:
        before = {each.id for each in client.volume_groups()}
        with pytest.raises(TransferUnencrypted, match=r"8\.8\.8\.8"):
            restore_vm(site.cluster, site.repository, site.workers, vm.point_id or "", "in-clear")
        assert {each.id for each in client.volume_groups()} == before
        assert "in-clear" not in {each.name for each in client.vms()}
