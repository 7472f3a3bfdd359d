"""A session as Markdown, for the artifact in the Prefect UI."""

from __future__ import annotations

from jobs.figures import human_bytes, human_duration, human_rate, human_ratio
from jobs.results import SessionResult, VmResult
from jobs.session_text import outcome
from jobs.statistics import describe_loads

_HEAD = "| VM | result | kind | disks | provisioned | read | stored | ratio | time | worker |"
_LINE = "| --- | --- | --- | --: | --: | --: | --: | --: | --: | --- |"


def session_markdown(result: SessionResult) -> str:
    """One line on the session, a table of its VMs, then why each disk was read as it was."""
    parts = [
        f"**{outcome(result)}**",
        _figures(result),
        "\n".join([_HEAD, _LINE, *(_row(vm) for vm in result.vms)]),
        "\n".join([*_retention(result), *_remarks(result)]),
    ]
    return "\n\n".join(part for part in parts if part)


def _figures(result: SessionResult) -> str:
    rate = human_rate(result.read_bytes, result.transfer_s)
    ratio = human_ratio(result.read_bytes, result.stored_bytes)
    lines = [
        (
            f"Processed {human_bytes(result.provisioned_bytes)}, read "
            f"{human_bytes(result.read_bytes)} at {rate}, stored "
            f"{human_bytes(result.stored_bytes)} ({ratio}), session `{result.session_id}`."
        )
    ]
    if result.loads:
        lines.append(f"Load: {describe_loads(result.loads)}.")
    return "  \n".join(lines)


def _row(vm: VmResult) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in vm_cells(vm)) + " |"


def vm_cells(vm: VmResult) -> tuple[str, ...]:
    """One VM of a session as the cells of a table row, in the order of its head."""
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


def _retention(result: SessionResult) -> list[str]:
    if result.retention is None:
        return []
    summary = f"- retention: {result.retention.summary()}"
    return [summary, *(f"- retention: {each}" for each in result.retention.forgotten)]


def _remarks(result: SessionResult) -> list[str]:
    remarks = [f"- cleaned up after an earlier session: {text}" for text in result.cleaned]
    remarks += [f"- warning: {text}" for text in result.warnings]
    if result.left_out:
        remarks.append(f"- left out: {'; '.join(result.left_out)}")
    for vm in result.vms:
        remarks += [f"- {vm.vm_name}: an earlier try failed: {text}" for text in vm.earlier_errors]
        if vm.error:
            remarks.append(f"- **{vm.vm_name}**: {vm.error}")
        remarks += [f"- {vm.vm_name}: warning: {warning}" for warning in vm.warnings]
        remarks += [f"- {vm.vm_name}: {text}" for text in vm.ruled_out]
        if vm.bottleneck:
            rate = human_rate(vm.read_bytes, vm.transfer_s)
            remarks.append(f"- {vm.vm_name}: {rate}, load: {describe_loads(vm.loads)}")
        remarks += [
            f"- {vm.vm_name} {disk.label}: {disk.read_method}: {disk.read_reason}"
            for disk in vm.disks
        ]
    return remarks
