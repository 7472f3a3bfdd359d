"""The storage engine: deduplicated, compressed disk images and the restore points over them.

Create or open a `Repository` at any fsspec URL; write disks and commit restore points through a
write session; list, read, restore and verify them. Knows nothing of Nutanix or Prefect, so that a
repository can be restored from with neither.
"""

from repository.collect import CollectProgress, CollectReport, CollectStage
from repository.collect_settings import CollectSettings
from repository.copy import CopyFailure, CopyReport, PointCopy, copy_points
from repository.counters import TransferCounters, TransferFigures
from repository.errors import (
    CollectionRefused,
    CommitFailed,
    DamagedObject,
    DiskNotFound,
    InvalidInput,
    KeyProblem,
    NotARepository,
    ObjectExists,
    ObjectNotFound,
    PointCollected,
    PointHeld,
    PointInUse,
    PointNotFound,
    RepositoryError,
    RepositoryExists,
    Stopped,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
    UnsupportedFormat,
)
from repository.extents import Extent, ExtentKind
from repository.files import FileSource, FileTarget
from repository.findings import (
    Concerned,
    Finding,
    FindingKind,
    OpenFinding,
    VerifyBudget,
    VerifyCoverage,
    VerifyLevel,
    VerifyProgress,
    VerifyReport,
)
from repository.forget import ForgottenPoint
from repository.gfs import (
    GfsPolicy,
    KeepMonthly,
    KeepWeekly,
    KeepYearly,
    Month,
    Weekday,
    WeekOfMonth,
)
from repository.giving_up import GiveUpReport, LostPoint
from repository.keyring import KeyFile, KeyWrap, Passphrase, Secret
from repository.live import LiveListing, LiveRecords, ReportListing
from repository.options import RepositoryOptions
from repository.points import (
    CopyOrigin,
    DamagedRecord,
    DiskRecord,
    DiskSpec,
    ObjectRef,
    PointDraft,
    PointListing,
    RestorePoint,
)
from repository.ports import DiskSource, DiskTarget, Throttle
from repository.reader import DiskReader
from repository.recovery_key import read_key_file, read_passphrase, recovery_key_text
from repository.repair import RepairReport
from repository.repository import Repository
from repository.retention import (
    Decision,
    ExcessiveDeparture,
    ExcessiveDrop,
    PointFacts,
    Reason,
    RetentionPlan,
    RetentionRefused,
    Rule,
    Verdict,
    plan_retention,
)
from repository.retention_policy import RetentionPolicy
from repository.session import WriteSession
from repository.units import Clock, SystemClock

__all__ = [
    "Clock",
    "CollectProgress",
    "CollectReport",
    "CollectSettings",
    "CollectStage",
    "CollectionRefused",
    "CommitFailed",
    "Concerned",
    "CopyFailure",
    "CopyOrigin",
    "CopyReport",
    "DamagedObject",
    "DamagedRecord",
    "Decision",
    "DiskNotFound",
    "DiskReader",
    "DiskRecord",
    "DiskSource",
    "DiskSpec",
    "DiskTarget",
    "ExcessiveDeparture",
    "ExcessiveDrop",
    "Extent",
    "ExtentKind",
    "FileSource",
    "FileTarget",
    "Finding",
    "FindingKind",
    "ForgottenPoint",
    "GfsPolicy",
    "GiveUpReport",
    "InvalidInput",
    "KeepMonthly",
    "KeepWeekly",
    "KeepYearly",
    "KeyFile",
    "KeyProblem",
    "KeyWrap",
    "LiveListing",
    "LiveRecords",
    "LostPoint",
    "Month",
    "NotARepository",
    "ObjectExists",
    "ObjectNotFound",
    "ObjectRef",
    "OpenFinding",
    "Passphrase",
    "PointCollected",
    "PointCopy",
    "PointDraft",
    "PointFacts",
    "PointHeld",
    "PointInUse",
    "PointListing",
    "PointNotFound",
    "Reason",
    "RepairReport",
    "ReportListing",
    "Repository",
    "RepositoryError",
    "RepositoryExists",
    "RepositoryOptions",
    "RestorePoint",
    "RetentionPlan",
    "RetentionPolicy",
    "RetentionRefused",
    "Rule",
    "Secret",
    "Stopped",
    "StoreDenied",
    "StoreError",
    "StoreFull",
    "StoreUnavailable",
    "SystemClock",
    "Throttle",
    "TransferCounters",
    "TransferFigures",
    "UnsupportedFormat",
    "Verdict",
    "VerifyBudget",
    "VerifyCoverage",
    "VerifyLevel",
    "VerifyProgress",
    "VerifyReport",
    "WeekOfMonth",
    "Weekday",
    "WriteSession",
    "copy_points",
    "plan_retention",
    "read_key_file",
    "read_passphrase",
    "recovery_key_text",
]
