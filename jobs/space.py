"""Free space, looked at before any snapshot (S2, P4): a full cluster or repository is told beforehand."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field

from jobs.errors import StorageNearlyFull
from jobs.policies import SpaceLimits
from nutanix import AhvClient, ContainerSpace, NutanixError, Vm
from repository import Clock, Repository

log = logging.getLogger(__name__)

FRESH_S = 300.0
"""So long what a container said counts for the session's other VMs; one call serves them all."""


@dataclass(slots=True)
class SpaceWatch:
    """What storage containers said last of their free space. Thread-safe; one per session."""

    _known: dict[str, tuple[float, ContainerSpace | None]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self, client: AhvClient, clock: Clock, container_id: str) -> ContainerSpace | None:
        """What the container has; `None` when the cluster does not say, which is told in the log."""
        with self._lock:
            known = self._known.get(container_id)
            if known is None or clock.monotonic_s() - known[0] > FRESH_S:
                known = (clock.monotonic_s(), _ask(client, container_id))
                self._known[container_id] = known
            return known[1]


def _ask(client: AhvClient, container_id: str) -> ContainerSpace | None:
    try:
        return client.container_space(container_id)
    except NutanixError as error:
        log.warning("Free space of storage container %s is not known: %s", container_id, error)
        return None


def check_containers(
    watch: SpaceWatch, client: AhvClient, clock: Clock, limits: SpaceLimits, vm: Vm
) -> list[str]:
    """Warnings about the containers that hold the VM's disks; `StorageNearlyFull` below the limit.

    A container whose free space is not known hinders nothing.
    """
    warnings = []
    ids = dict.fromkeys(disk.storage_container_id for disk in vm.data_disks)
    for container_id in ids:
        space = watch.look(client, clock, container_id) if container_id else None
        if space is None:
            continue
        free = space.free_percent
        if free < limits.container_skip_percent:
            raise StorageNearlyFull(vm.name, space.name, free, limits.container_skip_percent)
        if free < limits.container_warn_percent:
            warnings.append(f"storage container {space.name} has only {free:.1f} % free")
    return warnings


def check_repository(repository: Repository, limits: SpaceLimits) -> str | None:
    """A warning when the repository is nearly full; `None` when not, or when its store cannot say.

    Raises `RepositoryError`.
    """
    space = repository.space()
    if space is None or space.free_percent >= limits.repository_warn_percent:
        return None
    return f"the repository {repository.url} has only {space.free_percent:.1f} % free"
