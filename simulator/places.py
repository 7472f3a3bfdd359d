"""In which cluster a thing lies, and what does not cross from one cluster to another (nutanix-v4 §15.1, §16).

Several clusters may stand under one Prism Central. Disks and volume groups are each cluster's own: a group is attached
to VMs of its cluster only, and made of recovery points that lie there.
"""

from __future__ import annotations

from collections.abc import Sequence

from simulator.cluster import Cluster, refuse
from simulator.documents import Record


def place_of_vm(vm: Record) -> str:
    """Id of the cluster that a VM lies in."""
    return str(vm.document["cluster"]["extId"])


def place_of_group(group: Record) -> str:
    """Id of the cluster that a volume group lies in."""
    return str(group.document["clusterReference"])


def place_of_point(point: Record) -> str:
    """Id of the cluster that a recovery point lies in."""
    return str(point.document["locationReferences"][0]["locationExtId"])


def place_of_disk_point(cluster: Cluster, disk_point: Record) -> str:
    """Id of the cluster that a disk recovery point lies in."""
    owner_id = disk_point.private["owner"]
    owner = cluster.documents.find("vm_recovery_point", owner_id)
    owner = owner or cluster.require("vg_recovery_point", owner_id, "dataprotection")
    return place_of_point(cluster.require("recovery_point", owner.private["recovery_point"]))


def common_place(vms: Sequence[Record], groups: Sequence[Record]) -> str:
    """The one cluster of all of them; a recovery point does not span two."""
    places = {*map(place_of_vm, vms), *map(place_of_group, groups)}
    if len(places) != 1:
        raise refuse(
            "The VMs and volume groups of a recovery point lie in one cluster.",
            code="DP-10100",
            group="DATAPROTECTION_INVALID_INPUT",
        )
    return places.pop()


def require_place(place: str, wanted: str, what: str) -> None:
    """Refuse something that would have to cross between clusters."""
    if place != wanted:
        raise refuse(
            f"{what} lies in cluster {place}, not in {wanted}.",
            code="VOL-30012",
            group="CLUSTER_MISMATCH",
        )


def is_first(cluster: Cluster, place: str) -> bool:
    """Whether this is the cluster that is there from the beginning."""
    return place == cluster.aos.ext_id
