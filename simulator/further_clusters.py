"""One more cluster under the same Prism Central: a host, a storage container and a worker of its own."""

from __future__ import annotations

from simulator.cluster import Cluster
from simulator.hardware import put_vm, reference
from simulator.infrastructure import own_id, put_further_cluster
from simulator.population import DiskPlan, VmPlan, put_planned_vm
from simulator.sparse import MiB


def add_cluster(cluster: Cluster, name: str) -> None:
    """Add it, unless it is there; durable."""
    if cluster.documents.find("cluster", own_id(cluster, name)) is not None:
        return
    worker = f"{name}-worker"
    disk = DiskPlan(f"{worker}-0", MiB, 0, lambda _root, _budget: None)
    with cluster.documents.change():
        put_further_cluster(cluster, name)
        vdisks = {disk.name: cluster.disks.create(disk.size_bytes)}
        plan = VmPlan(
            worker, f"{name}/host", (disk,), ("Role/worker",), is_on=False, is_worker=True
        )
        put_planned_vm(cluster, plan, vdisks)
        put_vm(
            cluster,
            own_id(cluster, worker),
            cluster=reference("ClusterReference", own_id(cluster, name)),
        )
    cluster.devices.prepare([worker])
