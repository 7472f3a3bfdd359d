"""How a worker comes by the disks of a volume group, and how they are taken from it again.

The cluster attaches a group to a VM or to an iSCSI initiator; which of the two, and what the disks are
then called on the worker, is the only thing that differs between workers (`nutanix.disk_places`).
"""

from __future__ import annotations

import re
from pathlib import Path

from jobs.model import WorkerSpec
from jobs.workers import WorkerState
from nutanix import (
    AhvClient,
    DirectPlace,
    DiskPlace,
    IscsiPlace,
    KernelIscsiPlace,
    NutanixError,
    initiator_name,
    reach_portal,
    why_unusable,
)

IQN = "iqn.2026-11.org.ahvault:"
INITIATOR_LENGTH_MAX = 64


def bring(
    client: AhvClient, volume_group_id: str, cluster_id: str, worker: WorkerState
) -> DiskPlace:
    """Attach a group so that this worker can open its disks; where they are is plain data.

    Raises `NutanixError`; then it may be attached or not, and deleting the group settles it.
    """
    if worker.access == "direct":
        attachment = client.attach_volume_group(volume_group_id, worker.vm_id)
        return DirectPlace(attachment, worker.device_root)
    host, port = client.data_services_address(cluster_id), client.connection.iscsi_port
    initiator = worker.initiator or own_initiator(worker.access, worker.name)
    client_id, target_name = client.attach_iscsi_client(
        volume_group_id, initiator, chap_secret=client.connection.chap_secret
    )
    if worker.access == "iscsi":
        return IscsiPlace(host, port, initiator, client_id, target_name)
    return KernelIscsiPlace(host, port, initiator, client_id, target_name, worker.device_root)


def take_away(client: AhvClient, volume_group_id: str, place: DiskPlace) -> None:
    """Detach a group from the worker that it was brought to. Detached already is a success."""
    if isinstance(place, DirectPlace):
        client.detach_volume_group(volume_group_id, place.attachment.vm_id)
    else:
        client.detach_iscsi_client(volume_group_id, place.client_id)


def own_initiator(access: str, worker_name: str) -> str:
    """The iSCSI name of a worker that was not given one. Stable: the cluster keeps every name it saw."""
    if access == "kernel-iscsi":
        return initiator_name()
    slug = re.sub(r"[^a-z0-9.-]+", "-", worker_name.lower()).strip("-")
    return f"{IQN}{slug}"[:INITIATOR_LENGTH_MAX]


def why_no_access(client: AhvClient, spec: WorkerSpec, cluster_id: str | None) -> str | None:
    """Why a worker cannot reach disks from this machine, or `None` (W11). Attaches nothing.

    `cluster_id` is that of the worker's VM; `None` for a machine outside, which must reach them all.
    """
    needs_folder = spec.access in ("direct", "kernel-iscsi")
    if needs_folder and not Path(spec.device_root).is_dir():
        return (
            f"its device directory {spec.device_root} does not exist on this machine; "
            "run ahvault on the worker itself, or correct device_root"
        )
    if spec.access == "direct":
        return None
    if spec.access == "kernel-iscsi" and (reason := why_unusable()) is not None:
        return reason
    for cluster in client.clusters():
        if cluster_id in (None, cluster.id):
            try:
                host = client.data_services_address(cluster.id)
                reach_portal(host, client.connection.iscsi_port)
            except NutanixError as error:
                return str(error)
    return None
