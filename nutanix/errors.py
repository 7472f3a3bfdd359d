"""What can go wrong between us and a cluster, as types: one class per thing a handler would do.

NutanixError
├── ClusterUnreachable      no answer: check address and network, try again later (transient)
├── CertificateUntrusted    TLS refused: give a CA file, or correct the name
├── NotPrism                something answers there, but not the API we need
├── RedirectedTooOften      its redirects come to no end: check address, port and what stands in front of it
├── LoginRefused            wrong user, password or API key
├── PermissionDenied        logged in, but the role lacks an operation
├── NotFound                the object is not there (any more)
│   └── VmNotFound          no VM of this name or id; `close_names` may be meant
├── VmAmbiguous             several VMs have this name: use an id
├── RequestInvalid          the cluster rejects what we sent: our bug or an unfit input
├── ConcurrentChange        somebody else changed the object at the same time (transient)
├── ClusterBusy             overload, rate limit or a failing service, after all retries (transient)
├── AnswerUnusable          the answer breaks the API's own rules
│   └── RegionsUnusable     a changed-regions answer that may be incomplete: read more instead
├── FeatureMissing          the cluster's release is too old for this call
├── OperationFailed         the cluster accepted the work and then failed at it
├── OperationTimedOut       the cluster did not finish in time; it may still finish (transient)
└── DiskError               an attached disk
    ├── DeviceNotFound      no device appeared for it in time (transient)
    ├── DeviceMismatch      the device there is not, or not surely, that disk
    ├── DataServicesMissing the cluster serves no iSCSI: an address must be set there
    ├── TargetRefused       the iSCSI target does not let us in
    ├── InitiatorFailed     this machine's open-iscsi does not do its part (transient)
    └── DiskIoError         reading or writing it failed (transient)

No error carries a credential: messages are built from addresses, ids and the cluster's own words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class ClusterMessage:
    """One message of the cluster about a call or an operation (`nutanix-v4 §7`)."""

    text: str
    code: str | None = None
    group: str | None = None

    def __str__(self) -> str:
        tags = " ".join(tag for tag in (self.code, self.group) if tag)
        return f"{self.text} [{tags}]" if tags else self.text


def _joined(messages: Sequence[ClusterMessage]) -> str:
    return "; ".join(dict.fromkeys(str(message) for message in messages)) or "it gave no reason"


class NutanixError(Exception):
    """Root of what `nutanix` raises. `is_transient` says whether the same call may succeed later."""

    is_transient = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive the way between processes: rebuilt from message and fields, not by calling it again."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(
    kind: type[NutanixError], args: tuple[Any, ...], fields: dict[str, Any]
) -> NutanixError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(fields)
    return error


class ClusterUnreachable(NutanixError):
    """No usable answer from the address: name, network, port or a restart."""

    is_transient = True

    def __init__(self, url: str, reason: str) -> None:
        self.url, self.reason = url, reason
        super().__init__(
            f"Cannot reach {url}: {reason}. "
            "Check the address, the port (9440 unless changed) and the network between here and there."
        )


class CertificateUntrusted(NutanixError):
    """The server's TLS certificate was refused."""

    def __init__(self, url: str, reason: str) -> None:
        self.url, self.reason = url, reason
        super().__init__(
            f"The certificate of {url} is not trusted: {reason}. "
            "Give the CA certificate that signed it (ca_file), or use the name it was issued for; "
            "verify_tls = false switches the check off, which lets anybody on the way read the password."
        )


class NotPrism(NutanixError):
    """Something answers at the address, but it does not speak the v4 API."""

    def __init__(self, url: str, reason: str) -> None:
        self.url, self.reason = url, reason
        super().__init__(
            f"{url} is not a Prism Central with the v4 API: {reason}. "
            "Give the address of Prism Central (not of a cluster, a CVM or a web proxy), release 2024.3 or newer."
        )


class RedirectedTooOften(NutanixError):
    """Redirects within one server that came to no end; `ended_at` is where the last one pointed."""

    def __init__(self, began_at: str, *, ended_at: str, redirects: int) -> None:
        self.began_at, self.ended_at, self.redirects = began_at, ended_at, redirects
        super().__init__(
            f"{began_at} redirects without end: {redirects} times, at last to {ended_at}. "
            "Check the address and the port (9440 unless changed), and the proxy or load balancer in "
            "front of Prism, if there is one."
        )


class LoginRefused(NutanixError):
    """The credentials were refused."""

    def __init__(self, url: str, identity: str, reason: str = "") -> None:
        self.url, self.identity, self.reason = url, identity, reason
        said = f" ({reason})" if reason else ""
        super().__init__(
            f"{url} refused the login of {identity}{said}. "
            "Check user name and password, or the API key and its expiry."
        )


class PermissionDenied(NutanixError):
    """The account lacks the right for one call; `call` names it."""

    def __init__(self, call: str, messages: Sequence[ClusterMessage] = ()) -> None:
        self.call, self.messages = call, tuple(messages)
        super().__init__(
            f"The account may not {call}: {_joined(messages)}. "
            "Give its role this operation (Backup Admin plus viewing clusters and hosts covers all of ours)."
        )


class NotFound(NutanixError, LookupError):
    """The object is not there (any more)."""

    def __init__(self, kind: str, object_id: str, messages: Sequence[ClusterMessage] = ()) -> None:
        self.kind, self.object_id, self.messages = kind, object_id, tuple(messages)
        said = f": {_joined(messages)}" if messages else ""
        super().__init__(
            f"There is no {kind} {object_id} on the cluster{said}. "
            "Look in Prism whether it was deleted, or whether the account may see it."
        )


class VmNotFound(NotFound):
    """No VM has this name or id."""

    def __init__(self, name_or_id: str, close_names: Sequence[str] = ()) -> None:
        self.close_names = tuple(close_names)
        super().__init__("VM", name_or_id)
        hint = f" Did you mean {' or '.join(close_names)}?" if close_names else ""
        advice = hint or " `ahvault vms` lists what there is."
        self.args = (f"There is no VM {name_or_id} on the cluster.{advice}",)


class VmAmbiguous(NutanixError):
    """Several VMs have this name; the caller must use an id."""

    def __init__(self, name: str, vm_ids: Sequence[str]) -> None:
        self.name, self.vm_ids = name, tuple(vm_ids)
        super().__init__(
            f"{len(self.vm_ids)} VMs are called {name}: {', '.join(self.vm_ids)}. Name it by its id."
        )


class RequestInvalid(NutanixError):
    """The cluster rejects what was sent (HTTP 400, 409, 422)."""

    def __init__(self, call: str, status: int, messages: Sequence[ClusterMessage]) -> None:
        self.call, self.status, self.messages = call, status, tuple(messages)
        super().__init__(
            f"The cluster refuses to {call} (HTTP {status}): {_joined(messages)}. "
            "Mend what it names and try again; if that is nothing of yours, report it."
        )


class ConcurrentChange(NutanixError):
    """The object changed between our read and our write, again and again."""

    is_transient = True

    def __init__(self, call: str, messages: Sequence[ClusterMessage] = ()) -> None:
        self.call, self.messages = call, tuple(messages)
        super().__init__(
            f"Could not {call}: somebody else keeps changing the object ({_joined(messages)}). Try again."
        )


class ClusterBusy(NutanixError):
    """Overload, rate limit or a failing service, after all retries."""

    is_transient = True

    def __init__(
        self,
        call: str,
        *,
        status: int,
        attempts: int,
        messages: Sequence[ClusterMessage] = (),
    ) -> None:
        self.call, self.status, self.attempts = call, status, attempts
        self.messages = tuple(messages)
        super().__init__(
            f"Could not {call}: HTTP {status} in {attempts} attempts ({_joined(messages)}). Try again later."
        )


class AnswerUnusable(NutanixError):
    """The answer breaks the API's own rules, so nothing of it is used."""

    def __init__(self, call: str, reason: str) -> None:
        self.call, self.reason = call, reason
        super().__init__(
            f"The cluster's answer to '{call}' cannot be used: {reason}. "
            "Try again; if it stays so, report it with the release of Prism Central."
        )


class RegionsUnusable(AnswerUnusable):
    """Changed regions that are, or may be, incomplete. Never used in part: read more instead (B5)."""

    def __init__(self, disk_recovery_point_id: str, reason: str) -> None:
        self.disk_recovery_point_id = disk_recovery_point_id
        super().__init__(f"list regions of disk recovery point {disk_recovery_point_id}", reason)


class FeatureMissing(NutanixError):
    """The cluster's release does not have this call."""

    def __init__(self, call: str, reason: str) -> None:
        self.call, self.reason = call, reason
        super().__init__(
            f"The cluster cannot {call}: {reason}. Update Prism Central and AOS to 7.3 or newer."
        )


class OperationFailed(NutanixError):
    """The cluster took the work and failed at it; `entity_ids` may exist all the same (`§9`)."""

    def __init__(
        self,
        call: str,
        *,
        operation_id: str,
        status: str,
        messages: Sequence[ClusterMessage],
        entity_ids: Sequence[str] = (),
    ) -> None:
        self.call, self.operation_id, self.status = call, operation_id, status
        self.messages, self.entity_ids = tuple(messages), tuple(entity_ids)
        super().__init__(
            f"The cluster failed to {call}: {_joined(messages)} "
            f"(its task {operation_id} ended {status}). "
            "Mend what it names, or look at the task in Prism, then try again."
        )


class OperationTimedOut(NutanixError):
    """The cluster did not finish in time. The work may still finish; look before doing it again."""

    is_transient = True

    def __init__(self, call: str, *, operation_id: str, status: str, timeout_s: float) -> None:
        self.call, self.operation_id = call, operation_id
        self.status, self.timeout_s = status, timeout_s
        super().__init__(
            f"The cluster did not {call} within {timeout_s:.0f} s: "
            f"its task {operation_id} is still {status}. It may yet finish; look at it in Prism."
        )


class DiskError(NutanixError):
    """Root of trouble with a disk attached to a worker."""


class DeviceNotFound(DiskError):
    """No device appeared for an attached disk in time."""

    is_transient = True

    def __init__(self, disk: str, device_root: Path, *, looked_for: str, timeout_s: float) -> None:
        self.disk, self.device_root = disk, device_root
        self.looked_for, self.timeout_s = looked_for, timeout_s
        super().__init__(
            f"Disk {disk} did not appear on the worker within {timeout_s:.0f} s "
            f"(no {device_root}/{looked_for}). "
            "Is the worker running, is this machine the worker, and is its device directory right?"
        )


class DeviceMismatch(DiskError):
    """What is at the place of the disk is not, or not surely, that disk. Nothing was read or written."""

    def __init__(self, disk: str, devices: Sequence[Path | str], reason: str) -> None:
        self.disk, self.devices, self.reason = disk, tuple(devices), reason
        found = ", ".join(str(device) for device in devices)
        super().__init__(
            f"Refusing to use {found} as disk {disk}: {reason}. "
            "Look at what is attached to the worker and at its device directory, then try again."
        )


class TargetRefused(DiskError):
    """An iSCSI target refused the login."""

    def __init__(self, portal: str, target: str, reason: str) -> None:
        self.portal, self.target, self.reason = portal, target, reason
        super().__init__(
            f"The iSCSI target {target} at {portal} refused the login: {reason}. "
            "Check the data services address, port and CHAP secret with `ahvault doctor`."
        )


class DataServicesMissing(DiskError):
    """The cluster has no address for iSCSI, so its disks can only be attached to one of its VMs."""

    def __init__(self, cluster: str) -> None:
        self.cluster = cluster
        super().__init__(
            f"Cluster {cluster} has no data services address, so its disks cannot be reached over iSCSI. "
            "Set its iSCSI data services IP in Prism, or use a worker with direct access."
        )


class InitiatorFailed(DiskError):
    """open-iscsi on this machine could not do what was asked. `is_transient`: a login may time out."""

    is_transient = True

    def __init__(self, action: str, reason: str) -> None:
        self.action, self.reason = action, reason
        super().__init__(
            f"This machine could not {action}: {reason}. "
            'Look at open-iscsi here (`systemctl status iscsid`), or use a worker with access "iscsi".'
        )


class DiskIoError(DiskError):
    """Reading or writing an attached disk failed at one place; `device` is a path or an iSCSI unit."""

    is_transient = True

    def __init__(
        self, action: str, disk: str, device: Path | str, offset_bytes: int, reason: str
    ) -> None:
        self.action, self.disk, self.device = action, disk, device
        self.offset_bytes, self.reason = offset_bytes, reason
        super().__init__(
            f"Cannot {action} disk {disk} ({device}) at byte {offset_bytes}: {reason}. "
            "Look at the worker's system log; the next run reads the disk again."
        )
