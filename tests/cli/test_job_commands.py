"""Jobs from the command line: what a command line means, `plan`, and `stop`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.exit_codes import ExitCode
from cli.job_choice import JobOptions, chosen_job
from jobs import JobInvalid, stop_asked
from jobs.leases import LeaseHolder
from repository import Repository, SystemClock
from simulator import Simulator

NIGHTLY = """
scope:
  vms: [web01, db01]
retention: {keep_days: 7}
"""


def test_names_with_wildcards_are_patterns() -> None:
    """`db*` is a pattern, `db01` a name; categories and exclusions go where they belong; what is not said has its default."""
    job = chosen_job(
        JobOptions(
            job="weekly",
            vms=["web01", "db*"],
            categories=["Tier/web"],
            exclude=["db0?", "old"],
            parallel_vms=5,
        )
    )
    assert (job.name, job.parallel_vms, job.consistency) == ("weekly", 5, "crash")
    assert job.scope.describe() == (
        "web01, category Tier/web, VMs named db* except old, VMs named db0?"
    )
    assert chosen_job(JobOptions(job=None)).name == "adhoc"


def test_a_job_file_is_the_whole_job(tmp_path: Path) -> None:
    """By its suffix; whatever is said besides is refused rather than ignored."""
    path = tmp_path / "nightly.yaml"
    path.write_text(NIGHTLY)
    job = chosen_job(JobOptions(job=str(path)))
    assert (job.name, job.scope.vms) == ("nightly", ("web01", "db01"))
    assert job.retention is not None
    with pytest.raises(JobInvalid, match=r"--exclude: .*nightly.yaml is the whole job"):
        chosen_job(JobOptions(job=str(path), exclude=["db01"]))


@pytest.fixture
def cluster() -> Iterator[Simulator]:
    """A small simulated cluster for one test."""
    with Simulator(size=0.05) as simulator:
        yield simulator


@pytest.fixture
def store(cluster: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty repository, a job file, and settings for both and the cluster."""
    path = tmp_path / "store"
    Repository.create(str(path)).close()
    (tmp_path / "nightly.yaml").write_text(NIGHTLY)
    monkeypatch.setenv("AHVAULT_REPOSITORY_URL", str(path))
    monkeypatch.setenv("AHVAULT_CLUSTER_URL", cluster.pc_url)
    monkeypatch.setenv("AHVAULT_CLUSTER_USERNAME", cluster.username)
    monkeypatch.setenv("AHVAULT_CLUSTER_PASSWORD", cluster.password)
    monkeypatch.setenv("AHVAULT_CLUSTER_CA_FILE", str(cluster.ca_file))
    workers = ",".join(f"{each.name}={each.device_root}" for each in cluster.workers)
    monkeypatch.setenv("AHVAULT_WORKERS", workers)
    return path


def test_plan_shows_the_run_as_a_table_and_as_json(ahvault, store: Path) -> None:
    """VMs, disks, method, amounts, workers; the sums of the JSON are those of its disks."""
    told = ahvault("plan", "nightly.yaml")
    assert told.code == ExitCode.OK, told.err
    assert "Job nightly: 2 VMs, 2 at a time" in told.out
    assert "Nothing was changed." in told.out
    assert "first run of this VM in this job" in told.out
    assert "Retention would forget no restore point." in told.out
    document = ahvault("plan", "nightly.yaml", "--json").document
    assert [vm["vm_name"] for vm in document["vms"]] == ["web01", "db01"]
    assert document["is_sound"]
    assert document["vms"][1]["size_bytes"] == sum(
        disk["size_bytes"] for disk in document["vms"][1]["disks"]
    )
    with Repository.open(str(store)) as repository:
        assert repository.live.list("sessions").records == {}


def test_plan_ends_red_when_a_vm_would_fail(ahvault, store: Path, tmp_path: Path) -> None:
    """Exit code 1, the VM and the near name; a job nobody knows is refused with the near one."""
    (tmp_path / "nightly.yaml").write_text("scope: {vms: [web1, db01]}")
    told = ahvault("plan", "nightly.yaml")
    assert told.code == ExitCode.FAILED
    assert "web1: would fail: There is no VM web1" in told.out
    assert "Did you mean web01?" in told.out
    told = ahvault("plan", "nightly")
    assert told.code == ExitCode.USAGE
    assert "the repository knows no job of this name; name a job file" in told.err
    (tmp_path / "nightly.yaml").write_text("scop: {}")
    told = ahvault("plan", "nightly.yaml")
    assert told.code == ExitCode.USAGE
    assert "nightly.yaml: scop: there is no such field; did you mean scope?" in told.err


def test_stop_leaves_its_wish_for_the_session_that_runs(ahvault, stored) -> None:
    """By the start of its id; without one the running sessions are listed; an unknown one is refused."""
    url = ("--repository-url", str(stored.path))
    assert "No session is running." in ahvault("stop", *url).out
    with Repository.open(str(stored.path)) as repository:
        holder = LeaseHolder(
            repository.live, session_id="3f2a9c1d-1", job="nightly", clock=SystemClock()
        )
        holder.open()
        try:
            assert "3f2a9c1d of job nightly, since" in ahvault("stop", *url).out
            assert ahvault("stop", "77", *url).code == ExitCode.NOT_FOUND
            told = ahvault("stop", "3f2a", *url)
            assert "no further one starts" in told.out
            request = stop_asked(repository.live, "3f2a9c1d-1")
            assert request is not None
            assert not request.at_once
            assert ahvault("stop", "3f2a", "--at-once", "--json", *url).document["at_once"]
            request = stop_asked(repository.live, "3f2a9c1d-1")
            assert request is not None
            assert request.at_once
        finally:
            holder.close()
