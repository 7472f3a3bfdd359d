"""The storage engine: deduplicated, compressed disk images and the restore points over them.

Create or open a `Repository` at any fsspec URL; write disks and commit restore points through a
write session; list, read, restore and verify them. Knows nothing of Nutanix or Prefect, so that a
repository can be restored from with neither.
"""

from repository.counters import TransferCounters, TransferFigures
from repository.errors import (
    CommitFailed,
    DamagedObject,
    DiskNotFound,
    InvalidInput,
    KeyProblem,
    NotARepository,
    ObjectExists,
    ObjectNotFound,
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
    VerifyLevel,
    VerifyProgress,
    VerifyReport,
)
from repository.keyring import KeyFile, KeyWrap, Passphrase, Secret
from repository.live import LiveListing, LiveRecords, ReportListing
from repository.options import RepositoryOptions
from repository.points import (
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
from repository.repository import Repository
from repository.session import WriteSession
from repository.units import Clock, SystemClock

__all__ = [
    "Clock",
    "CommitFailed",
    "Concerned",
    "DamagedObject",
    "DamagedRecord",
    "DiskNotFound",
    "DiskReader",
    "DiskRecord",
    "DiskSource",
    "DiskSpec",
    "DiskTarget",
    "Extent",
    "ExtentKind",
    "FileSource",
    "FileTarget",
    "Finding",
    "FindingKind",
    "InvalidInput",
    "KeyFile",
    "KeyProblem",
    "KeyWrap",
    "LiveListing",
    "LiveRecords",
    "NotARepository",
    "ObjectExists",
    "ObjectNotFound",
    "ObjectRef",
    "Passphrase",
    "PointDraft",
    "PointListing",
    "PointNotFound",
    "ReportListing",
    "Repository",
    "RepositoryError",
    "RepositoryExists",
    "RepositoryOptions",
    "RestorePoint",
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
    "VerifyLevel",
    "VerifyProgress",
    "VerifyReport",
    "WriteSession",
]
