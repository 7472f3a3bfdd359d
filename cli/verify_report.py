"""What verification found and proved, as plain data for programs and as text for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from cli.output import Column, table
from jobs import human_bytes, human_span, utc_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from repository import Concerned, Finding, OpenFinding, VerifyCoverage, VerifyReport

_FINDING_COLUMNS = (
    Column("OBJECT"),
    Column("WHAT"),
    Column("DETAIL", can_wrap=True),
    Column("RESTORE POINTS CONCERNED", can_wrap=True),
)


def report_as_data(report: VerifyReport) -> dict[str, Any]:
    """The report as plain data."""
    return {
        "is_clean": report.is_clean,
        "level": report.level.name.lower(),
        "points_checked": report.points_checked,
        "disks_checked": report.disks_checked,
        "objects_checked": report.objects_checked,
        "packs_checked": report.packs_checked,
        "chunks_checked": report.chunks_checked,
        "bytes_checked": report.bytes_checked,
        "findings": [_finding_as_data(finding) for finding in report.findings],
        "still_open": [_open_finding_as_data(each) for each in report.still_open],
        "mended": [_open_finding_as_data(each) for each in report.mended],
        "coverage": _covered_as_data(report.coverage) if report.coverage else None,
    }


def coverage_as_data(covered: VerifyCoverage, findings: Sequence[OpenFinding]) -> dict[str, Any]:
    """What was proven, and the findings that are open, as plain data."""
    return {
        **_covered_as_data(covered),
        "open_findings": [_open_finding_as_data(each) for each in findings],
    }


def _covered_as_data(covered: VerifyCoverage) -> dict[str, Any]:
    return {
        "level": covered.level.name.lower(),
        "every_days": covered.every_days,
        "packs": covered.pack_count,
        "stored_bytes": covered.stored_bytes,
        "covered_packs": covered.covered_pack_count,
        "covered_bytes": covered.covered_bytes,
        "covered_share": round(covered.covered_share, 6),
        "oldest_age_s": round(covered.oldest_age_s),
        "open_finding_count": covered.open_finding_count,
        "damaged_point_count": covered.damaged_point_count,
    }


def _open_finding_as_data(each: OpenFinding) -> dict[str, Any]:
    return {
        **_finding_as_data(each.finding),
        "first_seen_at": utc_text(each.first_seen_at),
        "last_seen_at": utc_text(each.last_seen_at),
    }


def _finding_as_data(finding: Finding) -> dict[str, Any]:
    return {
        "key": finding.key,
        "kind": finding.kind.value,
        "detail": finding.detail,
        "concerned": [
            {
                "point_id": concerned.point_id,
                "vm": concerned.vm_name,
                "disk_id": concerned.disk_id,
                "ranges_bytes": [[part.start_bytes, part.end_bytes] for part in concerned.extents],
            }
            for concerned in finding.concerned
        ],
    }


def view_report(report: VerifyReport) -> Iterator[RenderableType]:
    """What was checked and what is damaged, and whom that concerns."""
    checked = (
        f"{report.points_checked} restore points, {report.disks_checked} disks, "
        f"{report.objects_checked} objects, {report.packs_checked} packs, "
        f"{report.chunks_checked} chunks, {human_bytes(report.bytes_checked)}"
    )
    yield f"Checked to level {report.level.name.lower()}: {checked}."
    if report.coverage:
        yield _coverage_sentence(report.coverage)
    if report.mended:
        yield f"Mended since it was found: {', '.join(each.finding.key for each in report.mended)}."
    if report.is_clean:
        yield "No damage was found."
        return
    if report.findings:
        yield f"DAMAGE: {len(report.findings)} objects are not what was written."
        yield table(_FINDING_COLUMNS, (_finding_row(finding) for finding in report.findings))
    yield from _view_open(report.still_open)
    yield "Restore points that are not named here are whole. Keep the damaged objects until repaired."


def _view_open(findings: Sequence[OpenFinding]) -> Iterator[RenderableType]:
    """Findings of earlier verifications; nothing if there are none."""
    if not findings:
        return
    yield f"DAMAGE: {len(findings)} earlier findings have not been seen mended."
    yield table(_FINDING_COLUMNS, (_finding_row(each.finding) for each in findings))


def view_coverage(
    covered: VerifyCoverage, findings: Sequence[OpenFinding]
) -> Iterator[RenderableType]:
    """How much was proven, and the findings that are open."""
    yield _coverage_sentence(covered)
    if not findings:
        yield "No damage is known."
    yield from _view_open(findings)


def _coverage_sentence(covered: VerifyCoverage) -> str:
    oldest = human_span(timedelta(seconds=covered.oldest_age_s))
    return (
        f"Proven at level {covered.level.name.lower()} within {covered.every_days:g} days: "
        f"{covered.covered_share:.1%} ({human_bytes(covered.covered_bytes)} of "
        f"{human_bytes(covered.stored_bytes)}); the oldest proof is {oldest} old."
    )


def _finding_row(finding: Finding) -> tuple[str, ...]:
    concerned = "; ".join(_describe_concerned(part) for part in finding.concerned)
    return (finding.key, finding.kind.value, finding.detail, concerned or "none")


def _describe_concerned(concerned: Concerned) -> str:
    disk = f" disk {concerned.disk_id}" if concerned.disk_id else ""
    size_bytes = sum(part.end_bytes - part.start_bytes for part in concerned.extents)
    ranges = (
        f", {human_bytes(size_bytes)} from byte {concerned.extents[0].start_bytes}"
        if size_bytes
        else ""
    )
    return f"{concerned.vm_name} {concerned.point_id[:8]}{disk}{ranges}"
