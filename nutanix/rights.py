"""Which of our calls the account may make, found out without doing anything (`nutanix-v4 §20`).

Roles differ per release, so nothing is derived from their names. A call on an object that cannot
exist, or one that creates something out of it, is answered with 403 when the right is missing, and
with some other refusal, or with an operation that fails, when it is not. A cluster that looks for the
object before it looks at the right tells us less; then the right counts as there, and the real call
will say. Should a creation ever succeed all the same, what it made is deleted at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nutanix.answers import Answer
from nutanix.api import Api
from nutanix.errors import (
    ConcurrentChange,
    FeatureMissing,
    NotFound,
    OperationFailed,
    PermissionDenied,
    RequestInvalid,
)
from nutanix.inventory import VMS
from nutanix.models.wire import typed

NOBODY = "00000000-0000-4000-8000-000000000000"
"""An id that no object has."""
PROBE_NAME = "ahvault-doctor-probe"
PROBE_IQN = "iqn.2026-11.org.ahvault:doctor-probe"


@dataclass(frozen=True, slots=True)
class Right:
    """One operation that an account needs, as an administrator finds it in a role."""

    operation: str
    needed_for: str
    method: str
    namespace: str
    path: str
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    is_vital: bool = True
    """False: only some installations need it."""
    makes: str | None = None
    """What a creation would make, as the entity's `rel` in its operation (`§9`)."""


def _view(operation: str, needed_for: str, namespace: str, path: str) -> Right:
    return Right(operation, needed_for, "GET", namespace, path)


_ATTACHMENT = typed("volumes.v4.config.VmAttachment", extId=NOBODY)
_POINTS = "config/recovery-points"
_POINT = f"{_POINTS}/{NOBODY}"
_GROUPS = "config/volume-groups"
_GROUP = f"{_GROUPS}/{NOBODY}"
_CLIENT = typed("volumes.v4.config.IscsiClient", iscsiInitiatorName=PROBE_IQN)
_CLIENT_ID = typed("volumes.v4.config.IscsiClientAttachment", extId=NOBODY)
_VM = f"{VMS}/{NOBODY}"

RIGHTS = (
    _view("View Virtual Machine", "finding VMs and workers", "vmm", VMS),
    _view("View Cluster", "knowing which clusters there are", "clustermgmt", "config/clusters"),
    _view("View Host", "choosing the worker on a VM's host", "clustermgmt", "config/hosts"),
    _view("View Storage Container", "restores", "clustermgmt", "config/storage-containers"),
    _view("View Subnet", "restores", "networking", "config/subnets"),
    _view("View Category", "choosing VMs by category, restores", "prism", "config/categories"),
    _view("View Task", "every change on the cluster", "prism", "config/tasks"),
    _view("View Recovery Point", "backups", "dataprotection", "config/recovery-points"),
    _view("View Volume Group", "backups and restores", "volumes", "config/volume-groups"),
    Right("Create Recovery Point", "backups", "POST", "dataprotection", _POINTS,
          typed("dataprotection.v4.config.RecoveryPoint", name=PROBE_NAME,
                expirationTime="2100-01-01T00:00:00+00:00",
                vmRecoveryPoints=[typed("dataprotection.v4.config.VmRecoveryPoint", vmExtId=NOBODY)]),
          makes="dataprotection:config:recovery-point"),
    Right("Delete Recovery Point", "backups", "DELETE", "dataprotection", _POINT),
    Right("Update Recovery Point Expiration Time", "backups", "POST", "dataprotection",
          f"{_POINT}/$actions/set-expiration-time", {"expirationTime": "2000-01-01T00:00:00+00:00"}),
    Right("Discover Cluster", "changed regions", "POST", "dataprotection",
          f"{_POINT}/$actions/discover-cluster", {"operation": "COMPUTE_CHANGED_REGIONS"}),
    Right("Create Volume Group", "backups and restores", "POST", "volumes", _GROUPS,
          typed("volumes.v4.config.VolumeGroup", name=PROBE_NAME, clusterReference=NOBODY),
          makes="volumes:config:volume-group"),
    Right("Delete Volume Group", "backups and restores", "DELETE", "volumes", _GROUP),
    Right("Create Volume Disk", "restores", "POST", "volumes", f"{_GROUP}/disks", {}),
    Right("Attach Volume Group To VM", "backups and restores", "POST", "volumes",
          f"{_GROUP}/$actions/attach-vm", _ATTACHMENT),
    Right("Detach Volume Group From VM", "backups and restores", "POST", "volumes",
          f"{_GROUP}/$actions/detach-vm", _ATTACHMENT),
    Right("Attach Volume Group To iSCSI Client", "workers that use iSCSI", "POST", "volumes",
          f"{_GROUP}/$actions/attach-iscsi-client", _CLIENT, is_vital=False),
    Right("Detach Volume Group From iSCSI Client", "workers that use iSCSI", "POST", "volumes",
          f"{_GROUP}/$actions/detach-iscsi-client", _CLIENT_ID, is_vital=False),
    Right("Create Virtual Machine", "restores", "POST", "vmm", VMS,
          typed("vmm.v4.ahv.config.Vm", name=PROBE_NAME, cluster={"extId": NOBODY}),
          makes="vmm:ahv:config:vm"),
    Right("Power On Virtual Machine", "starting workers", "POST", "vmm", f"{_VM}/$actions/power-on"),
    Right("Power Off Virtual Machine", "stopping workers", "POST", "vmm", f"{_VM}/$actions/power-off"),
    Right("Shutdown Virtual Machine", "stopping workers gently", "POST", "vmm",
          f"{_VM}/$actions/shutdown", is_vital=False),
    Right("Delete Virtual Machine", "removing a failed restore", "DELETE", "vmm", _VM),
)  # fmt: skip
"""What backups and restores call."""


class RightsVerbs(Api):
    """Asking for rights without using them."""

    def denied(self, right: Right) -> PermissionDenied | None:
        """The cluster's refusal when the account lacks the right, `None` when it does not say so.

        Raises what keeps the question from being answered: no connection, no login.
        """
        purpose = right.operation.lower()
        query = {"$limit": "1"} if right.method == "GET" else None
        try:
            answer = self._call(
                right.method,
                right.namespace,
                right.path,
                purpose=purpose,
                query=query,
                body=dict(right.body) if right.body is not None else None,
            )
            if right.makes is not None:
                self._undo(right, answer)
        except PermissionDenied as error:
            return error
        except (NotFound, RequestInvalid, ConcurrentChange, FeatureMissing):
            return None  # It looked for the object that is not there, so the right was no obstacle.
        return None

    def _undo(self, right: Right, answer: Answer) -> None:
        """The cluster took a creation that it should have refused: wait, and delete what it made."""
        operation_id = answer.data.get("extId") if isinstance(answer.data, dict) else None
        if not isinstance(operation_id, str):
            return
        purpose = f"undo '{right.operation.lower()}'"
        try:
            operation = self.wait_for_operation(operation_id, purpose=purpose)
            made = operation.entity_ids(right.makes or "")
        except OperationFailed as error:
            made = error.entity_ids
        for object_id in made:
            try:
                found = self._get(right.namespace, right.path, object_id, right.operation)
            except NotFound:
                continue
            if found.data.get("name") == PROBE_NAME:
                path = f"{right.path}/{object_id}"
                self._start("DELETE", right.namespace, path, purpose=purpose, etag=found.etag)
