"""Verbs that make and remove whole VMs (`nutanix-v4 §12`, `§18` path C)."""

from __future__ import annotations

from nutanix.answers import Answer, Subject
from nutanix.api import Api, conditional_request_id
from nutanix.errors import AnswerUnusable, FeatureMissing, NotFound
from nutanix.inventory import VMS
from nutanix.models.vm_specs import VmSpec
from nutanix.models.vms import Vm

CREATED = ("vmm:ahv:config:vm", "vmm:ahv:vm")


class VmLifecycleVerbs(Api):
    """Create and delete VMs."""

    def create_vm(self, spec: VmSpec, *, request_id: str) -> str:
        """Create a VM, powered off, and wait; its id, once readable.

        Its disks are clones, so the volume group they came from can be deleted afterwards. Raises
        `FeatureMissing` before API 4.1, which cannot clone volume disks into a VM. On
        `OperationFailed`, `entity_ids` may name a half-made VM (`§9`). Calling again with the same
        `request_id` waits for the first call's work.
        """
        purpose = f"create VM {spec.name}"
        if spec.disks and not self.versions.at_least("vmm", "v4.1"):
            raise FeatureMissing(purpose, "its API is older than 4.1 and cannot clone volume disks")
        body = spec.wire(old_nics=not self.versions.at_least("vmm", "v4.1"))
        operation_id = self._start(
            "POST", "vmm", VMS, purpose=purpose, body=body, request_id=request_id
        )
        created = self.wait_for_operation(operation_id, purpose=purpose).entity_ids(*CREATED)
        if len(created) != 1:
            raise AnswerUnusable(purpose, f"its finished task names {len(created)} VMs")
        return self._retry_fresh(lambda: self._get_model(Vm, "vmm", VMS, created[0], "VM")).id

    def delete_vm(self, vm_id: str, *, request_id: str | None = None) -> None:
        """Delete a VM with its disks and wait. One that is gone already is a success."""
        purpose = f"delete VM {vm_id}"

        def act(current: Answer) -> None:
            operation_id = self._start(
                "DELETE",
                "vmm",
                f"{VMS}/{vm_id}",
                purpose=purpose,
                subject=Subject("VM", vm_id),
                etag=current.etag,
                request_id=conditional_request_id(request_id, current.etag),
            )
            self.wait_for_operation(operation_id, purpose=purpose)

        try:
            self._change(lambda: self._get("vmm", VMS, vm_id, "VM"), act)
        except NotFound as error:
            if error.object_id != vm_id:
                raise
