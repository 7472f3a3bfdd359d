"""What keeps a repository in shape between sessions, each as a flow with a schedule of its own.

All of them are safe beside running sessions and beside each other, may be stopped anywhere, and run
again by hand whenever somebody likes. Each leaves one artifact that says what it did.
"""

from __future__ import annotations

from typing import Annotated, Literal

from prefect import flow
from pydantic import Field

from blocks import AhvCluster, BackupRepository, BackupWorkers
from jobs import (
    BackupsLate,
    DamageFound,
    RetentionResult,
    StatusReport,
    cleaning_markdown,
    collection_markdown,
    describe_breaches,
    retention_markdown,
    status_markdown,
    verification_markdown,
)
from repository import CollectReport, CollectSettings, VerifyBudget, VerifyLevel, VerifyReport
from tasks import (
    VERSION,
    cause_first,
    collect_garbage,
    judge_backups,
    remove_what_was_left,
    retain_known_jobs,
    show_markdown,
    tell_of_late_backups,
    verify_within_budget,
)


@flow(name="retention", version=VERSION, flow_run_name="retention", persist_result=False)
@cause_first
def retention(repository: BackupRepository) -> list[RetentionResult]:
    """Forget restore points by the last known policy of each job, also of jobs that run no more.

    Every session does the same for its own job when it has succeeded; this run is for the others.
    What looks like too much stays and is told; nothing is forced.

    Args:
        repository: Where restore points are kept.
    """
    results = retain_known_jobs(repository)
    show_markdown("retention", retention_markdown(results), "What retention forgot, and why")
    return results


@flow(name="collect", version=VERSION, flow_run_name="collect", persist_result=False)
@cause_first
def collect(
    repository: BackupRepository,
    settings: CollectSettings = CollectSettings(),  # noqa: B008 - frozen, shown as the form's default
) -> CollectReport:
    """Free the space of what no restore point needs any more, one step per run.

    One run plans, a later one deletes what was planned, so it belongs on a daily schedule.

    Args:
        repository: Where restore points are kept.
        settings: How collection goes about it.
    """
    report = collect_garbage(repository, settings)
    show_markdown("collection", collection_markdown(report), "The step that collection took")
    return report


@flow(name="verify", version=VERSION, flow_run_name="verify", persist_result=False)
@cause_first
def verify(
    repository: BackupRepository,
    level: Literal["stored", "content"] = "content",
    every_days: Annotated[float, Field(gt=0)] = 30.0,
    gib_max: Annotated[float, Field(gt=0)] = 200.0,
    minutes_max: Annotated[float, Field(gt=0)] = 240.0,
) -> VerifyReport:
    """Check that what is stored is what was written: all records, and the packs that are due.

    Run daily, it proves everything once in `every_days`, if the budget allows; the artifact says how
    much is proven. Raises `DamageFound` as long as any finding is open, also one of an earlier run.

    Args:
        repository: Where restore points are kept.
        level: How deep packs are looked at: stored bytes, or decoded content.
        every_days: A pack is due again when its last proof is older than this.
        gib_max: Read at most so many GiB of packs in one run.
        minutes_max: Begin no further pack after so many minutes.
    """
    budget = VerifyBudget(
        level=VerifyLevel[level.upper()],
        every_days=every_days,
        max_bytes=int(gib_max * 1024**3),
        max_duration_s=minutes_max * 60,
    )
    report = verify_within_budget(repository, budget)
    show_markdown("verification", verification_markdown(report), "What was verified, and found")
    if not report.is_clean:
        raise DamageFound.of(report)
    return report


@flow(name="clean-up", version=VERSION, flow_run_name="clean-up", persist_result=False)
@cause_first
def clean_up(cluster: AhvCluster, repository: BackupRepository, dry_run: bool = False) -> list[str]:
    """Remove from the cluster what dead sessions left there; returns what was removed, in words.

    Nothing goes but what carries our mark and stands in a record of this repository; what a running
    session uses is left alone.

    Args:
        cluster: The cluster that the sessions worked on.
        repository: Whose sessions are cleaned up after.
        dry_run: Only list what would be removed, and why.
    """
    found, removed = remove_what_was_left(cluster, repository, dry_run=dry_run)
    show_markdown("clean-up", cleaning_markdown(found, removed), "What dead sessions had left")
    return removed


@flow(name="check-rpo", version=VERSION, flow_run_name="check-rpo", persist_result=False)
@cause_first
def check_rpo(
    repository: BackupRepository,
    cluster: AhvCluster | None = None,
    workers: BackupWorkers | None = None,
) -> StatusReport:
    """Find late and missing backups by the age of the last good restore point against the RPO.

    Raises `BackupsLate`, which names the VMs, if there are any, so that the run is red as long as
    somebody is late; the event for notifications comes once, and once a day while it lasts.

    Args:
        repository: Where restore points are kept.
        cluster: Asked for VMs that no session has tried yet; may be left out.
        workers: Worker VMs, which nobody backs up.
    """
    report = judge_backups(repository, cluster, workers)
    tell_of_late_backups(repository, report)
    show_markdown("protection", status_markdown(report), "Every VM against the RPO of its job")
    if report.breaches:
        raise BackupsLate(describe_breaches(report), [vm.vm_name for vm in report.breaches])
    return report
