"""A job as a YAML file: the fields of `BackupJob`, and when it runs. The same file serves the command
line (`ahvault backup --job FILE`, `ahvault plan FILE`) and the scheduler (`ahvault serve`).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from jobs.errors import JobInvalid
from jobs.model import BackupJob
from jobs.rpo import default_rpo_hours
from jobs.week import TimeZoneName


class ScheduledJob(BackupJob):
    """A job and its schedule. Without one it runs only when somebody starts it."""

    schedule: Annotated[
        str | None, Field(description="When it runs, as a cron line such as `0 1 * * *`.")
    ] = None
    time_zone: Annotated[
        TimeZoneName, Field(description="Time zone of the schedule, such as `Europe/Berlin`.")
    ] = "UTC"

    @field_validator("schedule")
    @classmethod
    def _schedule_has_five_fields(cls, value: str | None) -> str | None:
        if value is not None and len(value.split()) != 5:
            raise ValueError(
                f"a schedule has five fields (minute hour day month weekday); got {value!r}"
            )
        if value is not None:
            default_rpo_hours(value, "UTC")  # Refuses what is no cron line.
        return value

    @model_validator(mode="after")
    def _reference_outlives_the_gap(self) -> Self:
        """A snapshot that expires before the next run would make every run read everything (N5)."""
        gap_hours = default_rpo_hours(self.schedule, self.time_zone) if self.schedule else None
        needed_days = math.ceil((gap_hours or 0) / 24) + 1
        if needed_days > self.reference_expiry_days:
            raise ValueError(
                f"reference_expiry_days is {self.reference_expiry_days}, but between two runs of "
                f"{self.schedule!r} lie up to {needed_days - 1} days: the snapshot that the next run "
                f"builds on would have expired; set at least {needed_days}"
            )
        return self

    def job(self) -> BackupJob:
        """The job alone, as the session flow takes it; its RPO is the schedule's unless it says one."""
        fields = self.model_dump(include=set(BackupJob.model_fields), mode="json")
        if self.rpo_hours is None and self.schedule is not None:
            fields["rpo_hours"] = default_rpo_hours(self.schedule, self.time_zone)
        return BackupJob.model_validate(fields)


def read_job_file(path: Path) -> ScheduledJob:
    """The job in a file; its name is that of the file unless it says another.

    Raises `JobInvalid`, which names the field and, where a name is misspelt, the near one.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise JobInvalid(str(path), error.strerror or str(error)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise JobInvalid(str(path), f"it is not YAML: {error}") from error
    if not isinstance(document, dict):
        raise JobInvalid(str(path), "it holds no fields; write `name: value` lines")
    return parse_job({"name": path.stem, **document}, place=str(path))


def parse_job(fields: dict[str, Any], *, place: str) -> ScheduledJob:
    """A job from fields. `place` says in errors where they were written."""
    try:
        return ScheduledJob.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the job"
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            reason = f"there is no such field{_near(first['loc'])}"
        raise JobInvalid(f"{place}: {field}", reason) from error


def _near(place: Sequence[int | str]) -> str:
    """What the last name of a place was probably meant to be, among its neighbours."""
    known = _fields_at(place[:-1])
    close = difflib.get_close_matches(str(place[-1]), known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are: {', '.join(sorted(known))}"


def _fields_at(place: Sequence[int | str]) -> list[str]:
    """The fields of the group at a place, such as `hooks`, `before`."""
    model: type[BaseModel] = ScheduledJob
    for part in place:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_within(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _model_within(annotation: Any) -> type[BaseModel] | None:
    """The model in `Model`, `Model | None`, `tuple[Model, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_within(each) for each in get_args(annotation))
    return next((each for each in found if each is not None), None)
