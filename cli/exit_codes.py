"""One table: what an exit code says, and which error ends with which code.

Errors are named, not imported: importing an engine only to look at its error classes would make
`ahvault --help` wait for it. A test holds every name here against the real class.
"""

from __future__ import annotations

import errno
from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended. Scripts may rely on these numbers."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    CLUSTER = 4
    REPOSITORY = 5
    DAMAGE = 6
    NO_WORKER = 7
    LATE = 8
    INTERNAL = 70
    INTERRUPTED = 130
    TERMINATED = 143


MEANINGS: dict[ExitCode, str] = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "the work failed, for example some VMs of a session",
    ExitCode.USAGE: "wrong usage or configuration; nothing was done",
    ExitCode.NOT_FOUND: "a VM, worker, restore point, disk, container, key or rule of that name does not exist",
    ExitCode.CLUSTER: "the cluster cannot be reached, trusted or logged in to, or refused a call",
    ExitCode.REPOSITORY: "the repository is missing, unreadable, too new, full or already there",
    ExitCode.DAMAGE: "damage was found in the repository",
    ExitCode.NO_WORKER: "no worker VM can be used",
    ExitCode.LATE: "a VM has no good restore point that is young enough for its job's RPO",
    ExitCode.INTERNAL: "a mistake in ahvault itself",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C)",
    ExitCode.TERMINATED: "terminated (SIGTERM, or its terminal went away)",
}

_BY_ERROR: dict[str, ExitCode] = {
    "typer.TyperException": ExitCode.USAGE,
    "cli.ConfigInvalid": ExitCode.USAGE,
    "cli.SettingMissing": ExitCode.USAGE,
    "cli.WorkersMissing": ExitCode.NO_WORKER,
    "cli.FileInTheWay": ExitCode.USAGE,
    "cli.PointUnknown": ExitCode.NOT_FOUND,
    "cli.PointAmbiguous": ExitCode.NOT_FOUND,
    "cli.DiskUnknown": ExitCode.NOT_FOUND,
    "cli.BlockUnknown": ExitCode.NOT_FOUND,
    "cli.JobUnknown": ExitCode.NOT_FOUND,
    "cli.KeyUnknown": ExitCode.NOT_FOUND,
    "cli.PassphraseMismatch": ExitCode.USAGE,
    "cli.SessionUnknown": ExitCode.NOT_FOUND,
    "cli.RuleUnknown": ExitCode.NOT_FOUND,
    "cli.WorkerFailed": ExitCode.NO_WORKER,
    "cli.WorkerUnknown": ExitCode.NOT_FOUND,
    "cli.CliError": ExitCode.FAILED,
    "repository.InvalidInput": ExitCode.USAGE,
    "repository.PointNotFound": ExitCode.NOT_FOUND,
    "repository.DiskNotFound": ExitCode.NOT_FOUND,
    "repository.DamagedObject": ExitCode.DAMAGE,
    "repository.RepositoryError": ExitCode.REPOSITORY,
    "nutanix.NotFound": ExitCode.NOT_FOUND,
    "nutanix.VmAmbiguous": ExitCode.NOT_FOUND,
    "nutanix.NutanixError": ExitCode.CLUSTER,
    "jobs.JobInvalid": ExitCode.USAGE,
    "jobs.ThrottleInvalid": ExitCode.USAGE,
    "jobs.RuleBuiltIn": ExitCode.USAGE,
    "jobs.TransferUnencrypted": ExitCode.USAGE,
    "jobs.DeployRefused": ExitCode.USAGE,
    "jobs.RestoreRefused": ExitCode.USAGE,
    "jobs.NothingToBackUp": ExitCode.NOT_FOUND,
    "jobs.NoWorker": ExitCode.NO_WORKER,
    "jobs.SessionStopped": ExitCode.INTERRUPTED,
    "jobs.JobError": ExitCode.FAILED,
    "prefect.TerminationSignal": ExitCode.TERMINATED,
}


def exit_code_of(error: BaseException) -> ExitCode:
    """The code for an error: that of the nearest of its classes in the table."""
    for cls in type(error).__mro__:
        package = cls.__module__.partition(".")[0]
        code = _BY_ERROR.get(f"{package}.{cls.__name__}")
        if code is not None:
            return code
    if isinstance(error, OSError) and error.errno != errno.EPIPE:
        return ExitCode.FAILED
    return ExitCode.INTERNAL


def known_error_names() -> tuple[str, ...]:
    """Every `package.Class` in the table."""
    return tuple(_BY_ERROR)


def exit_code_help() -> str:
    """The table as a Markdown list, for the help page."""
    return "\n".join(f"- **{code.value}** {meaning}" for code, meaning in MEANINGS.items())
