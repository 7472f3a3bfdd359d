"""A full cluster or repository is told before any snapshot (S2, P4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

import jobs
from jobs import BackupSession, SpaceLimits, StorageNearlyFull
from jobs.journal import all_entries
from jobs.space import SpaceWatch
from nutanix import AhvClient, AnswerUnusable, NotFound
from nutanix.inventory import newest_space
from nutanix.models.inventory import StorageContainer
from repository import Repository, SystemClock
from repository.store import StoreSpace
from simulator import Simulator

Open = Callable[..., AbstractContextManager[BackupSession]]


@pytest.fixture
def fill(simulator: Simulator) -> Iterator[Callable[[float], None]]:
    """Leave so many percent free in the container of all guests; roomy again afterwards."""

    def to(percent: float) -> None:
        simulator.story.fill_container("default-container", free_percent=percent)

    yield to
    to(60.0)


def test_a_full_container_is_no_place_for_a_snapshot(
    simulator: Simulator,
    client: AhvClient,
    repository: Repository,
    open_backup: Open,
    fill: Callable[[float], None],
) -> None:
    """Below the limit the VM is skipped with the reason, before anything was made for it."""
    fill(4.9)
    before = {point.id for point in client.recovery_points()}
    with open_backup("web01") as session:
        with pytest.raises(
            StorageNearlyFull, match=r"default-container has 4\.9 % free"
        ) as refused:
            jobs.take_snapshot(session, simulator.vm_id("web01"))
        assert all_entries(repository.live) == [
            each for each in all_entries(repository.live) if each.kind == "worker-power"
        ]
    assert not refused.value.is_transient
    assert {point.id for point in client.recovery_points()} == before


def test_a_container_that_gets_full_is_a_warning(
    simulator: Simulator, open_backup: Open, fill: Callable[[float], None]
) -> None:
    """Between both limits the VM is backed up, and the result says how little is left."""
    fill(9.5)
    with open_backup("web01") as session:
        snapshot = jobs.take_snapshot(session, simulator.vm_id("web01"))
        jobs.abandon_snapshot(session, snapshot)
    assert any("only 9.5 % free" in warning for warning in snapshot.warnings)


def test_limits_are_the_jobs(
    simulator: Simulator, client: AhvClient, fill: Callable[[float], None]
) -> None:
    """The same container, judged by other limits; it is asked once for all VMs of a session."""
    fill(3.0)
    vm, watch, clock = client.vm(simulator.vm_id("db01")), SpaceWatch(), SystemClock()
    limits = SpaceLimits(container_warn_percent=2, container_skip_percent=1)
    assert jobs.space.check_containers(watch, client, clock, limits, vm) == []
    fill(0.5)
    assert jobs.space.check_containers(watch, client, clock, limits, vm) == []
    with pytest.raises(StorageNearlyFull):
        jobs.space.check_containers(SpaceWatch(), client, clock, limits, vm)


def test_a_cluster_that_does_not_say_hinders_nothing(
    simulator: Simulator, client: AhvClient, caplog: pytest.LogCaptureFixture
) -> None:
    """No sample, or a release without the call: told in the log, and the backup goes on."""
    simulator.story.set_faults(
        {
            "faults": [
                {"kind": "status", "status": 404, "match": {"path": "/stats/storage-containers/*"}}
            ]
        }
    )
    vm = client.vm(simulator.vm_id("web01"))
    found = jobs.space.check_containers(SpaceWatch(), client, SystemClock(), SpaceLimits(), vm)
    simulator.story.set_faults({})
    assert found == []
    assert "is not known" in caplog.text


def test_the_newest_sample_counts() -> None:
    """Samples come in any order; none at all is no answer."""
    container = StorageContainer.model_validate({"containerExtId": "c", "name": "box"})

    def series(*values: int) -> list[dict[str, object]]:
        return [
            {"value": value, "timestamp": f"2026-01-01T00:{10 - n:02}:00Z"}
            for n, value in enumerate(values)
        ]

    data = {"storageCapacityBytes": series(200, 100), "storageFreeBytes": series(50, 90, 95)}
    space = newest_space(data, container, "read")
    assert (space.name, space.free_percent) == ("box", 25.0)
    for poor in ({}, {"storageCapacityBytes": series(1)}, None):
        with pytest.raises(AnswerUnusable):
            newest_space(poor, container, "read")


def test_an_unknown_container_is_not_found(client: AhvClient) -> None:
    """The client says so by type."""
    with pytest.raises(NotFound):
        client.container_space("00000000-0000-4000-8000-000000000000")


def test_a_nearly_full_repository_is_a_warning_of_the_session(
    repository: Repository, open_backup: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told at the start, kept in the result, and enough to make a session of successes a warning."""
    assert repository.space() is not None
    monkeypatch.setattr(Repository, "space", lambda _self: StoreSpace(1000, 99))
    with open_backup("web01") as session:
        result = session.result([])
    assert result.status == "warning"
    assert "only 9.9 % free" in result.warnings[0]
    assert result.warnings[0] in jobs.session_markdown(result)


def test_a_store_without_a_size_says_nothing() -> None:
    """Only a directory knows how much is left."""
    with Repository.create("memory://space-of-nowhere") as unknowing:
        assert unknowing.space() is None
        assert jobs.space.check_repository(unknowing, SpaceLimits()) is None
