"""Which job a command means: a file that holds it, or what was said on the command line; and which jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from jobs import BackupJob, ScheduledJob

JobFiles = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Jobs as YAML files; a schedule is one of their fields.", metavar="JOB.yaml"
    ),
]
"""The jobs that a Prefect server is to offer, one file each."""

_FILE_SUFFIXES = (".yaml", ".yml")
_WILDCARDS = frozenset("*?[")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """What a command line says of a job."""

    job: str | None
    """A job file by its suffix, else a name."""
    vms: Sequence[str] = ()
    categories: Sequence[str] = ()
    exclude: Sequence[str] = ()
    parallel_vms: int | None = None
    consistency: str | None = None

    @property
    def path(self) -> Path | None:
        """The job file, if one was named."""
        is_file = self.job is not None and self.job.endswith(_FILE_SUFFIXES)
        return Path(self.job) if self.job is not None and is_file else None


@dataclass(frozen=True, slots=True)
class PartOptions:
    """Which of the job's VMs are taken this time (J5)."""

    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Take only this VM of the job, by name or id; may be repeated.", metavar="VM"
        ),
    ] = None
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed", help="Take only the VMs that failed in the job's newest session."
        ),
    ] = False


WHOLE_JOB = PartOptions()


def chosen_job(options: JobOptions) -> BackupJob:
    """The job to run. Raises `JobInvalid`, also where a file and options both say what it is."""
    from jobs import JobInvalid, parse_job, read_job_file

    if options.path is not None:
        said = _said_besides(options)
        if said is not None:
            raise JobInvalid(said, f"{options.path} is the whole job; say it there")
        return read_job_file(options.path).job()
    fields = {
        "name": options.job,
        "scope": {
            **_selection(options.vms, options.categories),
            "exclude": _selection(options.exclude),
        },
        "parallel_vms": options.parallel_vms,
        "consistency": options.consistency,
    }
    given = {name: value for name, value in fields.items() if value is not None}
    return parse_job(given, place="the command line").job()


def scheduled_jobs(paths: Sequence[Path] | None) -> list[ScheduledJob]:
    """The jobs in these files; without any, one of every VM that runs when somebody starts it.

    Raises `JobInvalid`.
    """
    from jobs import ScheduledJob, read_job_file

    return [read_job_file(path) for path in paths or ()] or [ScheduledJob(name="manual")]


def _said_besides(options: JobOptions) -> str | None:
    said = {
        "VM": options.vms,
        "--category": options.categories,
        "--exclude": options.exclude,
        "--parallel-vms": options.parallel_vms,
        "--consistency": options.consistency,
    }
    return next((name for name, value in said.items() if value), None)


def _selection(names: Sequence[str], categories: Sequence[str] = ()) -> dict[str, list[str]]:
    """VMs by name, or by pattern where a name holds a wildcard."""
    patterns = [name for name in names if _WILDCARDS & set(name)]
    return {
        "vms": [name for name in names if name not in patterns],
        "name_patterns": patterns,
        "categories": list(categories),
    }
