"""A session as a table that a person can read, and paste into a ticket."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cli.output import Column, table
from jobs import (
    DiskResult,
    SessionResult,
    VmResult,
    human_bytes,
    human_duration,
    vm_cells,
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
    for vm, shown in zip(result.vms, data["vms"], strict=True):
        shown["provisioned_bytes"] = vm.provisioned_bytes
        shown["read_bytes"] = vm.read_bytes
        shown["stored_bytes"] = vm.stored_bytes
    return data


def view_session(result: SessionResult) -> Iterator[RenderableType]:
    """One line on the session, a table of its VMs, one of their disks, then what to look at."""
    yield (
        f"Session {result.session_id[:8]} of job {result.job}: {result.status} "
        f"in {human_duration(result.duration_s)}"
    )
    for text in result.cleaned:
        yield f"Cleaned up after an earlier session: {text}"
    for text in result.warnings:
        yield f"Warning: {text}"
    if result.left_out:
        yield f"Left out: {'; '.join(result.left_out)}"
    yield ""
    yield table(VM_COLUMNS, (vm_cells(vm) for vm in result.vms))
    rows = [disk_row(vm, disk) for vm in result.vms for disk in vm.disks]
    if rows:
        yield ""
        yield table(DISK_COLUMNS, rows)
    yield from _remarks(result.vms)


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


def _remarks(vms: Sequence[VmResult]) -> Iterator[RenderableType]:
    remarks = [f"{vm.vm_name}: {vm.status}: {vm.error}" for vm in vms if vm.error is not None]
    remarks += [f"{vm.vm_name}: warning: {text}" for vm in vms for text in vm.warnings]
    remarks += [f"{vm.vm_name}: earlier try: {text}" for vm in vms for text in vm.earlier_errors]
    if remarks:
        yield ""
        yield from remarks
