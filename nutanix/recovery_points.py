"""Verbs on recovery points (`nutanix-v4 §14`)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from nutanix.answers import Answer, Subject
from nutanix.api import Api, conditional_request_id, parse
from nutanix.errors import AnswerUnusable, FeatureMissing, NotFound
from nutanix.models.operations import Operation
from nutanix.models.recovery_points import (
    WIRE_CONSISTENCY,
    Consistency,
    DiskRecoveryPoint,
    RecoveryPoint,
    VmRecoveryPoint,
)
from nutanix.models.vms import Vm
from nutanix.models.wire import typed

POINTS = "config/recovery-points"
KIND = "recovery point"


class RecoveryPointVerbs(Api):
    """Create, read, expire and delete recovery points."""

    def create_recovery_point(
        self,
        *,
        name: str,
        vm_ids: Sequence[str],
        volume_group_ids: Sequence[str] = (),
        expires_at: datetime,
        consistency: Consistency = "crash",
        request_id: str,
    ) -> str:
        """Take one recovery point over all disks of the VMs and volume groups; its id, once readable.

        At most 30 of them together. All in one call are frozen at the same moment. A volume group
        attached to a VM is not part of the VM's point: name it too (`nutanix-v4 §12`). `expires_at` is the
        safety net should nobody delete it. `application` asks the guest tools to quiesce, as a copy
        that leaves the guest's own backup history alone; read back what was reached (N1). Calling
        again with the same `request_id` waits for the first call's work instead of repeating it.
        """
        body = typed(
            "dataprotection.v4.config.RecoveryPoint",
            name=name,
            recoveryPointType=WIRE_CONSISTENCY[consistency],
            expirationTime=_utc(expires_at),
            vmRecoveryPoints=[_vm_entry(vm_id, consistency) for vm_id in vm_ids] or None,
            volumeGroupRecoveryPoints=[_group_entry(each) for each in volume_group_ids] or None,
        )
        purpose = f"create recovery point {name}"
        operation_id = self._start(
            "POST", "dataprotection", POINTS, purpose=purpose, body=body, request_id=request_id
        )
        point_id = _created_id(self.wait_for_operation(operation_id, purpose=purpose), purpose)
        return self._retry_fresh(lambda: self.recovery_point(point_id)).id

    def recovery_point(self, recovery_point_id: str) -> RecoveryPoint:
        """One recovery point by id; `NotFound` when it is gone."""
        return self._get_model(RecoveryPoint, "dataprotection", POINTS, recovery_point_id, KIND)

    def recovery_points(self, *, name_prefix: str = "") -> list[RecoveryPoint]:
        """All recovery points whose name starts with `name_prefix`; others' are never among them."""
        listed = self._list_by_prefix(
            RecoveryPoint, "dataprotection", POINTS, name_prefix, purpose="list recovery points"
        )
        return [point for point in listed if point.name.startswith(name_prefix)]

    def vm_recovery_point(
        self, recovery_point_id: str, vm_recovery_point_id: str
    ) -> VmRecoveryPoint:
        """One VM's part of a recovery point, complete; nested in its parent it is not."""
        return self._get_model(
            VmRecoveryPoint,
            "dataprotection",
            f"{POINTS}/{recovery_point_id}/vm-recovery-points",
            vm_recovery_point_id,
            "VM recovery point",
        )

    def disk_recovery_points(
        self, recovery_point_id: str, vm_recovery_point_id: str
    ) -> tuple[DiskRecoveryPoint, ...]:
        """The disks inside a VM's part of a recovery point.

        There may be more than data disks: CD-ROM, UEFI and vTPM backing, with `disk_id` `None`.
        """
        vm_point = self.vm_recovery_point(recovery_point_id, vm_recovery_point_id)
        return vm_point.disks(recovery_point_id)

    def captured_vm(self, vm_recovery_point_id: str) -> Vm:
        """The VM's configuration as the recovery point captured it (API 4.1 on, `§14.3`).

        Raises `FeatureMissing` on an older cluster: the live VM is then the nearest there is.
        """
        purpose = "read a VM's captured configuration"
        if not self.versions.at_least("vmm", "v4.1"):
            raise FeatureMissing(purpose, "its API is older than 4.1")
        path = "ahv/config/vm-recovery-points"
        answer = self._get("vmm", path, vm_recovery_point_id, "VM recovery point")
        captured = answer.data.get("vm") if isinstance(answer.data, dict) else None
        if captured is None:
            raise AnswerUnusable(purpose, "it holds no VM")
        return parse(Vm, captured, purpose)

    def set_recovery_point_expiry(
        self, recovery_point_id: str, expires_at: datetime, *, request_id: str | None = None
    ) -> None:
        """Let the cluster drop it at another time; `NotFound` when it is gone already."""
        purpose = f"set the expiry of recovery point {recovery_point_id}"

        def act(current: Answer) -> None:
            operation_id = self._start(
                "POST",
                "dataprotection",
                f"{POINTS}/{recovery_point_id}/$actions/set-expiration-time",
                purpose=purpose,
                subject=Subject(KIND, recovery_point_id),
                body=typed(
                    "dataprotection.v4.config.ExpirationTimeSpec",
                    expirationTime=_utc(expires_at),
                ),
                etag=current.etag,
                request_id=conditional_request_id(request_id, current.etag),
            )
            self.wait_for_operation(operation_id, purpose=purpose)

        self._change(lambda: self._get("dataprotection", POINTS, recovery_point_id, KIND), act)

    def delete_recovery_point(
        self, recovery_point_id: str, *, request_id: str | None = None
    ) -> None:
        """Delete it with all its VMs' points, and wait. One that is gone already is a success."""
        purpose = f"delete recovery point {recovery_point_id}"

        def act(current: Answer) -> None:
            operation_id = self._start(
                "DELETE",
                "dataprotection",
                f"{POINTS}/{recovery_point_id}",
                purpose=purpose,
                subject=Subject(KIND, recovery_point_id),
                etag=current.etag,
                request_id=conditional_request_id(request_id, current.etag),
            )
            self.wait_for_operation(operation_id, purpose=purpose)

        try:
            self._change(lambda: self._get("dataprotection", POINTS, recovery_point_id, KIND), act)
        except NotFound as error:
            if error.object_id != recovery_point_id:
                raise


def _vm_entry(vm_id: str, consistency: Consistency) -> dict[str, object]:
    quiesce = None
    if consistency == "application":
        quiesce = typed("dataprotection.v4.common.VssProperties", backupType="COPY_BACKUP")
    return typed(
        "dataprotection.v4.config.VmRecoveryPoint",
        vmExtId=vm_id,
        applicationConsistentProperties=quiesce,
    )


def _group_entry(volume_group_id: str) -> dict[str, object]:
    return typed(
        "dataprotection.v4.config.VolumeGroupRecoveryPoint", volumeGroupExtId=volume_group_id
    )


def _created_id(operation: Operation, purpose: str) -> str:
    """Completion details first; affected entities are in no order and hold the VM points too (`§9`)."""
    created = operation.detail("recoveryPointExtId")
    entities = operation.entity_ids("dataprotection:config:recovery-point")
    if created is None and len(entities) == 1:
        created = entities[0]
    if created is None:
        raise AnswerUnusable(purpose, "its finished task names no recovery point")
    return created


def _utc(moment: datetime) -> str:
    if moment.tzinfo is None:
        raise ValueError("a time without a zone cannot be sent")
    return moment.astimezone(UTC).isoformat()
