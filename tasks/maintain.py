"""The steps of the maintenance flows. Each opens what it needs, does one thing, and closes it."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

from prefect.events import emit_event

from blocks import AhvCluster, BackupRepository, BackupWorkers
from jobs import (
    Alert,
    RetentionResult,
    StatusReport,
    apply_known_retention,
    collect_cache,
    describe_breaches,
    find_leftovers,
    last_told,
    plan_alert,
    read_status,
    remember_told,
    remove_leftovers,
    vms_in_scope,
)
from repository import CollectReport, CollectSettings, SystemClock, VerifyBudget, VerifyReport
from tasks.policy import step

LATE_EVENT = "ahvault.backups.late"
RECOVERED_EVENT = "ahvault.backups.recovered"


@step("retain-known-jobs")
def retain_known_jobs(repository: BackupRepository) -> list[RetentionResult]:
    """Carry out the last known policy of every job (T6, D3)."""
    with repository.open() as opened:
        return apply_known_retention(opened, now=datetime.now(UTC))


@step("collect-garbage")
def collect_garbage(repository: BackupRepository, settings: CollectSettings) -> CollectReport:
    """One step of collection: plan a generation, or sweep the one that has rested."""
    stop = threading.Event()
    with repository.open() as opened:
        try:
            return opened.collect(settings, cache=collect_cache(opened.id), stop=stop)
        finally:
            stop.set()


@step("verify-within-budget")
def verify_within_budget(repository: BackupRepository, budget: VerifyBudget) -> VerifyReport:
    """All records and maps, and of the packs those that are due, as far as the budget goes.

    A signal stops the engine's threads too; what was read by then is not read again.
    """
    stop = threading.Event()
    with repository.open() as opened:
        try:
            return opened.verify_within(budget, stop=stop)
        finally:
            stop.set()


@step("remove-what-was-left")
def remove_what_was_left(
    cluster: AhvCluster, repository: BackupRepository, *, dry_run: bool
) -> tuple[list[str], list[str]]:
    """What dead sessions left on the cluster, in words, and what of it was removed."""
    clock = SystemClock()
    with cluster.client() as client, repository.open() as opened:
        found = find_leftovers(client, opened, cluster_url=client.connection.url, clock=clock)
        removed = [] if dry_run else remove_leftovers(client, opened, found, clock=clock)
    return [str(each) for each in found], removed


@step("read-status")
def judge_backups(
    repository: BackupRepository, cluster: AhvCluster | None, workers: BackupWorkers | None
) -> StatusReport:
    """Judge every VM by its RPO; with a cluster, also those that no session has tried yet."""
    with repository.open() as opened:
        in_scope = None
        if cluster is not None:
            names = [each.vm for each in workers.workers] if workers is not None else []
            with cluster.client() as client:
                in_scope = vms_in_scope(client, opened, workers=names)
        return read_status(opened, now=datetime.now(UTC), in_scope=in_scope)


@step("tell-of-late-backups")
def tell_of_late_backups(repository: BackupRepository, report: StatusReport) -> str:
    """Emit the event that notifications wait for, if there is something new to tell; says which."""
    with repository.open() as opened:
        plan = plan_alert(last_told(opened.live), report)
        if plan.alert is not Alert.NOTHING:
            is_late = plan.alert is Alert.LATE
            emit_event(
                LATE_EVENT if is_late else RECOVERED_EVENT,
                resource={
                    "prefect.resource.id": f"ahvault.repository.{opened.id}",
                    "prefect.resource.name": "backups",
                },
                payload={
                    "message": describe_breaches(report) if is_late else "Nobody is late any more.",
                    "vms": [vm.vm_name for vm in report.breaches],
                },
            )
        remember_told(opened.live, plan.told)
    return str(plan.alert)
