"""What makes a session out of the two engines: the job model, scope, worker choice, extents and their
reasons, the journal of what we created on a cluster, and what a session did. No Prefect here.
"""

from jobs.alerts import Alert, last_told, plan_alert, remember_told
from jobs.caches import collect_cache
from jobs.checkup import check_repository, check_workers
from jobs.drains import Drain, drain, read_drains, undrain
from jobs.errors import (
    BackupsLate,
    ConsistencyNotReached,
    DamageFound,
    DeployRefused,
    DisksUnexpected,
    HookFailed,
    JobError,
    JobInvalid,
    LimitsUnavailable,
    MoveFailed,
    MoveWithdrawn,
    NothingToBackUp,
    NoWorker,
    RestoreRefused,
    RuleBuiltIn,
    SessionFailed,
    SessionStopped,
    SnapshotIncomplete,
    StorageNearlyFull,
    ThrottleInvalid,
    TransferUnencrypted,
    VmBusy,
    WorkerBusy,
    WorkerLost,
)
from jobs.extents import DiskPlan, ReadCause, ReadMethod
from jobs.figures import human_bytes, human_duration, human_rate, human_ratio, human_span, utc_text
from jobs.hooks import HookFacts, run_hook
from jobs.job_file import ScheduledJob, parse_job, read_job_file
from jobs.journal import Entry, Journal
from jobs.known_jobs import KnownJob, known_jobs, remember_job, retire_job
from jobs.leases import Lease, running_sessions, this_machine
from jobs.markdown import session_markdown
from jobs.metrics import Metric, gather_metrics
from jobs.model import BackupJob, WorkerSpec
from jobs.move_plans import MoveDisk, MovePlan, pack_attachment
from jobs.move_watch import RunPhase, await_move
from jobs.mover import Mover, carrying_out
from jobs.moves import MoveResult, Moves, move_id_of
from jobs.moving import WorkersTried, worker_failure
from jobs.part import narrow_to, nothing_to_retry, part_of_job
from jobs.plan import plan_session
from jobs.planned import PlannedDisk, PlannedVm, SessionPlan
from jobs.policies import (
    BackupWindow,
    BeforeHook,
    CircuitBreaker,
    Hook,
    Hooks,
    RetryPolicy,
    SpaceLimits,
    TransferLimits,
)
from jobs.progress import NullObserver, Observer, Observers, current_observer, observed_by
from jobs.reconcile import Leftover, find_leftovers, find_unclaimed, remove_leftovers
from jobs.references import Reference, find_reference, settle_snapshot
from jobs.restore import (
    RestoreResult,
    RestoreTarget,
    choose_target,
    create_restored_vm,
    group_blank_disks,
    restore_disk,
    restore_result,
)
from jobs.results import DiskResult, JobPart, SessionResult, VmResult
from jobs.retention import (
    ForgottenByRule,
    RetentionResult,
    apply_known_retention,
    apply_retention,
    carry_out,
    session_attempts,
)
from jobs.scope import ChosenVms, LeftOut, VmTarget, choose_vms
from jobs.selection import DiskRule, Scope, Selection
from jobs.session import BackupSession, Session, open_backup_session, open_session
from jobs.session_text import outcome, session_text
from jobs.slots import LocalSlots, SlotHold, Slots, limit_name, worker_of_limit
from jobs.snapshots import DiskSnapshot, Snapshot, abandon_snapshot, take_snapshot
from jobs.statistics import bottleneck
from jobs.status import (
    Protection,
    StatusReport,
    VmProtection,
    describe_breaches,
    read_status,
    vms_in_scope,
)
from jobs.stop_requests import StopRequest, ask_to_stop, stop_asked
from jobs.story import VmStory, told_to_the_end
from jobs.throttle import LocalLimits, ThrottleEngine, TransferThrottle, open_throttle
from jobs.throttle_book import RuleBook, ThrottleSettings, parse_rule
from jobs.throttle_lane import TURN_S_MAX, Grant, SharedLimits
from jobs.throttle_rules import LimitInForce, ThrottleRule, Traffic
from jobs.transfer import commit_point, group_snapshot, plan_reads, transfer_disk
from jobs.upkeep_markdown import (
    cleaning_markdown,
    collection_markdown,
    retention_markdown,
    status_markdown,
    verification_markdown,
)
from jobs.volumes import Attachment, DiskGroup, attach, detach, make_group, remove_group
from jobs.week import WeeklyTimes
from jobs.worker_deploy import DeployPlan, WorkerWanted, deployed, plan_deployment
from jobs.worker_image import WorkerBoot
from jobs.worker_pool import WorkerPool
from jobs.worker_status import WorkerReport, report_workers
from jobs.worker_trial import TRIAL_JOB, TrialStep, try_worker
from jobs.workers import WorkerChoice, WorkerState, rank_workers

__all__ = [
    "TRIAL_JOB",
    "TURN_S_MAX",
    "Alert",
    "Attachment",
    "BackupJob",
    "BackupSession",
    "BackupWindow",
    "BackupsLate",
    "BeforeHook",
    "ChosenVms",
    "CircuitBreaker",
    "ConsistencyNotReached",
    "DamageFound",
    "DeployPlan",
    "DeployRefused",
    "DiskGroup",
    "DiskPlan",
    "DiskResult",
    "DiskRule",
    "DiskSnapshot",
    "DisksUnexpected",
    "Drain",
    "Entry",
    "ForgottenByRule",
    "Grant",
    "Hook",
    "HookFacts",
    "HookFailed",
    "Hooks",
    "JobError",
    "JobInvalid",
    "JobPart",
    "Journal",
    "KnownJob",
    "Lease",
    "LeftOut",
    "Leftover",
    "LimitInForce",
    "LimitsUnavailable",
    "LocalLimits",
    "LocalSlots",
    "Metric",
    "MoveDisk",
    "MoveFailed",
    "MovePlan",
    "MoveResult",
    "MoveWithdrawn",
    "Mover",
    "Moves",
    "NoWorker",
    "NothingToBackUp",
    "NullObserver",
    "Observer",
    "Observers",
    "PlannedDisk",
    "PlannedVm",
    "Protection",
    "ReadCause",
    "ReadMethod",
    "Reference",
    "RestoreRefused",
    "RestoreResult",
    "RestoreTarget",
    "RetentionResult",
    "RetryPolicy",
    "RuleBook",
    "RuleBuiltIn",
    "RunPhase",
    "ScheduledJob",
    "Scope",
    "Selection",
    "Session",
    "SessionFailed",
    "SessionPlan",
    "SessionResult",
    "SessionStopped",
    "SharedLimits",
    "SlotHold",
    "Slots",
    "Snapshot",
    "SnapshotIncomplete",
    "SpaceLimits",
    "StatusReport",
    "StopRequest",
    "StorageNearlyFull",
    "ThrottleEngine",
    "ThrottleInvalid",
    "ThrottleRule",
    "ThrottleSettings",
    "Traffic",
    "TransferLimits",
    "TransferThrottle",
    "TransferUnencrypted",
    "TrialStep",
    "VmBusy",
    "VmProtection",
    "VmResult",
    "VmStory",
    "VmTarget",
    "WeeklyTimes",
    "WorkerBoot",
    "WorkerBusy",
    "WorkerChoice",
    "WorkerLost",
    "WorkerPool",
    "WorkerReport",
    "WorkerSpec",
    "WorkerState",
    "WorkerWanted",
    "WorkersTried",
    "abandon_snapshot",
    "apply_known_retention",
    "apply_retention",
    "ask_to_stop",
    "attach",
    "await_move",
    "bottleneck",
    "carry_out",
    "carrying_out",
    "check_repository",
    "check_workers",
    "choose_target",
    "choose_vms",
    "cleaning_markdown",
    "collect_cache",
    "collection_markdown",
    "commit_point",
    "create_restored_vm",
    "current_observer",
    "deployed",
    "describe_breaches",
    "detach",
    "drain",
    "find_leftovers",
    "find_reference",
    "find_unclaimed",
    "gather_metrics",
    "group_blank_disks",
    "group_snapshot",
    "human_bytes",
    "human_duration",
    "human_rate",
    "human_ratio",
    "human_span",
    "known_jobs",
    "last_told",
    "limit_name",
    "make_group",
    "move_id_of",
    "narrow_to",
    "nothing_to_retry",
    "observed_by",
    "open_backup_session",
    "open_session",
    "open_throttle",
    "outcome",
    "pack_attachment",
    "parse_job",
    "parse_rule",
    "part_of_job",
    "plan_alert",
    "plan_deployment",
    "plan_reads",
    "plan_session",
    "rank_workers",
    "read_drains",
    "read_job_file",
    "read_status",
    "remember_job",
    "remember_told",
    "remove_group",
    "remove_leftovers",
    "report_workers",
    "restore_disk",
    "restore_result",
    "retention_markdown",
    "retire_job",
    "run_hook",
    "running_sessions",
    "session_attempts",
    "session_markdown",
    "session_text",
    "settle_snapshot",
    "status_markdown",
    "stop_asked",
    "take_snapshot",
    "this_machine",
    "told_to_the_end",
    "transfer_disk",
    "try_worker",
    "undrain",
    "utc_text",
    "verification_markdown",
    "vms_in_scope",
    "worker_failure",
    "worker_of_limit",
]
