"""Trouble with a cluster is one sentence with the next step, against the real simulator."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from cli.exit_codes import ExitCode
from simulator import Simulator


@pytest.fixture(scope="module")
def cluster() -> Iterator[Simulator]:
    """A small simulated cluster for the whole module; no test here changes it."""
    with Simulator(size=0.05) as simulator:
        yield simulator


@pytest.fixture
def configured(cluster: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Simulator:
    """The cluster as the configured one."""
    (tmp_path / "secret").write_text(f"{cluster.password}\nsecond line\n")
    monkeypatch.setenv("AHVAULT_CLUSTER_URL", cluster.pc_url)
    monkeypatch.setenv("AHVAULT_CLUSTER_USERNAME", cluster.username)
    monkeypatch.setenv("AHVAULT_CLUSTER_PASSWORD_FILE", str(tmp_path / "secret"))
    monkeypatch.setenv("AHVAULT_CLUSTER_CA_FILE", str(cluster.ca_file))
    return cluster


def test_vms_lists_what_the_cluster_has(ahvault, configured: Simulator) -> None:
    """Names, power, places and disks, as a table and as a document."""
    listed = ahvault("vms")
    assert listed.code == ExitCode.OK
    assert [line.split()[0] for line in listed.out.splitlines()[1:]] == [
        "ahvault-worker-1",
        "ahvault-worker-2",
        "db01",
        "files01",
        "web01",
    ]
    by_name = {vm["name"]: vm for vm in ahvault("vms", "--json").document["vms"]}
    assert by_name["db01"]["host"] == "host-2"
    assert [disk["label"] for disk in by_name["db01"]["disks"]] == ["scsi.0", "scsi.1"]
    assert by_name["ahvault-worker-1"]["host"] is None


def test_a_wrong_password(ahvault, configured: Simulator, tmp_path: Path) -> None:
    """The user is named, the password is not."""
    (tmp_path / "secret").write_text("hunter2\n")
    ended = ahvault("vms")
    assert ended.code == ExitCode.CLUSTER
    assert "refused the login of user admin" in ended.err
    assert "hunter2" not in ended.err
    assert len(ended.err.splitlines()) == 1


def test_an_untrusted_certificate(
    ahvault, configured: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its CA the cluster is not trusted; the message says how to give it."""
    monkeypatch.delenv("AHVAULT_CLUSTER_CA_FILE")
    ended = ahvault("vms")
    assert ended.code == ExitCode.CLUSTER
    assert "is not trusted" in ended.err
    assert "ca_file" in ended.err
    assert ahvault("vms", "--cluster-verify-tls", "false").code == ExitCode.OK


def test_an_unreachable_cluster(ahvault, configured: Simulator) -> None:
    """The address is named."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{free.getsockname()[1]}"
        ended = ahvault("vms", "--cluster-url", url)
    assert ended.code == ExitCode.CLUSTER
    assert f"Cannot reach {url}" in ended.err
    assert len(ended.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cluster-url", "http://pc.example"], "must be https://"),
        (["--cluster-url", "https://pc.example/console"], "and nothing more"),
        (["--cluster-ca-file", "/none.pem"], "there is no file /none.pem"),
        (["--cluster-password-file", "/none"], "cannot be read: No such file"),
        (["--cluster-api-key-file", "/dev/null"], "first line is empty"),
        (["--cluster-verify-tls", "perhaps"], "--cluster-verify-tls: input should be"),
        (
            ["--cluster-prism-element-port", "0"],
            "--cluster-prism-element-port: input should be greater",
        ),
    ],
)
def test_settings_that_cannot_be_right(
    ahvault, configured: Simulator, arguments: list[str], said: str
) -> None:
    """Refused before anything is sent, naming the setting."""
    ended = ahvault("vms", *arguments)
    assert ended.code == ExitCode.USAGE
    assert said in ended.err
    assert len(ended.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("URL", "--cluster-url"),
        ("USERNAME", "--cluster-username"),
        ("PASSWORD_FILE", "--cluster-password-file"),
    ],
)
def test_a_missing_setting_is_named(
    ahvault, configured: Simulator, monkeypatch: pytest.MonkeyPatch, variable: str, said: str
) -> None:
    """With the flag, the variable and the line of the file that would give it."""
    monkeypatch.delenv(f"AHVAULT_CLUSTER_{variable}")
    ended = ahvault("vms")
    assert ended.code == ExitCode.USAGE
    assert said in ended.err


def test_two_passwords_are_refused(
    ahvault, configured: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of the two would be a guess."""
    monkeypatch.setenv("AHVAULT_CLUSTER_PASSWORD", "hunter2")
    ended = ahvault("vms")
    assert ended.code == ExitCode.USAGE
    assert "not both" in ended.err
    assert "hunter2" not in ended.err


def test_the_simulator_prints_one_line_and_stops_on_sigterm(
    ahvault_process: Callable[[Sequence[str]], subprocess.Popen[str]], ahvault, tmp_path: Path
) -> None:
    """`ahvault simulator` serves a cluster that the other commands can use, and ends cleanly."""
    child = ahvault_process(
        ["simulator", "--port", "0", "--size", "0.05", "--state", str(tmp_path / "state")]
    )
    assert child.stdout is not None
    facts = json.loads(child.stdout.readline())
    (tmp_path / "word").write_text(facts["password"])
    flags = ["--cluster-url", facts["pc_url"], "--cluster-username", facts["username"]]
    flags += ["--cluster-password-file", "word", "--cluster-ca-file", facts["ca_file"]]
    assert ahvault("vms", *flags).code == ExitCode.OK
    child.terminate()
    out, err = child.communicate(timeout=30)
    assert (child.returncode, out, err) == (0, "", "")
