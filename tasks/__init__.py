"""The steps that flows are made of, each retryable on its own: thin shells over `jobs`."""

from tasks.cancel import confirm_cancelled, heeding_cancel
from tasks.context import (
    current_backup,
    current_session,
    current_story,
    started_by_schedule,
    working_in,
    working_on,
)
from tasks.disks import commit_point, plan_reads, transfer_disks
from tasks.job_hooks import run_after_hook, run_before_hook
from tasks.maintain import (
    LATE_EVENT,
    RECOVERED_EVENT,
    collect_garbage,
    judge_backups,
    remove_what_was_left,
    retain_known_jobs,
    tell_of_late_backups,
    verify_within_budget,
)
from tasks.mover import carried_by, move_all_disks
from tasks.movers import MOVERS_POOL, queue_check_of, why_unusable
from tasks.moving import filled_disks, move_disks
from tasks.report import (
    VERSION,
    RunLog,
    cause_first,
    ending,
    name_part,
    progress_artifact,
    report_session,
    show_markdown,
)
from tasks.restore import choose_target, create_restored_vm, power_on_vm
from tasks.slots import SharedSlots
from tasks.snapshots import abandon_snapshot, find_reference, settle_snapshot, take_snapshot
from tasks.throttle import PrefectLimits
from tasks.upkeep import apply_retention, clean_up_leftovers, prepare_workers, select_vms

__all__ = [
    "LATE_EVENT",
    "MOVERS_POOL",
    "RECOVERED_EVENT",
    "VERSION",
    "PrefectLimits",
    "RunLog",
    "SharedSlots",
    "abandon_snapshot",
    "apply_retention",
    "carried_by",
    "cause_first",
    "choose_target",
    "clean_up_leftovers",
    "collect_garbage",
    "commit_point",
    "confirm_cancelled",
    "create_restored_vm",
    "current_backup",
    "current_session",
    "current_story",
    "ending",
    "filled_disks",
    "find_reference",
    "heeding_cancel",
    "judge_backups",
    "move_all_disks",
    "move_disks",
    "name_part",
    "plan_reads",
    "power_on_vm",
    "prepare_workers",
    "progress_artifact",
    "queue_check_of",
    "remove_what_was_left",
    "report_session",
    "retain_known_jobs",
    "run_after_hook",
    "run_before_hook",
    "select_vms",
    "settle_snapshot",
    "show_markdown",
    "started_by_schedule",
    "take_snapshot",
    "tell_of_late_backups",
    "transfer_disks",
    "verify_within_budget",
    "why_unusable",
    "working_in",
    "working_on",
]
