"""What a new cluster holds: hosts, networks, three VMs with disks full of files, two workers, strangers' things.

Sizes follow one number: 1.0 means about 300 MiB of data in 3 GiB of virtual disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from simulator import content
from simulator.clock import stamp
from simulator.cluster import Cluster
from simulator.documents import Document
from simulator.filesystems import make_disk
from simulator.hardware import address_of, disk_document, put_vm, reference
from simulator.infrastructure import own_id, put_infrastructure
from simulator.recovery_points import put_point
from simulator.sparse import MiB
from simulator.tasks import RunningTask
from simulator.vms import build_vm, put_new_vm
from simulator.volume_groups import put_new_group

Fill = Callable[[Path, int], None]
WORKERS = ("ahvault-worker-1", "ahvault-worker-2")


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """One disk to build. Sizes at 1.0; `fill` makes its files in a folder, given their budget."""

    name: str
    size_bytes: int
    data_bytes: int
    fill: Fill
    has_esp: bool = False


@dataclass(frozen=True, slots=True)
class VmPlan:
    """One VM to make."""

    name: str
    host: str
    disks: tuple[DiskPlan, ...]
    categories: tuple[str, ...] = ()
    is_uefi: bool = False
    is_on: bool = True
    is_worker: bool = False
    has_vss: bool = False
    subnet: str = "vlan-10"


def _system(name: str, seed: str) -> Fill:
    return lambda root, budget: content.system_tree(root, budget, name, f"{seed}/{name}")


def _plans(seed: str) -> tuple[VmPlan, ...]:
    def database(root: Path, budget: int) -> None:
        content.database_tree(root, budget, f"{seed}/db01-data")

    def documents(root: Path, budget: int) -> None:
        content.document_tree(root, budget, f"{seed}/files01-data")

    def worker(name: str, host: str) -> VmPlan:
        def fill(root: Path, _budget: int) -> None:
            content.small_tree(root, name)

        boot = DiskPlan(f"{name}-0", 64 * MiB, MiB, fill)
        return VmPlan(name, host, (boot,), ("Role/worker",), is_on=False, is_worker=True)

    return (
        VmPlan(
            "web01",
            "host-1",
            (DiskPlan("web01-0", 512 * MiB, 90 * MiB, _system("web01", seed)),),
            ("Environment/production", "Tier/web"),
        ),
        VmPlan(
            "db01",
            "host-2",
            (
                DiskPlan("db01-0", 512 * MiB, 60 * MiB, _system("db01", seed)),
                DiskPlan("db01-1", 1024 * MiB, 32 * MiB, database),
            ),
            ("Environment/production", "Tier/database"),
            has_vss=True,
        ),
        VmPlan(
            "files01",
            "host-1",
            (
                DiskPlan("files01-0", 512 * MiB, 60 * MiB, _system("files01", seed), has_esp=True),
                DiskPlan("files01-1", 512 * MiB, 110 * MiB, documents),
            ),
            ("Environment/office",),
            is_uefi=True,
            subnet="vlan-20",
        ),
        worker(WORKERS[0], "host-1"),
        worker(WORKERS[1], "host-2"),
    )


def populate(cluster: Cluster, size: float, host_count: int = 2) -> None:
    """Fill a new state directory. Takes seconds; all of it appears at once or not at all."""
    plans = _plans(cluster.seed)
    with tempfile.TemporaryDirectory(dir=cluster.scratch) as name:
        vdisks = _build_disks(cluster, plans, size, Path(name))
    with cluster.documents.change():
        put_infrastructure(cluster, host_count)
        for plan in plans:
            put_planned_vm(cluster, plan, vdisks)
        _put_strangers(cluster)


def _build_disks(
    cluster: Cluster, plans: tuple[VmPlan, ...], size: float, folder: Path
) -> dict[str, str]:
    """Build all disks, two at a time, and return the vdisk of each plan by name."""

    def build(plan: DiskPlan) -> tuple[str, str]:
        # Small disks keep room for the metadata of their file system and for guests to write.
        disk_bytes = max(32 * MiB, int(plan.size_bytes * size) // MiB * MiB)
        tree, image = folder / f"{plan.name}.tree", folder / f"{plan.name}.raw"
        tree.mkdir()
        plan.fill(tree, int(plan.data_bytes * size))
        make_disk(image, disk_bytes, tree, f"{cluster.seed}/{plan.name}", has_esp=plan.has_esp)
        return plan.name, cluster.disks.import_file(image, disk_bytes)

    disks = [disk for plan in plans for disk in plan.disks]
    with ThreadPoolExecutor(2) as pool:
        return dict(pool.map(build, disks))


# -- VMs and what others left ----------------------------------------------------------------------


def put_planned_vm(cluster: Cluster, plan: VmPlan, vdisks: dict[str, str]) -> None:
    """Record a VM over vdisks that exist, by the names of its disks. Within a change."""
    ext_id, host = own_id(cluster, plan.name), own_id(cluster, plan.host)
    spec: Document = {
        "name": plan.name,
        "description": f"Simulated: {plan.name}",
        "numSockets": 2,
        "memorySizeBytes": 4 << 30,
        "categories": [
            reference("CategoryReference", own_id(cluster, pair)) for pair in plan.categories
        ],
        "nics": [
            {
                "nicNetworkInfo": {
                    "subnet": reference("SubnetReference", own_id(cluster, plan.subnet))
                }
            }
        ],
        "cdRoms": [{}],
        "guestTools": _guest_tools(plan),
        "observedMood": "cheerful",
    }
    if plan.is_uefi:
        spec["bootConfig"] = {
            "$objectType": "vmm.v4.ahv.config.UefiBoot",
            "isSecureBootEnabled": False,
            "bootOrder": ["DISK", "CDROM", "NETWORK"],
        }
        spec["machineType"] = "Q35"
    task = RunningTask("", "", {}, cluster.documents)
    document, _groups = build_vm(cluster, task, ext_id, spec)
    container = own_id(cluster, "default-container")
    document["disks"] = [
        disk_document(cluster, vdisks[disk.name], address_of("SCSI", index), container)
        for index, disk in enumerate(plan.disks)
    ]
    put_new_vm(cluster, document, affinity_host=host, is_worker=plan.is_worker)
    if plan.is_on:
        put_vm(cluster, ext_id, powerState="ON", host=reference("HostReference", host))


def _guest_tools(plan: VmPlan) -> Document:
    return {
        "$objectType": "vmm.v4.ahv.config.GuestTools",
        "version": "4.1",
        "isInstalled": plan.has_vss,
        "isEnabled": plan.has_vss,
        "isReachable": plan.has_vss,
        "isVssSnapshotCapable": plan.has_vss,
    }


def _put_strangers(cluster: Cluster) -> None:
    """Another product's recovery point and volume group, and a template's snapshot: not ours to touch."""
    worker = cluster.require("vm", own_id(cluster, WORKERS[0]))
    later = stamp(cluster.clock.now() + timedelta(days=3650))
    for name in ("VmTemplateRP_golden", "nightly-of-another-product"):
        point, vm_point = own_id(cluster, name), own_id(cluster, f"{name}/vm")
        ids = {"extId": point, "vmPoints": {worker.ext_id: vm_point}, "vgPoints": {}}
        with cluster.disks.hold(worker.private["vdisks"]):
            put_point(cluster, point, {"name": name, "expirationTime": later}, [worker], [], ids)
    spec = {
        "name": "somebody-elses-group",
        "clusterReference": cluster.aos.ext_id,
        "usageType": "USER",
    }
    disk_id = cluster.disks.create(64 * MiB)
    disk = {
        "$objectType": "volumes.v4.config.VolumeDisk",
        "extId": disk_id,
        "index": 0,
        "diskSizeBytes": 64 * MiB,
        "storageContainerId": own_id(cluster, "default-container"),
    }
    put_new_group(cluster, own_id(cluster, "somebody-elses-group"), spec, [disk])
