"""What a monitoring system wants to know, as plain numbers; gathered from the repository alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from jobs.extents import ReadCause
from jobs.journal import read_journal
from jobs.results import SessionResult
from jobs.status import Protection, StatusReport, read_status
from repository import Clock, Repository, VerifyCoverage

REPORTS_MAX = 500
"""So many session reports are looked at: the newest one of every job is among them."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One gauge: a value for every combination of labels."""

    name: str
    help: str
    labels: tuple[str, ...]
    samples: tuple[tuple[tuple[str, ...], float], ...]


def gather_metrics(
    repository: Repository, *, clock: Clock, rpo_hours: float | None = None
) -> list[Metric]:
    """All metrics as of now. `rpo_hours` judges jobs that have no RPO. Raises `RepositoryError`."""
    status = read_status(repository, now=clock.now(), rpo_hours=rpo_hours)
    reports = repository.reports(newest=REPORTS_MAX).reports
    sessions = _newest_of_each_job(SessionResult.model_validate(report) for report in reports)
    leftovers = _leftovers(repository, clock)
    return [
        *_protection(status),
        *_sessions(sessions),
        *_verification(repository.verify_coverage()),
        leftovers,
    ]


def _protection(status: StatusReport) -> Iterator[Metric]:
    vms = [vm for vm in status.vms if vm.vm_id is not None]
    judged = [
        vm
        for vm in status.vms
        if vm.rpo is not None and vm.state not in (Protection.LEFT, Protection.UNJUDGED)
    ]
    good = [(vm, vm.last_good_at) for vm in vms if vm.last_good_at is not None]
    labels = ("job", "vm")
    yield Metric(
        "ahvault_last_good_point_timestamp_seconds",
        "Moment whose data the newest good restore point of the VM holds.",
        labels,
        tuple(((vm.job, vm.vm_name), at.timestamp()) for vm, at in good),
    )
    yield Metric(
        "ahvault_last_good_point_age_seconds",
        "Age of the newest good restore point of the VM.",
        labels,
        tuple(((vm.job, vm.vm_name), (status.now - at).total_seconds()) for vm, at in good),
    )
    yield Metric(
        "ahvault_rpo_seconds",
        "How old the newest good restore point of the VM may get.",
        labels,
        tuple(((vm.job, vm.vm_name), (vm.rpo or timedelta()).total_seconds()) for vm in judged),
    )
    yield Metric(
        "ahvault_rpo_breach",
        "1 if the VM has no good restore point that is young enough, else 0.",
        labels,
        tuple(((vm.job, vm.vm_name), float(vm.state.is_breach)) for vm in judged),
    )
    yield Metric(
        "ahvault_restore_points",
        "Restore points of the VM, by whether they have open findings.",
        (*labels, "damaged"),
        tuple(
            ((vm.job, vm.vm_name, damaged), float(count))
            for vm in vms
            for damaged, count in (
                ("false", vm.point_count - vm.damaged_count),
                ("true", vm.damaged_count),
            )
        ),
    )


def _sessions(sessions: Mapping[str, SessionResult]) -> Iterator[Metric]:
    def gauge(name: str, text: str, values: Iterable[tuple[str, float]]) -> Metric:
        return Metric(
            f"ahvault_session_{name}",
            f"{text}, of the newest session of the job.",
            ("job",),
            tuple(((job,), value) for job, value in values),
        )

    items = sorted(sessions.items())
    yield gauge("end_timestamp_seconds", "End", ((job, _ended_at(each)) for job, each in items))
    yield gauge("duration_seconds", "Duration", ((job, each.duration_s) for job, each in items))
    yield gauge(
        "processed_bytes",
        "Size of all disks",
        ((job, each.provisioned_bytes) for job, each in items),
    )
    yield gauge(
        "read_bytes", "Bytes read from the source", ((job, each.read_bytes) for job, each in items)
    )
    yield gauge(
        "stored_bytes",
        "Bytes sent to the repository",
        ((job, each.stored_bytes) for job, each in items),
    )
    yield gauge(
        "reduction_ratio",
        "Bytes read for each byte stored",
        ((job, each.read_bytes / each.stored_bytes) for job, each in items if each.stored_bytes),
    )
    yield Metric(
        "ahvault_session_vms",
        "VMs by result, of the newest session of the job.",
        ("job", "result"),
        tuple(
            ((job, result), float(sum(vm.status == result for vm in each.vms)))
            for job, each in items
            for result in ("success", "warning", "failed", "stopped")
        ),
    )
    yield _full_reads(items)


def _full_reads(items: Iterable[tuple[str, SessionResult]]) -> Metric:
    """Disks that were read by anything but their changes, by cause (B7)."""
    samples = []
    for job, session in items:
        causes = Counter(
            disk.read_cause or "unknown"
            for vm in session.vms
            for disk in vm.disks
            if disk.read_cause != ReadCause.CHANGED_REGIONS
        )
        samples += [((job, cause), float(count)) for cause, count in sorted(causes.items())]
    return Metric(
        "ahvault_session_full_read_disks",
        "Disks not read by their changes alone, by cause, of the newest session of the job.",
        ("job", "cause"),
        tuple(samples),
    )


def _verification(coverage: VerifyCoverage) -> Iterator[Metric]:
    for name, text, value in (
        ("repository_stored_bytes", "Bytes of all packs.", coverage.stored_bytes),
        ("repository_packs", "Packs.", coverage.pack_count),
        (
            "verify_covered_ratio",
            f"Share of the stored bytes proven in the last {coverage.every_days:g} days, 0 to 1.",
            coverage.covered_share,
        ),
        ("verify_oldest_proof_age_seconds", "Age of the oldest proof.", coverage.oldest_age_s),
        ("verify_open_findings", "Findings not seen mended.", coverage.open_finding_count),
        (
            "verify_damaged_restore_points",
            "Restore points that open findings concern.",
            coverage.damaged_point_count,
        ),
    ):
        yield Metric(f"ahvault_{name}", text, (), (((), float(value)),))


def _leftovers(repository: Repository, clock: Clock) -> Metric:
    """What sessions without a sign of life have in the journal, by kind."""
    state = read_journal(repository.live, clock)
    dead = Counter(
        str(entry.kind) for entry in state.entries if entry.session_id not in state.alive
    )
    kinds = ("recovery-point", "volume-group", "vm", "worker-power")
    return Metric(
        "ahvault_leftovers",
        "Objects on the cluster that dead sessions left, as the journal has them.",
        ("kind",),
        tuple(((kind,), float(dead[kind])) for kind in kinds),
    )


def _newest_of_each_job(sessions: Iterable[SessionResult]) -> dict[str, SessionResult]:
    newest: dict[str, SessionResult] = {}
    for session in sessions:
        known = newest.get(session.job)
        if known is None or session.started_at >= known.started_at:
            newest[session.job] = session
    return newest


def _ended_at(session: SessionResult) -> float:
    ended: datetime = session.started_at + timedelta(seconds=session.duration_s)
    return ended.timestamp()
