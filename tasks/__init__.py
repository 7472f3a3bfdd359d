"""The steps that flows are made of, each retryable on its own: thin shells over `jobs`."""

from tasks.context import current_backup, current_session, current_story, working_in, working_on
from tasks.disks import commit_point, plan_reads
from tasks.moving import filled_disks, move_disks
from tasks.report import RunLog, progress_artifact, report_session
from tasks.restore import (
    choose_target,
    create_restored_vm,
    power_on_vm,
)
from tasks.snapshots import (
    abandon_snapshot,
    find_reference,
    settle_snapshot,
    take_snapshot,
)
from tasks.upkeep import clean_up_leftovers, prepare_workers, select_vms

__all__ = [
    "RunLog",
    "abandon_snapshot",
    "choose_target",
    "clean_up_leftovers",
    "commit_point",
    "create_restored_vm",
    "current_backup",
    "current_session",
    "current_story",
    "filled_disks",
    "find_reference",
    "move_disks",
    "plan_reads",
    "power_on_vm",
    "prepare_workers",
    "progress_artifact",
    "report_session",
    "select_vms",
    "settle_snapshot",
    "take_snapshot",
    "working_in",
    "working_on",
]
