"""Backup and restore as an operator runs them: real commands, a simulated cluster, a Prefect server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.exit_codes import ExitCode
from repository import Repository, VerifyLevel
from simulator import Simulator

pytestmark = [pytest.mark.prefect, pytest.mark.xdist_group("cli-prefect")]


def left_on_cluster(cluster: Simulator) -> dict[str, list[str]]:
    """What bears our mark, except the snapshots that stay as references."""
    found = cluster.story.describe()
    return {
        "volume groups": [n for n in found["volume_groups"].values() if n.startswith("ahvault-")],
        "running workers": [
            vm["name"]
            for vm in found["vms"]
            if vm["name"].startswith("ahvault-worker") and vm["power_state"] != "OFF"
        ],
    }


def snapshots(cluster: Simulator) -> list[str]:
    """Names of our recovery points on the cluster."""
    names = cluster.story.describe()["recovery_points"].values()
    return [name for name in names if name.startswith("ahvault-")]


NOTHING = {"volume groups": [], "running workers": []}


def test_full_incremental_and_restore(ended, store: Path, cluster: Simulator) -> None:
    """A first run is full, a second incremental; a restored VM appears; the cluster is left clean."""
    code, out, err = ended("backup", "db01", "--json")
    assert code == ExitCode.OK, err
    first = json.loads(out)
    assert [(vm["vm_name"], vm["kind"]) for vm in first["vms"]] == [("db01", "full")]
    cluster.story.write_file("db01", "/data/new", content=b"new", disk=1)
    code, out, err = ended("backup", "db01")
    assert code == ExitCode.OK, err
    assert "success  incr " in out
    assert ": read " not in out  # Said of disks that were not read by their changes alone.
    code, out, err = ended("restore", "db01", "--name", "db01-again", "--power-on")
    assert code == ExitCode.OK, err
    assert "Restored db01 as db01-again" in out
    assert cluster.vm_id("db01-again")
    assert "Traceback" not in err
    assert left_on_cluster(cluster) == NOTHING
    assert len(snapshots(cluster)) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["backup", "db1"], ExitCode.NOT_FOUND, "Did you mean db01"),
        (["backup", "--exclude", "nobody"], ExitCode.NOT_FOUND, "There is no VM nobody"),
        (["backup", "--job", "?"], ExitCode.USAGE, "a job name has 1 to 40 letters"),
        (["backup", "--consistency", "perfect"], ExitCode.USAGE, "'crash' or 'application'"),
        (["backup", "--only", "web1"], ExitCode.USAGE, "did you mean web01?"),
        (["backup", "db01", "--only", "web01"], ExitCode.USAGE, "no VM web01 in its scope"),
        (["backup", "--retry-failed"], ExitCode.USAGE, "has no session of job adhoc"),
        (["backup", "--retry-failed", "--only", "web01"], ExitCode.USAGE, "not both"),
        (["restore", "db01", "--name", "x"], ExitCode.NOT_FOUND, "the repository holds none yet"),
        (["backup", "--cluster-url", "https://127.0.0.1:9"], ExitCode.CLUSTER, "Cannot reach"),
        (["backup", "--repository-url", "/none"], ExitCode.REPOSITORY, "holds no repository"),
    ],
)
def test_mistakes_are_found_before_anything_runs(
    ahvault, store: Path, cluster: Simulator, arguments: list[str], code: ExitCode, said: str
) -> None:
    """One sentence, the right code, and nothing was made on the cluster."""
    told = ahvault(*arguments)
    assert (told.code, len(told.err.splitlines())) == (code, 1), told.err
    assert said in told.err
    assert snapshots(cluster) == []


def test_what_failed_is_retried_and_single_vms_are_taken(
    ended, store: Path, cluster: Simulator
) -> None:
    """J5: from the reports alone; the session names its part; when nothing is left to retry, that is said with code 0."""
    Path("nightly.yaml").write_text("scope: {vms: [web01, db01]}\nparallel_vms: 1\n")
    job = ("backup", "--job", "nightly.yaml")
    match = {"method": "POST", "path": "/config/recovery-points"}
    fault = {"kind": "status", "status": 422, "match": match, "times": 1}
    cluster.story.set_faults({"seed": 1, "faults": [fault]})
    assert ended(*job)[0] == ExitCode.FAILED
    code, out, err = ended(*job, "--retry-failed")
    assert code == ExitCode.OK, err
    assert "Part       retry of " in out
    assert "web01  success" in out
    assert "db01" not in out
    code, out, err = ended(*job, "--retry-failed")
    assert code == ExitCode.OK, err
    assert out.startswith("Nothing to retry: after session ")
    assert len(out.splitlines()) == 1
    code, out, err = ended(*job, "--only", "db01", "--json")
    assert code == ExitCode.OK, err
    only = json.loads(out)
    assert [(vm["vm_name"], vm["kind"]) for vm in only["vms"]] == [("db01", "incremental")]
    assert only["part"]["vms"] == ["db01"]


def test_no_worker(ended, ahvault, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None configured, or none that the cluster has: the same exit code, a sentence for each."""
    code, _, err = ended("backup", "web01", "--worker", "ghost")
    assert code == ExitCode.NO_WORKER, err
    assert "ghost" in err
    assert "Traceback" not in err
    monkeypatch.delenv("AHVAULT_WORKERS")
    told = ahvault("backup", "web01")
    assert told.code == ExitCode.NO_WORKER
    assert "[[workers]]" in told.err


def test_a_restore_over_an_existing_vm_is_refused(ended, store: Path) -> None:
    """No VM is ever replaced."""
    assert ended("backup", "web01")[0] == ExitCode.OK
    code, _, err = ended("restore", "web01", "--name", "db01")
    assert code == ExitCode.USAGE
    assert "a VM called db01 exists already" in err
    assert "Traceback" not in err


Start = Callable[..., "subprocess.Popen[str]"]


def start_transfer(
    ahvault_process: Start, folder: Path, preexec_fn: Callable[[], None] | None = None
) -> subprocess.Popen[str]:
    """A backup of web01, so slow that it is never done first, up to the moment when its disks are read."""
    job = folder / "slow.yaml"
    job.write_text("{ name: adhoc, scope: { vms: [web01] }, limits: { mbit_per_s: 1 } }\n")
    child = ahvault_process(["backup", "--job", str(job)], preexec_fn=preexec_fn)
    assert child.stderr is not None
    for line in child.stderr:
        if "disks attached" in line:
            return child
    raise AssertionError("the command ended before it attached a disk")


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, ExitCode.INTERRUPTED), (signal.SIGTERM, ExitCode.TERMINATED)],
)
def test_stopped_in_mid_transfer(
    ahvault_process,
    store: Path,
    cluster: Simulator,
    tmp_path: Path,
    number: int,
    code: ExitCode,
) -> None:
    """Nothing of the run is left on the cluster, the repository is sound, no restore point is made."""
    child = start_transfer(ahvault_process, tmp_path)
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert child.returncode == code, err
    assert "Traceback" not in err
    assert left_on_cluster(cluster) == NOTHING
    assert snapshots(cluster) == []
    with Repository.open(str(store)) as repository:
        assert repository.points().points == []
        assert repository.verify(VerifyLevel.CONTENT).is_clean


def test_killed_in_mid_transfer(
    ahvault_process, ended, store: Path, cluster: Simulator, tmp_path: Path
) -> None:
    """After kill -9 the next run cleans the cluster up, says so, and succeeds."""
    child = start_transfer(ahvault_process, tmp_path)
    child.kill()
    child.communicate(timeout=60)
    assert left_on_cluster(cluster) != NOTHING
    code, out, err = ended("backup", "web01")
    assert code == ExitCode.OK, err
    assert "cleaned up after an earlier session" in out
    assert left_on_cluster(cluster) == NOTHING
    assert len(snapshots(cluster)) == 1
    with Repository.open(str(store)) as repository:
        assert repository.verify(VerifyLevel.CONTENT).is_clean


def test_doctor_says_what_is_missing(
    ended, store: Path, cluster: Simulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All is well; then each thing that is wrong is named with what to do, the others are looked at all the same, and nothing is powered on."""
    code, out, err = ended("doctor", "--json")
    assert code == ExitCode.OK, err + out
    checks = {each["check"]: each["level"] for each in json.loads(out)["findings"]}
    assert checks["connection"] == checks["login"] == checks["repository"] == "ok"
    assert checks["worker ahvault-worker-1"] == "ok"
    assert "problem" not in checks.values()
    assert left_on_cluster(cluster) == NOTHING

    monkeypatch.setenv("AHVAULT_WORKERS", f"ahvault-worker-1={tmp_path}/none,nobody")
    monkeypatch.setenv("AHVAULT_REPOSITORY_URL", str(tmp_path / "nothing"))
    code, out, _ = ended("doctor", "--json")
    assert code == ExitCode.FAILED
    wrong = {
        each["check"]: each["text"]
        for each in json.loads(out)["findings"]
        if each["level"] == "problem"
    }
    assert "does not exist on this machine" in wrong["worker ahvault-worker-1"]
    assert "There is no VM nobody" in wrong["worker nobody"]
    assert "holds no repository" in wrong["repository"]

    monkeypatch.setenv("AHVAULT_CLUSTER_PASSWORD", "pa55-of-nobody")
    code, out, _ = ended("doctor", "--json")
    assert code == ExitCode.FAILED
    assert any(each["check"] == "login" for each in json.loads(out)["findings"])
    assert "pa55-of-nobody" not in out


def test_clean_removes_what_a_kill_left_and_sessions_remembers(
    ahvault, ahvault_process, ended, store: Path, cluster: Simulator, tmp_path: Path
) -> None:
    """`clean --dry-run` names what is ours and touches nothing, `clean` removes it, a second finds nothing; history needs no server."""
    child = start_transfer(ahvault_process, tmp_path)
    child.kill()
    child.communicate(timeout=60)
    left = left_on_cluster(cluster)
    told = ahvault("clean", "--dry-run")
    assert told.code == ExitCode.OK, told.err
    assert "volume-group" in told.out
    assert "ended without removing it" in told.out
    assert left_on_cluster(cluster) == left
    told = ahvault("clean", "--json")
    assert told.code == ExitCode.OK, told.err
    assert {each["kind"] for each in told.document["found"]} == {
        "recovery-point",
        "volume-group",
        "worker-power",
    }
    assert left_on_cluster(cluster) == NOTHING
    assert snapshots(cluster) == []
    assert "Nothing is left" in ahvault("clean").out

    assert "No session has run yet" in ahvault("sessions").out
    session_id = json.loads(ended("backup", "files01", "--json")[1])["session_id"]
    assert session_id[:8] in ahvault("sessions").out
    assert "files01" in ahvault("session", "show", session_id[:6]).out
    told = ahvault("session", "show", "nope")
    assert told.code == ExitCode.NOT_FOUND
    assert "No session has an id that starts with 'nope'" in told.err


def test_a_dead_prefect_server_is_one_sentence(
    ended, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configured server is named, with both ways out."""
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "0")
    code, _, err = ended("backup", "web01")
    assert code == ExitCode.FAILED
    assert "The Prefect server at http://127.0.0.1:9/api does not answer" in err
    assert len(err.splitlines()) == 1


def test_an_encrypted_repository_is_backed_up_to_and_restored_from(
    ahvault, ended, store: Path, cluster: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flows open what the command line has the passphrase of; the restored VM has the same files."""
    (tmp_path / "phrase").write_text("correct horse battery staple\n")
    monkeypatch.setenv("AHVAULT_REPOSITORY_URL", str(tmp_path / "sealed"))
    monkeypatch.setenv("AHVAULT_REPOSITORY_PASSPHRASE_FILE", str(tmp_path / "phrase"))
    assert ahvault("repo", "init", "--encrypt").code == ExitCode.OK
    code, out, err = ended("backup", "web01", "--json")
    assert code == ExitCode.OK, err
    assert json.loads(out)["vms"][0]["status"] == "success"
    assert "horse" not in out + err
    assert ahvault("verify").code == ExitCode.OK
    code, out, err = ended("restore", "web01", "--name", "web01-again", "--json")
    assert code == ExitCode.OK, err
    assert "horse" not in out + err
    files = cluster.story.list_files("web01-again")
    assert files
    assert files == cluster.story.list_files("web01")


@pytest.fixture
def demo_folder(prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory for a demo that uses the module's server."""
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    folder = tmp_path / "demo"
    folder.mkdir()
    return folder


def test_the_demo_holds_and_leaves_nothing(ended, demo_folder: Path) -> None:
    """Exit code 0, every comparison held, full and incremental of every VM, an empty directory."""
    code, out, err = ended("demo", "--size", "0.05", "--dir", str(demo_folder), "--json")
    assert code == ExitCode.OK, err
    document = json.loads(out)
    assert document["all_held"] is True
    assert len(document["comparisons"]) == 17
    kinds = [[vm["kind"] for vm in session["vms"]] for session in document["sessions"]]
    assert kinds == [["full"] * 3, ["incremental"] * 3]
    assert list(demo_folder.iterdir()) == []


def test_an_interrupted_demo_leaves_nothing(ahvault_process: Start, demo_folder: Path) -> None:
    """Ctrl-C in the first session: the simulator is gone, and so is all that lay in the directory."""
    child = ahvault_process(["demo", "--size", "0.05", "--dir", str(demo_folder)])
    assert child.stderr is not None
    for line in child.stderr:
        if "disks attached" in line:
            break
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == ExitCode.INTERRUPTED, err
    assert "Traceback" not in err
    assert list(demo_folder.iterdir()) == []


@pytest.mark.long
def test_a_kept_demo_can_be_played_with(ended, demo_folder: Path) -> None:
    """`--keep` leaves a cluster, a repository and a settings file that the commands work with."""
    code, _, err = ended("demo", "--size", "0.05", "--dir", str(demo_folder), "--keep")
    assert code == ExitCode.OK, err
    stop = next(line for line in err.splitlines() if line.startswith("Stop it with `kill "))
    pid = int(stop.split("`")[1].split()[1])
    try:
        config = ["--config", str(demo_folder / "ahvault.toml")]
        assert ended("vms", *config)[0] == ExitCode.OK
        assert len(json.loads(ended("points", *config, "--json")[1])["points"]) == 6
    finally:
        os.kill(pid, signal.SIGTERM)
