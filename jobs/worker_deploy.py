"""Making a worker over the API: image, VM, first boot, trial (W6, W8, W17, W20, W21).

Planned first and refused before anything is done; then carried out inside a run, whose journal names
the VM before it exists. What fails is undone; what is killed is removed by the next session.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from jobs.errors import DeployRefused
from jobs.session import Session
from jobs.worker_image import (
    DISK_BYTES,
    WORKER_NAME,
    WorkerBoot,
    memory_bytes_for,
    vcpus_for,
)
from nutanix import (
    AhvClient,
    DiskAddress,
    Host,
    ImageDisk,
    Nic,
    NutanixError,
    StorageContainer,
    Subnet,
    VmSpec,
)

log = logging.getLogger(__name__)

WORKERS_CONTAINER = "SelfServiceContainer"
"""Where Prism Central puts worker disks (W20); used where there is one and no other is named."""

Named = TypeVar("Named", Subnet, Host, StorageContainer)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerWanted:
    """What the operator asks for; what is `None` follows from `boot.slots` or from the cluster."""

    boot: WorkerBoot
    image_name: str
    image_url: str | None
    subnet: str
    container: str | None = None
    host: str | None = None
    vcpus: int | None = None
    memory_bytes: int | None = None
    disk_bytes: int = DISK_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployPlan:
    """What will be done. `image_id` is `None` where the image has to be fetched first."""

    boot: WorkerBoot
    cluster_id: str
    image_id: str | None
    image_name: str
    image_url: str | None
    subnet_id: str
    container_id: str
    host_id: str | None
    vcpus: int
    memory_bytes: int
    disk_bytes: int

    def vm_spec(self, image_id: str) -> VmSpec:
        """The VM as it is created."""
        return VmSpec(
            name=self.boot.name,
            description="Worker of ahvault: moves the disks of other VMs. Not to be backed up.",
            cluster_id=self.cluster_id,
            socket_count=self.vcpus,
            cores_per_socket=1,
            memory_size_bytes=self.memory_bytes,
            image_disks=(
                ImageDisk(
                    address=DiskAddress(bus="SCSI", index=0),
                    image_id=image_id,
                    size_bytes=self.disk_bytes,
                    storage_container_id=self.container_id,
                ),
            ),
            nics=(Nic(subnet_id=self.subnet_id, nic_type="NORMAL_NIC"),),
            user_data=self.boot.user_data(),
        )


def plan_deployment(client: AhvClient, wanted: WorkerWanted) -> DeployPlan:
    """Look everything up that the deployment needs. Raises `DeployRefused` before anything is done."""
    name = wanted.boot.name
    if not WORKER_NAME.fullmatch(name):
        reason = "a worker's name has 1 to 63 characters of a-z, A-Z, 0-9 and hyphen (W21)"
        raise DeployRefused(name, reason)
    if any(vm.name == name for vm in client.vms()):
        reason = "a VM of that name exists; `ahvault workers add` takes it as a worker"
        raise DeployRefused(name, reason)
    subnet = _pick(name, "subnet", client.subnets(), wanted.subnet)
    host = _pick(name, "host", client.hosts(), wanted.host) if wanted.host else None
    cluster_id = _cluster_of(client, name, subnet, host)
    image = next((each for each in client.images() if each.name == wanted.image_name), None)
    if image is None and wanted.image_url is None:
        reason = f"there is no image {wanted.image_name}; give a URL to fetch it from"
        raise DeployRefused(name, reason)
    return DeployPlan(
        boot=wanted.boot,
        cluster_id=cluster_id,
        image_id=image.id if image else None,
        image_name=wanted.image_name,
        image_url=wanted.image_url,
        subnet_id=subnet.id,
        container_id=_container(client, name, cluster_id, wanted.container).id,
        host_id=host.id if host else None,
        vcpus=wanted.vcpus or vcpus_for(wanted.boot.slots),
        memory_bytes=wanted.memory_bytes or memory_bytes_for(wanted.boot.slots),
        disk_bytes=wanted.disk_bytes,
    )


@contextmanager
def deployed(run: Session, plan: DeployPlan, *, tell: Callable[[str], None]) -> Iterator[str]:
    """The new VM, powered off; its id. Kept when the block ends well, else gone as if it never was.

    That includes the image, if it was fetched for this VM. What cannot be undone now is told in the
    log; the VM stays in the journal, so that the run or the next session removes it. Raises
    `NutanixError`.
    """
    with ExitStack() as undo:
        image_id = plan.image_id
        if image_id is None:
            tell(f"the cluster fetches image {plan.image_name} from {plan.image_url}")
            image_id = run.client.create_image_from_url(plan.image_name, str(plan.image_url))
            undo.callback(_quietly, "image", run.client.delete_image, image_id)
        size = f"{plan.vcpus} vCPUs, {plan.memory_bytes >> 30} GiB of memory"
        tell(f"creating VM {plan.boot.name}: {size}")
        entry = run.journal.intend("vm", plan.boot.name, f"worker-{plan.boot.name}")
        vm_id = run.client.create_vm(plan.vm_spec(image_id), request_id=entry.request_id)
        entry = run.journal.created(entry, vm_id)
        undo.callback(_quietly, "VM", run.client.delete_vm, vm_id)
        yield vm_id
        run.journal.forget(entry)
        undo.pop_all()


def _quietly(kind: str, delete: Callable[[str], None], object_id: str) -> None:
    """Undo one step; what failed before is what the operator must hear of."""
    try:
        delete(object_id)
    except NutanixError as error:
        log.warning("The new %s %s was not removed: %s", kind, object_id, error)


def _pick(worker: str, kind: str, there: Iterable[Named], name: str) -> Named:
    known = list(there)
    found = [each for each in known if name in (each.name, each.id)]
    if len(found) == 1:
        return found[0]
    if found:
        raise DeployRefused(worker, f"{len(found)} {kind}s are called {name}; give the id")
    names = [each.name for each in known]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(sorted(names))}"
    raise DeployRefused(worker, f"there is no {kind} {name}; {hint}")


def _cluster_of(client: AhvClient, worker: str, subnet: Subnet, host: Host | None) -> str:
    """The host's cluster, else the subnet's, else the only one there is."""
    if host is not None and host.cluster_id:
        return host.cluster_id
    if subnet.cluster_id:
        return subnet.cluster_id
    clusters = client.clusters()
    if len(clusters) == 1:
        return clusters[0].id
    raise DeployRefused(worker, "there are several clusters; name a host of the one it belongs to")


def _container(
    client: AhvClient, worker: str, cluster_id: str, name: str | None
) -> StorageContainer:
    usable = [
        each
        for each in client.storage_containers()
        if each.cluster_id in (None, cluster_id)
        and not each.is_internal
        and not each.is_marked_for_removal
    ]
    if name is not None:
        return _pick(worker, "storage container", usable, name)
    if not usable:
        raise DeployRefused(worker, "the cluster has no storage container that can hold VM disks")
    return min(usable, key=lambda each: (each.name != WORKERS_CONTAINER, each.name))
