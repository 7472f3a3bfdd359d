"""Verbs that change a VM's power (`nutanix-v4 §13`)."""

from __future__ import annotations

from nutanix.answers import Answer, Subject
from nutanix.api import Api, conditional_request_id, parse
from nutanix.inventory import VMS
from nutanix.models.vms import Vm


class PowerVerbs(Api):
    """Power on and off. All are successes when the VM is in the wanted state already."""

    def power_on(self, vm_id: str, *, request_id: str | None = None) -> None:
        """Power on and wait for the cluster; the guest may still be booting. `NotFound` when gone."""
        self._power(vm_id, "power-on", wanted_on=True, request_id=request_id)

    def power_off(self, vm_id: str, *, request_id: str | None = None) -> None:
        """Cut the power and wait; the guest is not asked. `NotFound` when the VM is gone."""
        self._power(vm_id, "power-off", wanted_on=False, request_id=request_id)

    def shutdown(self, vm_id: str, *, request_id: str | None = None) -> None:
        """Press the ACPI button; returns when the cluster has done so, not when the guest is down."""
        self._power(vm_id, "shutdown", wanted_on=False, request_id=request_id)

    def _power(self, vm_id: str, action: str, *, wanted_on: bool, request_id: str | None) -> None:
        purpose = f"{action.replace('-', ' ')} VM {vm_id}"

        def act(current: Answer) -> None:
            if parse(Vm, current.data, purpose).power_state == ("ON" if wanted_on else "OFF"):
                return
            operation_id = self._start(
                "POST",
                "vmm",
                f"{VMS}/{vm_id}/$actions/{action}",
                purpose=purpose,
                subject=Subject("VM", vm_id),
                etag=current.etag,
                request_id=conditional_request_id(request_id, current.etag),
            )
            self.wait_for_operation(operation_id, purpose=purpose)

        self._change(lambda: self._get("vmm", VMS, vm_id, "VM"), act)
