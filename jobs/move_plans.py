"""The plan of a move: what a mover needs to know, as one object beside the repository.

It may hold the extents of several disks, a million each, so it is never a parameter of a flow
(`prefect-notes §2.2`): only its key travels.
"""

from __future__ import annotations

import base64
import threading
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, SecretStr, TypeAdapter

from jobs.extents import DiskPlan
from jobs.policies import TransferLimits
from jobs.snapshots import DiskSnapshot
from jobs.stops import TransferStop
from jobs.volumes import Attachment, DiskGroup
from jobs.workers import WorkerChoice
from nutanix import DiskPlace
from repository import DiskRecord, Extent, ExtentKind

_group = TypeAdapter(DiskGroup)
_choice = TypeAdapter(WorkerChoice)
_place: TypeAdapter[DiskPlace] = TypeAdapter(DiskPlace)
_disk_plan = TypeAdapter(DiskPlan)


class MoveDisk(BaseModel):
    """One disk to back up."""

    model_config = ConfigDict(frozen=True)

    disk: DiskSnapshot
    base: DiskRecord | None
    plan: dict[str, Any]
    """The disk's plan without its extents."""
    extents: str
    """The extents, packed: there may be a million of them."""
    claimed: str | None = None
    """The plan's claimed extents, packed in the same way."""

    @classmethod
    def pack(cls, disk: DiskSnapshot, plan: DiskPlan, base: DiskRecord | None) -> MoveDisk:
        """The disk as it travels."""
        facts = _disk_plan.dump_python(replace(plan, extents=(), claimed=None), mode="json")
        return cls(
            disk=disk,
            base=base,
            plan=facts,
            extents=pack_extents(plan.extents),
            claimed=None if plan.claimed is None else pack_extents(plan.claimed),
        )

    def unpack_plan(self) -> DiskPlan:
        """The plan as it was."""
        plan = _disk_plan.validate_python(self.plan)
        claimed = None if self.claimed is None else unpack_extents(self.claimed)
        return replace(plan, extents=unpack_extents(self.extents), claimed=claimed)


class MovePlan(BaseModel):
    """What a mover has to do. `disks` for a backup, `point_id` for a restore."""

    model_config = ConfigDict(frozen=True)

    move_id: str
    session_id: str
    job: str
    vm_id: str
    vm_name: str
    worker: str
    attachment: dict[str, Any]
    """Volume group, worker and place of the attached disks, packed."""
    limits: TransferLimits = TransferLimits()
    """Those that the job brings itself."""
    disks: tuple[MoveDisk, ...] = ()
    point_id: str | None = None
    skip: tuple[int, ...] = ()
    """Places of disks that an earlier move has done."""
    is_untouched: bool = True
    """Whether nobody can have written yet to the disks that a restore fills."""
    allow_damaged: bool = False
    """Whether a restore leaves zeros where it cannot read."""

    def unpack_attachment(self, stop: threading.Event, chap_secret: SecretStr | None) -> Attachment:
        """The attached disks, as the mover opens them; `stop` ends its transfers.

        The secret of an iSCSI login never travels: the mover has it from the cluster's block.
        """
        return Attachment(
            _group.validate_python(self.attachment["group"]),
            _choice.validate_python(self.attachment["choice"]),
            _place.validate_python(self.attachment["place"]),
            TransferStop(stop),
            chap_secret,
        )


def pack_attachment(attachment: Attachment) -> dict[str, Any]:
    """The attachment as plain data."""
    return {
        "group": _group.dump_python(attachment.group, mode="json", by_alias=True),
        "choice": _choice.dump_python(attachment.choice, mode="json"),
        "place": _place.dump_python(attachment.place, mode="json"),
    }


def pack_extents(extents: Sequence[Extent]) -> str:
    """Extents as text: gaps and lengths in columns, deflated. About 3 bytes per extent."""
    columns = np.empty((3, len(extents)), dtype="<u8")
    columns[0] = [extent.start_bytes for extent in extents]
    columns[1] = [extent.end_bytes for extent in extents]
    columns[2] = [extent.kind is ExtentKind.ZERO for extent in extents]
    columns[1] -= columns[0]
    columns[0, 1:] -= columns[0, :-1].copy() + columns[1, :-1]
    return base64.b64encode(zlib.compress(columns.tobytes(), 1)).decode("ascii")


def unpack_extents(packed: str) -> tuple[Extent, ...]:
    """The extents again."""
    columns = np.frombuffer(zlib.decompress(base64.b64decode(packed)), dtype="<u8").reshape(3, -1)
    ends = np.cumsum(columns[0] + columns[1])
    kinds = (ExtentKind.DATA, ExtentKind.ZERO)
    return tuple(
        Extent(end - length, end, kinds[is_zero])
        for end, length, is_zero in zip(
            ends.tolist(), columns[1].tolist(), columns[2].tolist(), strict=True
        )
    )
