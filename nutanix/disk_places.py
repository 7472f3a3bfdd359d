"""Where the disks of an attached volume group are for this machine, and how they are opened there.

Three ways, one interface: attached to this VM (devices under a directory), over iSCSI in user space, or
over the kernel's iSCSI initiator. A place is plain data without a secret, so that it can be handed to
another process, which opens the disks on the machine where that process runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import Field, SecretStr

from nutanix.attached_disks import DeviceRoot, open_attached_disks, open_kernel_disks
from nutanix.iscsi_disks import IQN_PREFIX, IscsiPortal, open_iscsi_disks
from nutanix.kernel_initiator import KERNEL, Portal
from nutanix.models.volume_groups import VmAttachment, VolumeDisk


class OpenDisk(Protocol):
    """A disk that is open. Thread-safe but for its end; errors are `DiskError`."""

    label: str
    size_bytes: int

    def read_into(self, offset_bytes: int, buffer: bytearray | memoryview) -> None:
        """Fill the whole buffer, or raise."""

    def write_at(self, offset_bytes: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data`, or raise."""

    def write_zeros(self, offset_bytes: int, length_bytes: int) -> None:
        """Make a range read as zeros."""

    def flush(self) -> None:
        """Return when everything written is durable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """How patiently disks are opened, and what for."""

    timeout_s: float
    """How long a device may take to appear."""
    writable: bool = False
    keep_waiting: Callable[[], bool] = lambda: True
    chap_secret: SecretStr | None = None
    """For a login in user space, where the target asks for it."""


OpenDisks = AbstractContextManager[Mapping[int, OpenDisk]]


@dataclass(frozen=True, slots=True)
class DirectPlace:
    """Attached to the VM that this process runs on."""

    attachment: VmAttachment
    device_root: str
    kind: Literal["direct"] = "direct"

    def open_disks(self, disks: Sequence[VolumeDisk], opening: Opening) -> OpenDisks:
        """The disks, open, by index, inside a `with`. Raises `DiskError`."""
        return open_attached_disks(
            DeviceRoot(Path(self.device_root)),
            self.attachment,
            disks,
            writable=opening.writable,
            timeout_s=opening.timeout_s,
            keep_waiting=opening.keep_waiting,
        )


@dataclass(frozen=True, slots=True)
class IscsiPlace:
    """Attached to an iSCSI initiator; this process is that initiator."""

    host: str
    port: int
    initiator: str
    client_id: str
    """The cluster's id of the initiator, for the detach."""
    target_name: str
    kind: Literal["iscsi"] = "iscsi"

    def open_disks(self, disks: Sequence[VolumeDisk], opening: Opening) -> OpenDisks:
        """The disks, open, by index, inside a `with`. Raises `DiskError`. Nothing is waited for."""
        secret = opening.chap_secret.get_secret_value() if opening.chap_secret else None
        portal = IscsiPortal(self.host, self.initiator, self.port, secret)
        return open_iscsi_disks(portal, self.target_name, disks)


@dataclass(frozen=True, slots=True)
class KernelIscsiPlace:
    """Attached to an iSCSI initiator; the kernel of the machine that opens it is that initiator."""

    host: str
    port: int
    initiator: str
    client_id: str
    target_name: str
    device_root: str
    kind: Literal["kernel-iscsi"] = "kernel-iscsi"

    @contextmanager
    def open_disks(
        self, disks: Sequence[VolumeDisk], opening: Opening
    ) -> Iterator[Mapping[int, OpenDisk]]:
        """Log in, wait for the devices, open them by index; log out at the end. Raises `DiskError`."""
        ours = re.compile(re.escape(f"{IQN_PREFIX}{self.target_name}") + r"(-tgt\d+)?")
        with ExitStack() as stack:
            portal = Portal(self.host, self.port)
            targets = stack.enter_context(KERNEL.logged_in(portal, ours))
            yield stack.enter_context(
                open_kernel_disks(
                    DeviceRoot(Path(self.device_root)),
                    targets,
                    disks,
                    writable=opening.writable,
                    timeout_s=opening.timeout_s,
                    keep_waiting=opening.keep_waiting,
                )
            )


DiskPlace = Annotated[DirectPlace | IscsiPlace | KernelIscsiPlace, Field(discriminator="kind")]
