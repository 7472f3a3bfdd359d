"""`ahvault workers`: the settings file edited in place, and workers looked at, tried, drained and kept from removal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.exit_codes import ExitCode
from jobs import BackupJob, NullObserver, Scope, WorkerSpec, make_group, open_backup_session
from jobs import attach as attach_group
from nutanix import AhvClient, BlankDisk, ClusterConnection
from repository import Repository
from simulator import Settings, Simulator

FIRST = "ahvault-worker-1"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Simulator]:
    """A small simulated cluster; every test leaves its workers off."""
    with Simulator(size=0.02, settings=Settings(task_s=0.01, power_on_s=0.02)) as simulator:
        yield simulator


@pytest.fixture
def settings_file(cluster: Simulator, tmp_path: Path) -> Path:
    """A settings file with a comment in every place where an editor could lose it."""
    Repository.create(f"file://{tmp_path}/store").close()
    (tmp_path / "secret").write_text(cluster.password)
    roots = {each.name: each.device_root for each in cluster.workers}
    path = tmp_path / "ahvault.toml"
    path.write_text(
        f"""# our site
[cluster]
url = "{cluster.pc_url}"   # Prism Central
username = "{cluster.username}"
password_file = "secret"
ca_file = "{cluster.ca_file}"

[repository]
url = "{tmp_path}/store"

# next to the database hosts
[[workers]]
vm = "{FIRST}"
device_root = "{roots[FIRST]}"  # as a test sees it
slots = 2
"""
    )
    return path


@pytest.fixture
def client(cluster: Simulator) -> Iterator[AhvClient]:
    """A client of the cluster."""
    connection = ClusterConnection(
        url=cluster.pc_url,
        username=cluster.username,
        password=cluster.password,
        ca_file=cluster.ca_file,
    )
    with AhvClient(connection) as opened:
        yield opened


def test_add_and_remove_edit_the_file_in_place(ahvault, settings_file: Path) -> None:
    """W8: a worker comes and goes as a table of its own; every comment and all other lines stay; nothing else happens."""
    before = settings_file.read_text()
    settings_file.chmod(0o640)
    added = ahvault("workers", "add", "ahvault-worker-2", "--slots", "3", "--access", "iscsi")
    assert added.code == ExitCode.OK, added.err
    after = settings_file.read_text()
    assert after.startswith(before)
    assert after[len(before) :].split() == [
        "[[workers]]",
        "vm",
        "=",
        '"ahvault-worker-2"',
        "access",
        "=",
        '"iscsi"',
        "slots",
        "=",
        "3",
    ]
    assert settings_file.stat().st_mode & 0o777 == 0o640
    assert ahvault("workers", "add", FIRST).code == ExitCode.USAGE
    assert ahvault("workers", "add", "x", "--slots", "0").code == ExitCode.USAGE
    assert ahvault("workers", "add", "x", "--access", "fibre").code == ExitCode.USAGE
    assert settings_file.read_text() == after

    removed = ahvault("workers", "remove", "ahvault-worker-2", "--json")
    assert removed.document == {
        "worker": "ahvault-worker-2",
        "removed_from": str(settings_file.relative_to(Path.cwd())),
    }
    assert settings_file.read_text().strip() == before.strip()


def test_without_a_file_there_is_nothing_to_edit(ahvault, tmp_path: Path) -> None:
    """The settings file is the one place to edit: none is made up, and a list written in another way is left alone."""
    assert "no settings file to edit" in ahvault("workers", "add", "w").err
    (tmp_path / "ahvault.toml").write_text('workers = ["w=/dev"]\n')
    refused = ahvault("workers", "add", "v")
    assert refused.code == ExitCode.USAGE
    assert "edited by hand" in refused.err


def test_list_says_what_each_worker_does(
    ahvault, cluster: Simulator, settings_file: Path, tmp_path: Path
) -> None:
    """W10: shut down, ready, missing, disabled and out of reach are told apart, with the host and the reason."""
    with settings_file.open("a") as file:
        file.write('\n[[workers]]\nvm = "ahvault-worker-9"\n')
        file.write('\n[[workers]]\nvm = "ahvault-worker-2"\nenabled = false\n')
        file.write('\n[[workers]]\nvm = "backup-host"\naccess = "iscsi"\n')
    listed = ahvault("workers", "list", "--json")
    assert listed.code == ExitCode.OK, listed.err
    by_name = {each["worker"]: each for each in listed.document["workers"]}
    assert by_name[FIRST]["status"] == "shut down"
    assert by_name[FIRST]["unusable"] is None
    assert (by_name[FIRST]["slots"], by_name[FIRST]["slots_used"]) == (2, 0)
    assert by_name["ahvault-worker-9"]["status"] == "configured"
    assert "no VM ahvault-worker-9" in by_name["ahvault-worker-9"]["unusable"]
    assert by_name["ahvault-worker-2"]["unusable"] == "disabled"
    assert by_name["backup-host"]["status"] == "outside"
    cluster.story.power(FIRST, is_on=True)
    again = ahvault("workers", "list", "--json").document["workers"][0]
    assert (again["status"], again["host"]) == ("ready", "host-1")
    assert f"{FIRST}" in ahvault("workers", "list").out
    cluster.story.power(FIRST, is_on=False)


def test_test_uses_the_worker_and_leaves_it_as_it_was(
    ahvault, cluster: Simulator, client: AhvClient, settings_file: Path
) -> None:
    """W11: powered on, a disk written and read through it, powered off again; nothing stays, also when it fails; drained is no hindrance."""
    assert ahvault("workers", "drain", FIRST).code == ExitCode.OK
    tested = ahvault("workers", "test", FIRST, "--json")
    assert tested.code == ExitCode.OK, tested.err
    assert tested.document["passed"] is True
    assert [step["what"] for step in tested.document["steps"]] == [
        "power on and self-test",
        "a disk there and back",
    ]
    assert ahvault("workers", "undrain", FIRST).code == ExitCode.OK
    cluster.story.set_faults(
        {"faults": [{"kind": "status", "status": 400, "match": {"path": "*attach-vm"}}]}
    )
    failed = ahvault("workers", "test", FIRST)
    cluster.story.set_faults({"faults": []})
    assert failed.code == ExitCode.NO_WORKER
    assert "failed  a disk there and back" in failed.out
    assert not client.find_vm(FIRST).is_on
    assert client.volume_groups(name_prefix="ahvault-") == []


def test_a_worker_in_use_is_drained_and_not_removed(
    ahvault, client: AhvClient, cluster: Simulator, settings_file: Path, tmp_path: Path
) -> None:
    """W13, W14: while a session uses it, a worker is listed as working, drained at once, and kept; afterwards it goes."""
    roots = {each.name: str(each.device_root) for each in cluster.workers}
    with (
        Repository.open(f"file://{tmp_path}/store") as repository,
        open_backup_session(
            client=client,
            repository=repository,
            workers=[WorkerSpec(vm=FIRST, device_root=roots[FIRST])],
            job=BackupJob(scope=Scope(vms=("web01",))),
            observer=NullObserver(),
        ) as session,
    ):
        session.workers.prepare()
        group = make_group(
            session,
            name=session.object_name("x"),
            purpose="test",
            vm_id="x",
            cluster_id=client.clusters()[0].id,
            host_id=None,
            sources=[
                BlankDisk(
                    index=0,
                    size_bytes=1 << 20,
                    storage_container_id=client.storage_containers()[0].id,
                )
            ],
            sizes_bytes=[1 << 20],
        )
        attach_group(session, group, {})
        drained = ahvault("workers", "drain", FIRST, "--reason", "more memory", "--json")
        assert drained.document == {"worker": FIRST, "drained": True, "slots_used": 1}
        row = ahvault("workers", "list", "--json").document["workers"][0]
        assert (row["status"], row["slots_used"], row["sessions"]) == ("working", 1, 1)
        assert "more memory" in row["unusable"]
        refused = ahvault("workers", "remove", FIRST)
        assert refused.code == ExitCode.FAILED
        assert "1 session(s) use it, and it moves 1 VM(s)" in refused.err
        assert FIRST in settings_file.read_text()
    assert ahvault("workers", "remove", FIRST).code == ExitCode.OK
    assert FIRST not in settings_file.read_text()
    assert ahvault("workers", "list").out.startswith("No worker is configured.")


def test_an_unknown_worker_is_named_with_those_there_are(ahvault, settings_file: Path) -> None:
    """The name that was probably meant is told, by every command that takes one."""
    for command in ("test", "drain", "undrain", "remove"):
        ended = ahvault("workers", command, "ahvault-worker-l")
        assert ended.code == ExitCode.NOT_FOUND
        assert f"There are: {FIRST}." in ended.err
