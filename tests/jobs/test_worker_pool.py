"""The workers of a session on a simulated cluster: prepared, shared, drained, powered, passed by (W1-W16)."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import jobs
from jobs import LocalSlots, NoWorker, NullObserver, Session, SessionStopped, WorkerSpec
from jobs.drains import Drain, drain, undrain
from jobs.journal import all_entries
from nutanix import AhvClient, BlankDisk, NutanixError
from repository import Repository
from simulator import Settings, Simulator

OpenRun = Callable[..., AbstractContextManager[Session]]

MIB = 1 << 20


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    """A small Nutanix whose operations end quickly."""
    with Simulator(size=0.05, settings=Settings(task_s=0.01, power_on_s=0.02)) as running:
        yield running


@pytest.fixture(autouse=True)
def no_faults(simulator: Simulator) -> Iterator[None]:
    """Faults end with their test; so does what it left running."""
    yield
    simulator.story.set_faults({"faults": []})
    for worker in simulator.workers:
        simulator.story.power(worker.name, is_on=False)


@pytest.fixture
def open_run(client: AhvClient, repository: Repository, workers: list[WorkerSpec]) -> OpenRun:
    """Open a run with the workers, each changed as told, that are not yet prepared."""

    @contextmanager
    def opened(
        *, store: Repository | None = None, slots: Any = None, check: Any = None, **changes: Any
    ) -> Iterator[Session]:
        with jobs.open_session(
            client=client,
            repository=store or repository,
            workers=[worker.model_copy(update=changes) for worker in workers],
            job_name="test",
            observer=NullObserver(),
            slots=slots,
            queue_check=check,
        ) as run:
            yield run

    return opened


def take(run: Session, **options: Any) -> jobs.WorkerChoice:
    cluster = run.client.clusters()[0].id
    settings: dict[str, Any] = {"host_id": None, "failed": {}, "stop": run.stop, **options}
    return run.workers.take(purpose="back up web01", cluster_id=cluster, **settings)


@contextmanager
def attached(run: Session, name: str = "x") -> Iterator[jobs.Attachment]:
    """A blank disk of a run of its own name, attached to a worker."""
    container = run.client.storage_containers()[0].id
    group = jobs.make_group(
        run,
        name=run.object_name(name),
        purpose=f"fill {name}",
        vm_id=f"vm-{name}",
        cluster_id=run.client.clusters()[0].id,
        host_id=None,
        sources=[BlankDisk(index=0, size_bytes=MIB, storage_container_id=container)],
        sizes_bytes=[MIB],
    )
    try:
        attachment = jobs.attach(run, group, {})
        yield attachment
        jobs.detach(run, attachment)
    finally:
        assert jobs.remove_group(run, group) is None


def blank_group(client: AhvClient, name: str) -> str:
    """A volume group with one blank disk that no run made."""
    container = client.storage_containers()[0].id
    return client.create_volume_group(
        name=name,
        cluster_id=client.clusters()[0].id,
        disks=[BlankDisk(index=0, size_bytes=MIB, storage_container_id=container)],
        request_id=str(uuid.uuid4()),
    )


def states(client: AhvClient) -> dict[str, bool]:
    return {vm.name: vm.is_on for vm in client.vms() if "worker" in vm.name}


def test_workers_run_while_a_run_needs_them(client: AhvClient, open_run: OpenRun) -> None:
    """W9: both are powered on at the start, and off when the last user left; nothing stays in the journal."""
    with open_run() as run:
        run.workers.prepare()
        assert set(states(client).values()) == {True}
        assert {each.kind for each in all_entries(run.repository.live)} == {"worker-power"}
    assert set(states(client).values()) == {False}
    assert all_entries(run.repository.live) == []


def test_a_worker_that_somebody_else_runs_stays_on(
    simulator: Simulator, client: AhvClient, open_run: OpenRun
) -> None:
    """W9: what an operator powered on is the operator's to power off."""
    simulator.story.power("ahvault-worker-2", is_on=True)
    with open_run() as run:
        run.workers.prepare()
    assert states(client) == {"ahvault-worker-1": False, "ahvault-worker-2": True}


@pytest.mark.parametrize("refused", ["power-off", "shutdown"])
def test_a_guest_is_asked_first_and_its_power_cut_second(
    simulator: Simulator, client: AhvClient, open_run: OpenRun, refused: str
) -> None:
    """W9: the ACPI button alone turns a willing guest off; a role that may not press it cuts the power."""
    fault = {"kind": "status", "status": 403, "match": {"path": f"*actions/{refused}"}}
    simulator.story.set_faults({"faults": [fault]})
    with open_run() as run:
        run.workers.prepare()
    assert set(states(client).values()) == {False}


def test_a_shutdown_that_the_cluster_fails_at_ends_in_a_power_off(
    simulator: Simulator, client: AhvClient, open_run: OpenRun
) -> None:
    """W9: the operation fails for both workers; their power is cut, and nothing is left to the next session."""
    with open_run() as run:
        run.workers.prepare()
        fault = {"kind": "task", "outcome": "fails", "match": {"operation": "SetVmPower"}}
        simulator.story.set_faults({"faults": [{**fault, "times": 2}]})
    assert simulator.story.struck_faults() == [2]
    assert states(client) == {"ahvault-worker-1": False, "ahvault-worker-2": False}
    assert all_entries(run.repository.live) == []


def test_a_guest_that_ignores_the_button_loses_its_power(tmp_path: Path) -> None:
    """W9: after the timeout the power is cut, so that no worker runs for ever; it is never suspended."""
    settings = Settings(task_s=0.01, power_on_s=0.02, guests_ignore_shutdown=True)
    with Simulator(size=0.02, settings=settings) as stubborn:
        connection = jobs_connection(stubborn)
        with (
            AhvClient(connection) as client,
            Repository.create(f"file://{tmp_path}/other") as store,
            jobs.open_session(
                client=client,
                repository=store,
                workers=[
                    WorkerSpec(
                        vm=each.name, device_root=str(each.device_root), shutdown_timeout_s=0.2
                    )
                    for each in stubborn.workers
                ],
                job_name="test",
                observer=NullObserver(),
            ) as run,
        ):
            run.workers.prepare()
            assert set(states(client).values()) == {True}
        with AhvClient(connection) as client:
            powers = {vm.power_state for vm in client.vms() if "worker" in vm.name}
    assert powers == {"OFF"}


def jobs_connection(simulator: Simulator) -> Any:
    from nutanix import ClusterConnection

    return ClusterConnection(
        url=simulator.pc_url,
        username=simulator.username,
        password=simulator.password,
        ca_file=simulator.ca_file,
        prism_element_port=int(simulator.pe_url.rpartition(":")[2]),
    )


def test_a_worker_that_does_not_boot_is_passed_by(simulator: Simulator, open_run: OpenRun) -> None:
    """W11: a power-on that never ends leaves that worker out, with the reason; the other one works."""
    stuck = {
        "kind": "task",
        "outcome": "stuck",
        "match": {"operation": "SetVmPower"},
        "times": 1,
    }
    simulator.story.set_faults({"faults": [stuck]})
    with open_run(boot_timeout_s=1.0) as run:
        run.workers.prepare()
        chosen = take(run).worker.name
        other = {"ahvault-worker-1", "ahvault-worker-2"} - {chosen}
        with pytest.raises(NoWorker, match=f"{other.pop()}: it was not on 1 s after"):
            take(run, failed={chosen: "tried"})


def test_a_worker_with_a_queue_is_ready_when_its_prefect_worker_is(open_run: OpenRun) -> None:
    """W11: a booted guest shows itself by an online Prefect worker; one that never does is not used."""
    asked: list[str] = []

    def check(queue: str) -> str | None:
        asked.append(queue)
        return None if len(asked) > 3 else "no Prefect worker is online"

    with open_run(queue="q", device_root="/nonexistent", boot_timeout_s=20.0, check=check) as run:
        run.workers.prepare()
        assert take(run).worker.queue == "q"
    with (
        open_run(
            queue="q", boot_timeout_s=0.1, check=lambda _: "no Prefect worker is online"
        ) as run,
        pytest.raises(NoWorker, match="no Prefect worker is online"),
    ):
        run.workers.prepare()


def test_a_full_worker_is_waited_for_audibly_and_in_vain_only_until_stopped(
    open_run: OpenRun,
) -> None:
    """W3: with all slots taken a VM waits, says so, gets the slot that is given back, and obeys a stop."""
    with open_run() as run:
        run.workers.prepare()
        held = [take(run) for _ in range(8)]
        told: list[str] = []
        got: list[jobs.WorkerChoice] = []
        waiting = threading.Thread(target=lambda: got.append(take(run, tell=told.append)))
        waiting.start()
        while not told:
            waiting.join(0.05)
        assert "waiting for a free slot of worker ahvault-worker-" in told[0]
        run.workers.give_back(held[5])
        waiting.join(30)
        assert got[0].worker.name == held[5].worker.name
        run.stop.set()
        with pytest.raises(SessionStopped):
            take(run)


def test_a_restore_does_not_wait_behind_backups(open_run: OpenRun) -> None:
    """W5: a restore ranks above all other work: with every slot taken it goes beyond the limit, and says so."""
    with open_run() as run:
        run.workers.prepare()
        for _ in range(8):
            take(run)
        told: list[str] = []
        choice = take(run, is_urgent=True, tell=told.append)
        assert "beyond the limit" in told[0]
        run.workers.give_back(choice)


def test_slots_are_counted_over_runs_that_share_them(open_run: OpenRun) -> None:
    """W3: two runs over one counter see each other's slots, and prefer the worker that has more left (W7)."""
    shared = LocalSlots()
    with open_run(slots=shared) as one, open_run(slots=shared) as other:
        one.workers.prepare()
        other.workers.prepare()
        first, second = take(one), take(other)
        assert {first.worker.name, second.worker.name} == {"ahvault-worker-1", "ahvault-worker-2"}
        assert second.worker.slots_free == 4
        for _ in range(6):
            take(one)
        assert sum(shared.free([first.worker.vm_id, second.worker.vm_id]).values()) == 0


def test_leftovers_on_a_worker_go_before_it_takes_work(
    simulator: Simulator, client: AhvClient, repository: Repository, open_run: OpenRun
) -> None:
    """W16: a group of an ended session that is still attached is detached and deleted; if it cannot be, the worker waits."""
    with open_run() as dead:
        dead.workers.prepare()
        with attached(dead, "left") as attachment:
            entry = attachment.group.entry
            worker = attachment.choice.worker
        # As a kill leaves it: the group attached, its entry in the journal, no lease of its session.
    left = blank_group(client, entry.name)
    client.attach_volume_group(left, worker.vm_id)
    entry = entry.model_copy(update={"object_id": left, "session_id": "ended"})
    repository.live.put("journal", entry.key, entry.model_dump(mode="json"))

    refusal = {"kind": "status", "status": 403, "match": {"path": "*actions/detach-vm"}}
    simulator.story.set_faults({"faults": [refusal]})
    with open_run() as run:
        run.workers.prepare()
        with pytest.raises(NoWorker, match=f"{worker.name}: volume group .* is still attached"):
            take(run, failed={each: "x" for each in states(client) if each != worker.name})
    simulator.story.set_faults({"faults": []})
    with open_run() as run:
        run.workers.prepare()
        assert left not in [each.id for each in client.volume_groups()]
        take(run, failed={each: "x" for each in states(client) if each != worker.name})
    assert all_entries(repository.live) == []


def test_a_drained_worker_takes_no_new_vm_but_finishes(
    client: AhvClient, repository: Repository, open_run: OpenRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W13: drained while it works, a worker keeps what it has and gets nothing new, until it is undrained."""
    monkeypatch.setattr("jobs.drains.DRAIN_PERIOD_S", 0.0)
    with open_run() as run:
        run.workers.prepare()
        with attached(run) as attachment:
            worker = attachment.choice.worker
            now = datetime(2026, 11, 27, 1, 0, tzinfo=UTC)
            drain(repository.live, Drain(vm_id=worker.vm_id, worker=worker.name, since=now))
            assert take(run).worker.name != worker.name
            assert client.vm(worker.vm_id).is_on
            with attachment.open_disk(0, writable=True) as disk:
                disk.write_at(0, b"still there")
        others = {each: "x" for each in states(client) if each != worker.name}
        with pytest.raises(NoWorker, match="drained since 2026-11-27 01:00 UTC"):
            take(run, failed=others)
        undrain(repository.live, worker.vm_id)
        assert take(run, failed=others).worker.name == worker.name
    for vm in client.vms():
        if "worker" in vm.name:
            drain(repository.live, Drain(vm_id=vm.id, worker=vm.name, since=now))
    with open_run() as run, pytest.raises(NoWorker, match="drained"):
        run.workers.prepare()
    assert set(states(client).values()) == {False}


def test_two_repositories_that_share_a_worker_do_not_cut_each_other_off(
    client: AhvClient, open_run: OpenRun, tmp_path: Path
) -> None:
    """W16: while another repository's group is attached the worker stays on; found off, it is powered on again."""
    with Repository.create(f"file://{tmp_path}/second") as second, open_run() as one:
        one.workers.prepare()
        with open_run(store=second) as other:
            other.workers.prepare()
            with attached(other) as attachment:
                worker = attachment.choice.worker
                one.workers.release_all()
                assert client.vm(worker.vm_id).is_on
                with attachment.open_disk(0) as disk:
                    assert disk.size_bytes == MIB
            # Between two VMs nothing is attached: now the first one's reconciler may turn it off.
            jobs.reconcile.remove_own_leftovers(
                client, one.repository, session_id=one.session_id, clock=one.clock
            )
            assert not client.vm(worker.vm_id).is_on
            with attached(other, "next"):
                assert client.vm(worker.vm_id).is_on
    assert set(states(client).values()) == {False}


def test_a_power_off_is_void_when_somebody_attached_meanwhile(
    simulator: Simulator, client: AhvClient, open_run: OpenRun
) -> None:
    """W16: the cluster itself sees that the worker changed between the look and the power-off, and we look again."""
    with open_run() as run:
        run.workers.prepare()
        worker = take(run).worker
        group = blank_group(client, "race")
        looks: list[bool] = []

        def serves_nobody(vm: Any) -> bool:
            looks.append(not vm.volume_group_ids)
            if len(looks) == 1:
                client.attach_volume_group(group, worker.vm_id)
            return looks[-1]

        assert client.shutdown(worker.vm_id, only_if=serves_nobody) is False
        assert looks == [True, False]
        assert client.vm(worker.vm_id).is_on
        client.delete_volume_group(group)


def test_workers_are_told_apart_from_what_is_backed_up(
    client: AhvClient, open_run: OpenRun
) -> None:
    """W15: the ids of all workers are known before any VM is selected, disabled and missing-root ones too."""
    with open_run(enabled=False) as run, pytest.raises(NoWorker, match="disabled"):
        run.workers.prepare()
    with open_run() as run:
        names = {client.vm(each).name for each in run.workers.prepare()}
    assert names == {"ahvault-worker-1", "ahvault-worker-2"}


def test_a_worker_that_is_not_there_is_told_by_name(open_run: OpenRun) -> None:
    """W4: with no worker found the run ends before any VM was touched, and says which names it looked for."""
    with (
        open_run(vm="ahvault-worker-9") as run,
        pytest.raises(NoWorker, match="no VM ahvault-worker-9"),
    ):
        run.workers.prepare()


def test_a_lost_worker_is_noticed(
    simulator: Simulator, open_run: OpenRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W11: a worker that is powered off under a transfer sets that transfer's stop, with the reason, and no other's."""
    monkeypatch.setattr("jobs.worker_watch.PERIOD_S", 0.05)
    with open_run() as run:
        run.workers.prepare()
        with attached(run, "a") as first, attached(run, "b") as second:
            assert first.choice.worker.name != second.choice.worker.name
            simulator.story.power(first.choice.worker.name, is_on=False)
            assert first.stop.wait(30)
            assert first.stop.lost == "it is powered off"
            assert not second.stop.is_set()
            assert not run.stop.is_set()


def test_errors_of_the_cluster_leave_the_worker_in_the_journal(
    simulator: Simulator, client: AhvClient, repository: Repository, open_run: OpenRun
) -> None:
    """W16: a power-off that the cluster refuses is left to the next session, which finds it in the journal and does it."""
    with open_run() as run:
        run.workers.prepare()
        refusal = {"kind": "status", "status": 400, "match": {"path": "*actions/*"}}
        simulator.story.set_faults({"faults": [refusal]})
    assert set(states(client).values()) == {True}
    assert len(all_entries(repository.live)) == 2
    simulator.story.set_faults({"faults": []})
    found = jobs.find_leftovers(
        client, repository, cluster_url=client.connection.url, clock=run.clock
    )
    assert len(jobs.remove_leftovers(client, repository, found, clock=run.clock)) == 2
    assert set(states(client).values()) == {False}
    with pytest.raises(NutanixError):
        client.find_vm("nobody")
