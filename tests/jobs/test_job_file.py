"""Jobs as YAML files: what is read, and how a mistake is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from jobs import JobInvalid, ScheduledJob, read_job_file


def test_a_job_is_named_by_its_file(tmp_path: Path) -> None:
    """Fields are those of the job; the schedule stays with the file and is no part of the flow's job."""
    path = tmp_path / "nightly.yaml"
    path.write_text(
        "schedule: '0 1 * * *'\ntime_zone: Europe/Berlin\nscope:\n  vms: [web01]\nparallel_vms: 3\n"
    )
    job = read_job_file(path)
    assert (job.name, job.schedule, job.time_zone) == ("nightly", "0 1 * * *", "Europe/Berlin")
    assert job.job().scope.vms == ("web01",)
    assert "schedule" not in job.job().model_dump()
    path.write_text("name: weekly\n")
    assert read_job_file(path).job().name == "weekly"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("scop: {}", r"nightly.yaml: scop: there is no such field; did you mean scope\?"),
        ("scope: {vm: [web01]}", r"scope.vm: there is no such field; did you mean vms\?"),
        ("scope: {exclude: [web01]}", "scope.exclude: .*dictionary"),
        (
            "scope: {categories: [production]}",
            r"scope.categories.0: a category is written key/value",
        ),
        ("disk_rules: [{vms: [a], disk: [scsi.0]}]", r"disk_rules.0.disk: .*did you mean disks\?"),
        (
            "disk_rules: [{disks: [nvme0]}]",
            "disk_rules.0.disks.0: a disk is written as its bus and",
        ),
        ("disk_rules: [{vms: [a]}, {vms: [b, a]}]", "disk_rules: a is named by two rules"),
        (
            "consistency: app",
            "consistency: Input should be 'crash' or 'application'",
        ),
        (
            "if_not_consistent: ignore",
            "if_not_consistent: .*'fail', 'warn' or",
        ),
        ("retention: {keep_dayz: 3}", r"retention.keep_dayz: .*did you mean keep_days\?"),
        ("retention: {gfs: {weekly: {}}}", "retention.gfs.weekly.keep_weeks: Field required"),
        (
            "full_read_days: 0",
            "full_read_days: .*greater than or equal to",
        ),
        (
            "window: {times: [mo 10:00-12:00]}",
            "window.times: 'mo 10:00-12:00' is no range of the week",
        ),
        ("window: {times: 'mon 10:00-12:00'}", "window.times: it is a list of ranges"),
        ("window: {time_zone: Mars/Base}", "window.time_zone: there is no time zone 'Mars/Base'"),
        ("limits: {mbit_per_s: -1}", "limits.mbit_per_s: .*greater than 0"),
        ("retry: {time: 3}", r"retry.time: .*did you mean times\?"),
        (
            "hooks: {before: {command: [prepare]}}",
            "hooks.before.command: give the full path of the",
        ),
        ("hooks: {before: {command: /bin/prepare --all}}", "hooks.before.command: .*tuple"),
        ("hooks: {befor: {}}", r"hooks.befor: there is no such field; did you mean before\?"),
        ("breaker: {percent_of_vms: 101}", "breaker.percent_of_vms: .*less than or equal to 100"),
        ("parallel_vms: 0", "parallel_vms: .*greater than or equal to 1"),
        ("schedule: daily", "schedule: a schedule has five fields"),
        ("time_zone: Mars/Base", "time_zone: there is no time zone 'Mars/Base'"),
        ("schedule: 0 1 1 * *", "the job: reference_expiry_days is 30, .* set at least 33"),
        ("name: '?'", "name: a job name has 1 to 40"),
        ("- a list", "it holds no fields"),
        ("a: [", "it is not YAML"),
    ],
)
def test_a_bad_job_is_refused_with_the_field_and_the_reason(
    tmp_path: Path, text: str, said: str
) -> None:
    """The operator reads which file, which field, and what it should have been."""
    path = tmp_path / "nightly.yaml"
    path.write_text(text)
    with pytest.raises(JobInvalid, match=said):
        read_job_file(path)


def test_a_job_file_that_is_not_there(tmp_path: Path) -> None:
    """A missing file is one clear error too."""
    with pytest.raises(JobInvalid, match=r"none\.yaml: No such file"):
        read_job_file(tmp_path / "none.yaml")


PAGE = (Path(__file__).parents[2] / "docs" / "jobs.md").read_text(encoding="utf-8")
ANNOTATED = PAGE.partition("```yaml\n")[2].partition("```")[0]


def test_the_documented_job_can_be_read_and_shows_every_field(tmp_path: Path) -> None:
    """The page's one job file is valid as it stands, and no field of a job is missing from it."""
    path = tmp_path / "nightly.yaml"
    path.write_text(ANNOTATED)
    job = read_job_file(path)
    assert (job.name, job.schedule) == ("nightly", "0 22 * * mon-fri")
    document = yaml.safe_load(ANNOTATED)
    assert sorted(missing_fields(ScheduledJob, document)) == []


def missing_fields(model: type[BaseModel], document: dict[str, Any]) -> Iterator[str]:
    """Fields of a model, and of those below it, that a document does not say."""
    for name, field in model.model_fields.items():
        value = document.get(name)
        if value is None:
            yield f"{model.__name__}.{name}"
            continue
        below = model_within(field.annotation)
        if below is not None:
            yield from missing_fields(below, value[0] if isinstance(value, list) else value)


def model_within(annotation: Any) -> type[BaseModel] | None:
    """The model in a field's type, if there is one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (model_within(each) for each in get_args(annotation))
    return next((each for each in found if each is not None), None)
