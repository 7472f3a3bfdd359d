"""Verbs that change a VM's power (`nutanix-v4 §13`)."""

from __future__ import annotations

from collections.abc import Callable

from nutanix.answers import Answer, Subject
from nutanix.api import Api, conditional_request_id, parse
from nutanix.inventory import VMS
from nutanix.models.vms import Vm


def _whatever(_vm: Vm) -> bool:
    return True


class PowerVerbs(Api):
    """Power on and off. All are successes when the VM is in the wanted state already.

    `only_if` looks at the VM as it is right before the call, and the call is conditional on that
    very state: whatever changes in between, a volume group attached for example, makes it look
    again (`nutanix-v4 §10`). When it says no, nothing is done and the verb returns False.
    """

    def power_on(
        self, vm_id: str, *, request_id: str | None = None, timeout_s: float | None = None
    ) -> None:
        """Power on and wait for the cluster; the guest may still be booting. `NotFound` when gone.

        `OperationTimedOut` after `timeout_s` (default: the connection's); it may still come on.
        """
        self._power(
            vm_id,
            "power-on",
            wanted_on=True,
            only_if=_whatever,
            request_id=request_id,
            timeout_s=timeout_s,
        )

    def power_off(
        self,
        vm_id: str,
        *,
        only_if: Callable[[Vm], bool] = _whatever,
        request_id: str | None = None,
    ) -> bool:
        """Cut the power and wait; the guest is not asked. `NotFound` when the VM is gone."""
        return self._power(
            vm_id, "power-off", wanted_on=False, only_if=only_if, request_id=request_id
        )

    def shutdown(
        self,
        vm_id: str,
        *,
        only_if: Callable[[Vm], bool] = _whatever,
        request_id: str | None = None,
    ) -> bool:
        """Press the ACPI button; returns when the cluster has done so, not when the guest is down.

        `PermissionDenied` for a role that may only cut the power (`nutanix-v4 §20`).
        """
        return self._power(
            vm_id, "shutdown", wanted_on=False, only_if=only_if, request_id=request_id
        )

    def migrate_to_host(self, vm_id: str, host_id: str, *, request_id: str | None = None) -> None:
        """Move a running VM to a host of its cluster and wait. There already is a success."""
        purpose = f"move VM {vm_id} to host {host_id}"

        def act(current: Answer) -> None:
            if parse(Vm, current.data, purpose).host_id == host_id:
                return
            operation_id = self._start(
                "POST",
                "vmm",
                f"{VMS}/{vm_id}/$actions/migrate-to-host",
                purpose=purpose,
                subject=Subject("VM", vm_id),
                body={"host": {"extId": host_id}},
                etag=current.etag,
                request_id=conditional_request_id(request_id, current.etag),
            )
            self.wait_for_operation(operation_id, purpose=purpose)

        self._change(lambda: self._get("vmm", VMS, vm_id, "VM"), act)

    def _power(
        self,
        vm_id: str,
        action: str,
        *,
        wanted_on: bool,
        only_if: Callable[[Vm], bool],
        request_id: str | None,
        timeout_s: float | None = None,
    ) -> bool:
        purpose = f"{action.replace('-', ' ')} VM {vm_id}"
        was_allowed = True

        def act(current: Answer) -> None:
            nonlocal was_allowed
            vm = parse(Vm, current.data, purpose)
            was_allowed = only_if(vm)
            if not was_allowed or vm.power_state == ("ON" if wanted_on else "OFF"):
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
            self.wait_for_operation(operation_id, purpose=purpose, timeout_s=timeout_s)

        self._change(lambda: self._get("vmm", VMS, vm_id, "VM"), act)
        return was_allowed
