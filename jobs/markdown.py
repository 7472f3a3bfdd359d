"""A session as Markdown, for the artifact in the Prefect UI, whose page is as wide as this table."""

from __future__ import annotations

from jobs.figures import human_bytes, human_rate, human_ratio
from jobs.results import SessionResult
from jobs.session_text import COLUMNS, outcome, remarks, row_cells, workers_used
from jobs.statistics import describe_loads


def session_markdown(result: SessionResult) -> str:
    """One line on the session, its figures, a table of its VMs, then all that somebody should look at."""
    parts = [
        f"**{outcome(result)}**",
        _figures(result),
        _table(result),
        "\n".join(f"- {each}" for each in remarks(result)),
    ]
    return "\n\n".join(part for part in parts if part)


def _figures(result: SessionResult) -> str:
    rate = human_rate(result.read_bytes, result.transfer_s)
    ratio = human_ratio(result.read_bytes, result.stored_bytes)
    lines = [
        (
            f"Processed {human_bytes(result.provisioned_bytes)}, read "
            f"{human_bytes(result.read_bytes)} at {rate}, stored "
            f"{human_bytes(result.stored_bytes)} ({ratio})."
        )
    ]
    if result.part is not None:
        lines.insert(0, f"Part of the job: {result.part.describe()}.")
    if result.loads:
        lines.append(f"Load: {describe_loads(result.loads)}.")
    if used := workers_used(result):
        lines.append(f"Workers: {used}.")
    if result.retention is not None:
        lines.append(f"Retention: {result.retention.summary()}.")
    lines.append(f"Session `{result.session_id}`.")
    return "  \n".join(lines)


def _table(result: SessionResult) -> str:
    head = "| " + " | ".join(each.lower() if each != "VM" else each for each, _ in COLUMNS) + " |"
    line = "| " + " | ".join("--:" if is_number else "---" for _, is_number in COLUMNS) + " |"
    rows = (
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row_cells(vm)) + " |"
        for vm in result.vms
    )
    return "\n".join([head, line, *rows])
