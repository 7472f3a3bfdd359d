"""What the maintenance flows did, as Markdown for their artifacts in the Prefect UI."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from jobs.figures import human_bytes, human_span, utc_text
from jobs.retention import RetentionResult
from jobs.status import StatusReport, describe_breaches
from repository import CollectReport, VerifyReport


def retention_markdown(results: Sequence[RetentionResult]) -> str:
    """One row per job, then every restore point that went, and why."""
    if not results:
        return "No job with a retention policy has run yet; nothing was forgotten."
    head = _table(
        ("job", "looked at", "forgotten", "next time"),
        (
            (each.job, str(each.judged), str(len(each.forgotten)), str(len(each.deferred)))
            for each in results
        ),
    )
    went = [f"- {each.job}: {point}" for each in results for point in each.forgotten]
    warned = [f"- **{each.job}**: {text}" for each in results for text in each.warnings]
    return _paragraphs(head, "\n".join(warned), "\n".join(went))


def collection_markdown(report: CollectReport) -> str:
    """The step that was taken, and what it deletes."""
    reason = f": {report.reason}" if report.reason else ""
    counts = _table(
        ("objects", "number"),
        ((name, str(count)) for name, count in sorted((report.object_counts or {}).items())),
    )
    freed = (
        f"{len(report.points)} forgotten restore points, {human_bytes(report.freed_bytes)}; "
        f"{report.rewritten_packs} packs rewritten ({human_bytes(report.rewritten_bytes)} read, "
        f"{human_bytes(report.stored_bytes)} written)."
    )
    step = f"**Generation {report.generation}: {report.stage}**{reason}"
    return _paragraphs(step, counts if report.object_counts else "", freed)


def verification_markdown(report: VerifyReport) -> str:
    """What was looked at, how much of everything is proven, and all that is known to be wrong."""
    looked = (
        f"Checked to level {report.level.name.lower()}: {report.points_checked} restore points, "
        f"{report.packs_checked} packs, {human_bytes(report.bytes_checked)}."
    )
    coverage = report.coverage
    proven = (
        f"**{coverage.covered_share:.0%} proven** within {coverage.every_days:g} days: "
        f"{human_bytes(coverage.covered_bytes)} of {human_bytes(coverage.stored_bytes)}; the oldest "
        f"proof is {human_span(timedelta(seconds=coverage.oldest_age_s))} old."
        if coverage is not None
        else ""
    )
    rows = [(each, "seen now") for each in report.findings]
    rows += [(each.finding, f"since {utc_text(each.first_seen_at)}") for each in report.still_open]
    findings = _table(
        ("object", "what", "detail", "seen", "restore points of"),
        (
            (
                finding.key,
                finding.kind.value,
                finding.detail,
                since,
                ", ".join(sorted({part.vm_name for part in finding.concerned})) or "nobody",
            )
            for finding, since in rows
        ),
    )
    mended = "\n".join(f"- mended: {each.finding.key}" for each in report.mended)
    return _paragraphs(
        looked, proven, findings if rows else "Nothing is known to be wrong.", mended
    )


def cleaning_markdown(found: Sequence[str], removed: Sequence[str]) -> str:
    """What was found on the cluster, and what of it went."""
    if not found:
        return "Nothing was left on the cluster."
    stayed = [each for each in found if each not in removed]
    return _paragraphs(
        f"{len(removed)} of {len(found)} leftovers removed.",
        "\n".join(f"- removed: {each}" for each in removed),
        "\n".join(f"- stays for now: {each}" for each in stayed),
    )


def status_markdown(report: StatusReport) -> str:
    """The verdict, and a row for every VM; those that are late stand first."""
    if not report.vms:
        return "No job has run yet."
    rows = sorted(report.vms, key=lambda vm: not vm.state.is_breach)
    table = _table(
        ("job", "VM", "state", "last good point", "age", "RPO", "points"),
        (
            (
                vm.job,
                vm.vm_name,
                f"**{vm.state}**" if vm.state.is_breach else str(vm.state),
                utc_text(vm.last_good_at) if vm.last_good_at else "-",
                human_span(report.now - vm.last_good_at) if vm.last_good_at else "-",
                human_span(vm.rpo) if vm.rpo else "-",
                str(vm.point_count),
            )
            for vm in rows
        ),
    )
    verdict = describe_breaches(report) if report.breaches else "Nobody is late."
    return _paragraphs(f"**{verdict}**", table)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def _paragraphs(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)
