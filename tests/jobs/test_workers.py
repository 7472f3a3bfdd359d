"""Worker choice: W1-W7 of the reference behaviour, each as a case."""

import itertools

import pytest

from jobs import NoWorker, WorkerSpec, WorkerState, rank_workers


def worker(
    name: str, *, host: str | None = "h1", cluster: str = "c1", **facts: object
) -> WorkerState:
    return WorkerState(
        name=name,
        vm_id=f"id-{name}",
        cluster_id=cluster,
        host_id=host,
        is_on=bool(facts.get("is_on", host is not None)),
        slots_free=int(str(facts.get("slots_free", 4))),
        device_root="/dev",
        access=facts.get("access", "direct"),  # type: ignore[arg-type]
        unusable=facts.get("unusable"),  # type: ignore[arg-type]
    )


def best(workers: list[WorkerState], host: str | None = "h1") -> tuple[str, str, str | None]:
    choice = rank_workers(workers, purpose="back up web01", host_id=host, cluster_id="c1")[0]
    return choice.worker.name, choice.reason, choice.warning


def test_the_worker_on_the_vms_host_comes_first() -> None:
    """W1: data locality beats free slots."""
    chosen = best([worker("far", host="h2", slots_free=9), worker("near", slots_free=1)])
    assert chosen == ("near", "same host", None)


def test_another_host_of_the_cluster_is_the_fallback() -> None:
    """W2: no worker on the host is no reason to fail, nor to warn."""
    name, reason, warning = best([worker("far", host="h2")])
    assert (name, warning) == ("far", None)
    assert "no usable worker on the VM's host" in reason


def test_another_cluster_works_with_a_warning() -> None:
    """W2: a worker elsewhere is used last, and the operator hears what it costs."""
    abroad = worker("abroad", cluster="c2", access="iscsi")
    name, _, warning = best([abroad])
    assert name == "abroad"
    assert warning is not None
    assert "abroad" in warning
    assert best([abroad, worker("home", host="h2")])[0] == "home"


def test_a_cluster_attaches_disks_to_its_own_vms_only() -> None:
    """W2 needs iSCSI: a worker elsewhere with direct access is no choice, and the refusal says how to make it one."""
    with pytest.raises(NoWorker, match=r"abroad: it is in another cluster, .*iscsi"):
        best([worker("abroad", cluster="c2")])


def test_a_stopped_vm_has_no_host_to_match() -> None:
    """nutanix-v4 §13: for a powered-off VM the same-host rule cannot be decided, and says so."""
    name, reason, _ = best([worker("a", host=None)], host=None)
    assert name == "a"
    assert "runs on no host" in reason


def test_unusable_workers_are_never_chosen() -> None:
    """W3, W4: disabled or broken workers do not count; with none left the error says why for each."""
    assert best([worker("a", unusable="disabled"), worker("b", host="h2")])[0] == "b"
    with pytest.raises(NoWorker, match="a: disabled; b: did not boot"):
        best([worker("a", unusable="disabled"), worker("b", unusable="did not boot")])
    with pytest.raises(NoWorker, match="none is configured"):
        best([])


def test_ties_are_broken_the_same_way_whatever_the_order() -> None:
    """W7: most free slots, then already on, then by name; never by the order of the list."""
    workers = [
        worker("busy", slots_free=1),
        worker("off", slots_free=3, is_on=False),
        worker("zed", slots_free=3),
        worker("amy", slots_free=3),
    ]
    for order in itertools.permutations(workers):
        ranked = rank_workers(list(order), purpose="back up web01", host_id="h1", cluster_id="c1")
        assert [choice.worker.name for choice in ranked] == ["amy", "zed", "off", "busy"]


def test_a_kernel_initiator_of_another_machine_is_named() -> None:
    """A worker with a queue logs in by itself, so its name cannot be read here: it must be given."""
    with pytest.raises(ValueError, match="needs `initiator`"):
        WorkerSpec(vm="w", access="kernel-iscsi", queue="w")
    WorkerSpec(vm="w", access="kernel-iscsi", queue="w", initiator="iqn.1993-08.org.debian:01:a")
