"""Volume groups on the wire: which iSCSI initiator sees which group as a target (nutanix-v4 §16).

A group is one target whose units are its disks, numbered by their index. An initiator sees the groups that it is
attached to and no others; it must log in with CHAP where its client object has a secret and asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping

from simulator.cluster import Cluster
from simulator.devices import serial_of
from simulator.documents import Record
from simulator.iscsi import LogicalUnit, Target

IQN_PREFIX = "iqn.2010-06.com.nutanix:"


class GroupExports:
    """Answers the portal out of the cluster's records. Thread-safe."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def targets_for(self, initiator: str) -> list[Target]:
        """Targets of all groups that this initiator is attached to."""
        found = []
        for client in self._cluster.documents.all("iscsi_client"):
            if client.document.get("iscsiInitiatorName") == initiator:
                groups = self._cluster.documents.all("volume_group")
                attached = [g for g in groups if client.ext_id in g.private["iscsi_clients"]]
                found += [self._target(group, client) for group in attached]
        return found

    def _target(self, group: Record, client: Record) -> Target:
        asks = "CHAP" in (
            client.document["enabledAuthentications"],
            group.document["enabledAuthentications"],
        )
        secret = client.private.get("client_secret") if asks else None
        name = IQN_PREFIX + group.document["targetName"]
        return Target(
            name,
            lambda: self._open(group.ext_id),
            secret,
            is_offered=lambda: self._is_attached(group.ext_id, client.ext_id),
            trouble=lambda: self._cluster.faults.for_command(name),
        )

    def _is_attached(self, group_id: str, client_id: str) -> bool:
        group = self._cluster.documents.find("volume_group", group_id)
        return group is not None and client_id in group.private["iscsi_clients"]

    def _open(self, group_id: str) -> Mapping[int, LogicalUnit]:
        group = self._cluster.require("volume_group", group_id, "volumes")
        units = {}
        for disk in group.private["disks"]:
            # An initiator writes to the file itself, as a worker does through its device.
            self._cluster.disks.expose(disk["extId"])
            path = self._cluster.disks.live_path(disk["extId"])
            units[disk["index"]] = LogicalUnit(path, serial_of(disk["extId"]))
        return units
