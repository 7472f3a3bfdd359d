"""One definition of a job, four ways in: deployment, form, file, Python."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.utilities.schema_tools import ValidationError as FormInvalid
from prefect.utilities.schema_tools import validate

from cli.job_choice import JobOptions, chosen_job
from flows.backup import backup
from jobs import BackupJob, read_job_file

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "jobs.md").read_text(encoding="utf-8")
ANNOTATED = PAGE.partition("```yaml\n")[2].partition("```")[0]
BLOCKS = {
    name: {"$ref": {"block_document_id": "0d5f1a0e-8a3e-4a4f-9c58-6f8f2a4f3c11"}}
    for name in ("cluster", "repository", "workers")
}


def form() -> dict[str, Any]:
    """What Prefect draws the form from, and checks what is sent by it against."""
    schema: dict[str, Any] = backup.parameters.model_dump()
    return schema


def test_a_file_a_form_a_deployment_and_python_mean_the_same_job(tmp_path: Path) -> None:
    """The documented job, through each of the four ways, is one and the same value, and survives Prefect's storage of parameters."""
    path = tmp_path / "nightly.yaml"
    path.write_text(ANNOTATED)
    by_file = chosen_job(JobOptions(job=str(path)))
    assert by_file == read_job_file(path).job()

    parameters = {**BLOCKS, "job": by_file.model_dump(mode="json")}
    sent = json.loads(json.dumps(parameters))
    validate(sent, form(), raise_on_error=True, ignore_required=False)
    by_form = BackupJob.model_validate(sent["job"])
    assert by_form == by_file

    document = yaml.safe_load(ANNOTATED)
    fields = {name: document[name] for name in document if name in BackupJob.model_fields}
    by_python = BackupJob.model_validate(fields)
    assert by_python == by_file
    stored = backup.serialize_parameters({"job": by_python})["job"]
    assert BackupJob.model_validate(json.loads(json.dumps(stored))) == by_file


def test_the_jobs_of_prefect_yaml_are_valid() -> None:
    """Every shipped deployment of the session passes the form's own check and the model."""
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    found = [each for each in deployments if each["entrypoint"].startswith("flows.backup")]
    assert found
    for deployment in found:
        job = deployment["parameters"].get("job", {})
        validate({**BLOCKS, "job": job}, form(), raise_on_error=True, ignore_required=False)
        assert BackupJob.model_validate(job).name == deployment["name"]


@pytest.mark.parametrize(
    "job",
    [
        {"name": "nightly", "parallel_vms": 0},
        {"name": "nightly", "consistency": "perfect"},
        {"name": "nightly", "retry": {"times": 99}},
        {"name": "nightly", "hooks": {"before": {"command": []}}},
        {"name": "nightly", "scop": {}},
    ],
)
def test_the_form_refuses_what_the_model_refuses(job: dict[str, Any]) -> None:
    """Bounds, choices and unknown fields are in the schema, so the UI says no before a run is made."""
    with pytest.raises(FormInvalid):
        validate({**BLOCKS, "job": job}, form(), raise_on_error=True, ignore_required=False)
    with pytest.raises(ValueError, match="validation error"):
        BackupJob.model_validate(job)


def properties(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field of every group of the form, by its group."""
    yield from (("", each) for each in schema["properties"].values())
    for name, definition in schema["definitions"].items():
        for field, each in definition.get("properties", {}).items():
            yield f"{name}.{field}", each


def test_every_field_of_the_form_has_a_description_that_a_person_can_read() -> None:
    """No field without words, no codes of rules in them, and blocks are picked, not typed."""
    schema = form()
    for name, field in properties(schema):
        if name.partition(".")[0] in ("AhvCluster", "BackupRepository", "BackupWorkers"):
            continue
        described = field.get("description") or ""
        assert described.endswith((".", "`")), (name, described)
        assert not any(code in described for code in ("(E", "(N", "(P", "(W", "(J")), described
    for block in ("AhvCluster", "BackupRepository", "BackupWorkers"):
        assert schema["definitions"][block]["block_type_slug"]
