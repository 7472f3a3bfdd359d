"""A session as plain text that a person can paste into a ticket: 100 columns, no colours, no frames."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta

from jobs.figures import human_bytes, human_duration, human_rate, human_ratio, utc_text
from jobs.results import SessionResult, VmResult, VmStatus
from jobs.statistics import describe_loads

WIDTH = 100
_LABEL = 11
COLUMNS = (
    ("VM", False),
    ("RESULT", False),
    ("KIND", False),
    ("PROCESSED", True),
    ("READ", True),
    ("STORED", True),
    ("RATIO", True),
    ("RATE", True),
    ("TIME", True),
)
"""Heading of each column, and whether its cells are numbers."""


def session_text(result: SessionResult) -> str:
    """The header (M2), a row per VM, and all that somebody should look at; lines end without blanks."""
    lines = [
        headline(result),
        "",
        *_header(result),
        "",
        *_table(result.vms),
    ]
    told = list(remarks(result))
    if told:
        lines += ["", *(line for remark in told for line in _wrapped(remark))]
    return "\n".join(line.rstrip() for line in lines)


def headline(result: SessionResult) -> str:
    """One line: what ran, what came of it, how long it took."""
    return (
        f"Session {result.session_id[:8]} of job {result.job}: {result.status} "
        f"in {human_duration(result.duration_s)}"
    )


def outcome(result: SessionResult) -> str:
    """`warning, 3 VMs (2 success, 1 warning), 401.0 MiB read, 184.6 MiB stored in 2 min 05 s`."""
    vms = "1 VM" if len(result.vms) == 1 else f"{len(result.vms)} VMs"
    counted = f" ({_counts(result)})" if len(result.vms) > 1 else ""
    return (
        f"{result.status}, {vms}{counted}, {human_bytes(result.read_bytes)} read, "
        f"{human_bytes(result.stored_bytes)} stored in {human_duration(result.duration_s)}"
    )


def _counts(result: SessionResult) -> str:
    counts = Counter(vm.status for vm in result.vms)
    return ", ".join(f"{counts[status]} {status}" for status in _STATUSES if counts[status])


_STATUSES: tuple[VmStatus, ...] = ("success", "warning", "failed", "stopped")


def _header(result: SessionResult) -> Iterator[str]:
    ended_at = result.started_at + timedelta(seconds=result.duration_s)
    disk_count = sum(len(vm.disks) for vm in result.vms)
    rate = human_rate(result.read_bytes, result.transfer_s)
    ratio = human_ratio(result.read_bytes, result.stored_bytes)
    yield _line("Time", f"{utc_text(result.started_at)} to {utc_text(ended_at)}")
    if result.part is not None:
        yield _line("Part", result.part.describe())
    yield _line("VMs", f"{len(result.vms)}: {_counts(result)}" if result.vms else "none")
    yield _line("Processed", f"{human_bytes(result.provisioned_bytes)} in {disk_count} disks")
    yield _line("Read", f"{human_bytes(result.read_bytes)} at {rate}")
    yield _line("Stored", f"{human_bytes(result.stored_bytes)} ({ratio})")
    if result.loads:
        yield _line("Load", describe_loads(result.loads))
    if used := workers_used(result):
        yield _line("Workers", used)
    if result.retention is not None:
        yield _line("Retention", result.retention.summary())


def workers_used(result: SessionResult) -> str:
    """Which workers moved how many VMs; empty if none did."""
    workers = Counter(vm.worker for vm in result.vms if vm.worker)
    return ", ".join(f"{name} ({count})" for name, count in sorted(workers.items()))


def _line(label: str, text: str) -> str:
    return f"{label:<{_LABEL}}{text}"


def row_cells(vm: VmResult) -> tuple[str, ...]:
    """One VM as cells, in the order of `COLUMNS`."""
    return (
        vm.vm_name,
        vm.status,
        {"full": "full", "incremental": "incr"}.get(vm.kind or "", "-"),
        human_bytes(vm.provisioned_bytes),
        human_bytes(vm.read_bytes),
        human_bytes(vm.stored_bytes),
        human_ratio(vm.read_bytes, vm.stored_bytes),
        human_rate(vm.read_bytes, vm.transfer_s) if vm.read_bytes else "-",
        human_duration(vm.duration_s),
    )


def _table(vms: Sequence[VmResult]) -> Iterator[str]:
    rows = [tuple(heading for heading, _ in COLUMNS), *(row_cells(vm) for vm in vms)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        yield "  ".join(
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, (_, is_number) in zip(row, widths, COLUMNS, strict=True)
        )


def remarks(result: SessionResult) -> Iterator[str]:
    """Failures first, then warnings, then what explains the figures."""
    for vm in result.vms:
        if vm.error is not None:
            yield f"{vm.vm_name}: {vm.status}: {vm.error}"
    yield from (f"warning: {text}" for text in result.warnings)
    for vm in result.vms:
        yield from (f"{vm.vm_name}: warning: {text}" for text in vm.warnings)
        yield from (f"{vm.vm_name}: earlier try: {text}" for text in vm.earlier_errors)
        yield from (f"{vm.vm_name}: {text}" for text in vm.ruled_out)
    if result.left_out:
        yield f"left out: {'; '.join(result.left_out)}"
    yield from (f"cleaned up after an earlier session: {text}" for text in result.cleaned)
    yield from _full_reads(result.vms)
    if result.retention is not None:
        yield from (f"forgotten: {each}" for each in result.retention.forgotten)


def _full_reads(vms: Iterable[VmResult]) -> Iterator[str]:
    """Why disks were not read by their changes alone, disks with the same reason together."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for vm in vms:
        for disk in vm.disks:
            if disk.read_method != "changed":
                names = by_reason.setdefault((disk.read_method, disk.read_reason), [])
                names.append(f"{vm.vm_name} {disk.label or disk.disk_id}")
    for (method, reason), names in by_reason.items():
        shown = ", ".join(names) if len(names) <= _NAMED_MAX else f"{len(names)} disks"
        yield f"{shown}: read {method}: {reason}"


_NAMED_MAX = 6


def _wrapped(remark: str) -> list[str]:
    return textwrap.wrap(
        f"- {remark}",
        WIDTH,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
