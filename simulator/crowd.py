"""Many more hosts, workers and VMs than a demonstration needs, at almost no cost: for tests of scale.

The VMs hold no file systems: each disk has some bytes that all share and some of its own.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from simulator.cluster import Cluster
from simulator.population import DiskPlan, VmPlan, put_planned_vm
from simulator.sparse import KiB, MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """How many there are in all, the demonstration's own included for hosts and workers.

    VMs are called `vm-001`, ...; they run, spread evenly over the hosts. Workers are called
    `ahvault-worker-1`, ..., one to a host in turn. `data_bytes` of each disk is its own, as many are shared.
    """

    vm_count: int = 200
    disks_per_vm: int = 2
    disk_bytes: int = 16 * MiB
    data_bytes: int = 64 * KiB
    host_count: int = 8
    worker_count: int = 8


def populate_crowd(cluster: Cluster, crowd: Crowd) -> None:
    """Add the VMs and workers to a cluster that has the hosts; durable, all or nothing."""
    with cluster.documents.change():
        for number in range(3, crowd.worker_count + 1):
            name = f"ahvault-worker-{number}"
            host = f"host-{(number - 1) % crowd.host_count + 1}"
            _add(cluster, name, host, [MiB], 0, is_worker=True)
        for number in range(1, crowd.vm_count + 1):
            host = f"host-{(number - 1) % crowd.host_count + 1}"
            sizes = [crowd.disk_bytes] * crowd.disks_per_vm
            _add(cluster, f"vm-{number:03}", host, sizes, crowd.data_bytes, is_worker=False)


def _add(
    cluster: Cluster, name: str, host: str, sizes: list[int], data_bytes: int, *, is_worker: bool
) -> None:
    disks, vdisks = [], {}
    for index, size in enumerate(sizes):
        disk = DiskPlan(f"{name}-{index}", size, data_bytes, lambda _root, _budget: None)
        vdisks[disk.name] = _make_disk(cluster, disk)
        disks.append(disk)
    plan = VmPlan(
        name,
        host,
        tuple(disks),
        ("Role/worker",) if is_worker else ("Environment/office",),
        is_on=not is_worker,
        is_worker=is_worker,
    )
    put_planned_vm(cluster, plan, vdisks)


def _make_disk(cluster: Cluster, disk: DiskPlan) -> str:
    vdisk = cluster.disks.create(disk.size_bytes)
    if disk.data_bytes:
        for offset, seed in ((0, "everybody's"), (MiB, disk.name)):
            data = random.Random(f"{cluster.seed}/{seed}").randbytes(disk.data_bytes)
            cluster.disks.write(vdisk, offset, data)
    return vdisk
