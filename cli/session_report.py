"""A session as a table that a person can read, and paste into a ticket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cli.output import Column, table
from jobs import (
    DiskResult,
    SessionResult,
    VmResult,
    bottleneck,
    human_bytes,
    human_duration,
    human_ratio,
    session_text,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

VM_COLUMNS = (
    Column("VM"),
    Column("RESULT"),
    Column("KIND"),
    Column("DISKS", is_number=True),
    Column("PROVISIONED", is_number=True),
    Column("READ", is_number=True),
    Column("STORED", is_number=True),
    Column("RATIO", is_number=True),
    Column("TIME", is_number=True),
    Column("WORKER", can_wrap=True),
)
DISK_COLUMNS = (
    Column("VM"),
    Column("DISK"),
    Column("SIZE", is_number=True),
    Column("READ", is_number=True),
    Column("STORED", is_number=True),
    Column("METHOD"),
    Column("WHY", can_wrap=True),
)


def session_as_data(result: SessionResult) -> dict[str, Any]:
    """The session as plain data, with the sums that its table shows."""
    data = result.model_dump(mode="json")
    parts: list[tuple[SessionResult | VmResult, dict[str, Any]]] = [(result, data)]
    parts += zip(result.vms, data["vms"], strict=True)
    for whole, shown in parts:
        shown["provisioned_bytes"] = whole.provisioned_bytes
        shown["read_bytes"] = whole.read_bytes
        shown["stored_bytes"] = whole.stored_bytes
    data["transfer_s"], data["loads"] = result.transfer_s, result.loads
    data["bottleneck"] = bottleneck(result.loads)
    return data


def view_session(result: SessionResult, *, with_disks: bool = False) -> Iterator[RenderableType]:
    """The session as text for a ticket; with disks, what was read of each and why, as a table."""
    yield session_text(result)
    rows = [disk_row(vm, disk) for vm in result.vms for disk in vm.disks]
    if with_disks and rows:
        yield ""
        yield table(DISK_COLUMNS, rows)


def vm_row(vm: VmResult) -> tuple[str, ...]:
    """The cells of one VM: what was read and stored, by which worker, and why by that one."""
    why = f" ({vm.worker_reason})" if vm.worker_reason else ""
    return (
        vm.vm_name,
        vm.status,
        vm.kind or "-",
        str(len(vm.disks)),
        human_bytes(vm.provisioned_bytes),
        human_bytes(vm.read_bytes),
        human_bytes(vm.stored_bytes),
        human_ratio(vm.read_bytes, vm.stored_bytes),
        human_duration(vm.duration_s),
        f"{vm.worker or '-'}{why}",
    )


def disk_row(vm: VmResult, disk: DiskResult) -> tuple[str, ...]:
    """The cells of one disk: what was read of it, and why that much."""
    return (
        vm.vm_name,
        disk.label or disk.disk_id,
        human_bytes(disk.provisioned_bytes),
        human_bytes(disk.read_bytes),
        human_bytes(disk.stored_bytes),
        disk.read_method,
        disk.read_reason,
    )
