"""A VM that comes to another cluster under the same Prism Central, as a migration or a failover brings it.

Its disks are replicated, so they are new disks there, and no recovery point of the old cluster knows
them. Whether the VM keeps its id differs between the ways; the mover says.
"""

from __future__ import annotations

from simulator.cluster import Cluster
from simulator.documents import Document, Record
from simulator.further_clusters import add_cluster
from simulator.hardware import own_vdisks, reference
from simulator.infrastructure import own_id


def relocate_vm(cluster: Cluster, vm: Record, to: str, *, keeps_id: bool) -> str:
    """Move a VM with its disks to the further cluster of this name; returns the id it has there."""
    target, host, container = (
        own_id(cluster, f"{to}{part}") for part in ("", "/host", "/container")
    )
    add_cluster(cluster, to)
    old = vm.private["vdisks"]
    disks = [_replicated(cluster, disk, vm, container) for disk in vm.document.get("disks", ())]
    with cluster.documents.change():
        ext_id = vm.ext_id if keeps_id else cluster.new_id()
        document = {
            **vm.document,
            "extId": ext_id,
            "disks": disks,
            "cluster": reference("ClusterReference", target),
            "host": reference("HostReference", host),
        }
        cluster.documents.delete("vm", vm.ext_id)
        private = {
            **vm.private,
            "vdisks": own_vdisks(document),
            "affinity_host": host,
        }
        cluster.documents.put("vm", ext_id, document, private)
    for vdisk_id in old:
        cluster.disks.drop_live(vdisk_id)
    return ext_id


def _replicated(cluster: Cluster, disk: Document, vm: Record, container: str) -> Document:
    if disk["extId"] not in vm.private["vdisks"]:
        return disk
    vdisk_id = cluster.disks.clone(disk["extId"])
    backing = {
        **disk["backingInfo"],
        "diskExtId": vdisk_id,
        "storageContainer": {**disk["backingInfo"]["storageContainer"], "extId": container},
    }
    return {**disk, "extId": vdisk_id, "backingInfo": backing}
