"""`ahvault workers deploy`: a worker from an image to the settings file, and nothing at all when it fails."""

from __future__ import annotations

import base64
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from cli.exit_codes import ExitCode
from jobs import NullObserver, WorkerBoot, WorkerWanted, deployed, open_session, plan_deployment
from jobs.errors import DeployRefused
from jobs.journal import all_entries
from jobs.worker_image import memory_bytes_for, vcpus_for
from nutanix import AhvClient, ClusterConnection
from repository import Repository, SystemClock
from simulator import Settings, Simulator
from tests.folder_server import folder_served
from tests.scale.units import read_environment

NAME = "ahvault-worker-3"
GIB = 1 << 30


@pytest.fixture(scope="module")
def image_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A web server with a small raw image."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "debian.raw").write_bytes(b"boot" * 1024 + bytes(1 << 20))

    with folder_served(folder) as url:
        yield f"{url}/debian.raw"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Simulator]:
    """A cluster of its own for each test, its address and a repository in a settings file."""
    with Simulator(
        state=tmp_path / "state", size=0.02, settings=Settings(task_s=0.01, power_on_s=0.02)
    ) as simulator:
        Repository.create(f"file://{tmp_path}/store").close()
        (tmp_path / "secret").write_text(simulator.password)
        (tmp_path / "ahvault.toml").write_text(
            f'[cluster]\nurl = "{simulator.pc_url}"\nusername = "{simulator.username}"\n'
            f'password_file = "secret"\nca_file = "{simulator.ca_file}"\n\n'
            f'[repository]\nurl = "{tmp_path}/store"\n'
        )
        yield simulator


@pytest.fixture
def client(cluster: Simulator) -> Iterator[AhvClient]:
    """A client of it."""
    connection = ClusterConnection(
        url=cluster.pc_url,
        username=cluster.username,
        password=cluster.password,
        ca_file=cluster.ca_file,
    )
    with AhvClient(connection) as opened:
        yield opened


@pytest.fixture
def deploy(ahvault: Any, cluster: Simulator, image_url: str) -> Callable[..., Any]:
    """Deploy the worker; its devices appear where the simulator shows them."""
    root = cluster.workers[0].device_root.parent / NAME

    return partial(
        ahvault,
        "workers", "deploy", NAME, "--subnet", "vlan-10", "--package", "ahvault @ git+https://git.example.com/x",
        "--image-url", image_url, "--disk-gib", "1", "--device-root", str(root),
    )  # fmt: skip


def assert_nothing_was_made(client: AhvClient, tmp_path: Path) -> None:
    """No VM, no image, no volume group, no journal entry with an id, and no worker in the settings."""
    assert NAME not in [vm.name for vm in client.vms()]
    assert [each.name for each in client.images() if each.name.startswith("ahvault")] == []
    assert client.volume_groups(name_prefix="ahvault-") == []
    with Repository.open(f"file://{tmp_path}/store") as repository:
        assert [each for each in all_entries(repository.live) if each.object_id] == []
    assert NAME not in (tmp_path / "ahvault.toml").read_text()


def test_a_worker_is_made_tried_and_added(
    deploy: Callable[..., Any], client: AhvClient, cluster: Simulator, tmp_path: Path, ahvault: Any
) -> None:
    """W6, W8, W17, W20: image fetched, VM of the right size on the subnet, moved to its host, a disk moved through it, off again, in the settings."""
    made = deploy("--slots", "6", "--host", "host-2", "--json")
    assert made.code == ExitCode.OK, made.err
    assert [step["error"] for step in made.document["steps"]] == [None, None]
    vm = client.find_vm(NAME)
    assert (vm.socket_count * vm.cores_per_socket, vm.memory_size_bytes) == (8, 8 * GIB)
    assert vm.data_disks[0].size_bytes == GIB
    assert vm.nics[0].subnet_id == next(
        each.id for each in client.subnets() if each.name == "vlan-10"
    )
    assert not vm.is_on
    assert [each.name for each in client.images() if each.name.startswith("ahvault")] == [
        "ahvault-worker-debian"
    ]
    text = (tmp_path / "ahvault.toml").read_text()
    assert f'vm = "{NAME}"' in text
    assert "slots = 6" in text
    listed = ahvault("workers", "list", "--json").document["workers"]
    assert [(each["worker"], each["status"], each["unusable"]) for each in listed] == [
        (NAME, "shut down", None)
    ]
    assert ahvault("workers", "test", NAME).code == ExitCode.OK
    cluster.story.power(NAME, is_on=True)
    assert deploy().code == ExitCode.USAGE
    hosts = {each.id: each.name for each in client.hosts()}
    assert hosts[str(client.find_vm(NAME).host_id)] == "host-2"


@pytest.mark.parametrize(
    "trouble",
    [
        {"kind": "task", "outcome": "fails", "match": {"operation": "kImageCreate"}},
        {"kind": "task", "outcome": "fails", "match": {"operation": "CreateVm"}},
        {"kind": "task", "outcome": "fails", "match": {"operation": "SetVmPower"}},
        {"kind": "status", "status": 400, "match": {"path": "*attach-vm"}},
    ],
    ids=["image", "vm", "boot", "attach"],
)
def test_whatever_fails_nothing_stays(
    deploy: Callable[..., Any],
    client: AhvClient,
    cluster: Simulator,
    tmp_path: Path,
    trouble: dict[str, Any],
) -> None:
    """Failed at each step in turn, the deployment is undone whole, and says what failed."""
    cluster.story.set_faults({"faults": [trouble]})
    ended = deploy("--boot-timeout-s", "1")
    cluster.story.set_faults({"faults": []})
    assert ended.code not in (ExitCode.OK, ExitCode.INTERNAL), ended.err
    assert_nothing_was_made(client, tmp_path)


def test_its_queue_is_made_on_a_server_that_knows_nothing_yet(
    deploy: Any, ended: Any, client: AhvClient, tmp_path: Path, prefect_server: str
) -> None:
    """The server is named by the option alone: the new VM's Prefect worker would find its queue, and is waited for there."""
    code, _, err = ended(*deploy.args, "--prefect-url", prefect_server, "--boot-timeout-s", "1")
    assert code == ExitCode.NO_WORKER, err
    assert f"no Prefect worker polls its queue {NAME}" in err
    assert_nothing_was_made(client, tmp_path)


def test_a_server_that_is_not_there_is_told_before_anything_is_done(
    deploy: Any, ended: Any, cluster: Simulator
) -> None:
    """No image is fetched and no VM boots for a Prefect worker that nobody could hear of."""
    cluster.story.set_faults(
        {"faults": [{"kind": "status", "status": 500, "match": {"method": "POST"}}]}
    )
    code, _, err = ended(*deploy.args, "--prefect-url", "http://127.0.0.1:9/api")
    assert code == ExitCode.FAILED, err
    assert "The Prefect server at http://127.0.0.1:9/api does not answer" in err
    assert cluster.story.struck_faults() == [0]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--subnet", "vlan-1"), "there is no subnet vlan-1; did you mean vlan-10"),
        (("--host", "host-9"), "there is no host host-9"),
        (("--container", "x"), "there is no storage container x"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_done(
    deploy: Callable[..., Any],
    client: AhvClient,
    tmp_path: Path,
    options: tuple[str, ...],
    reason: str,
) -> None:
    """W21 and the names of things: wrong ones are refused with the right ones, and the cluster is not touched."""
    ended = deploy(*options)
    assert ended.code == ExitCode.USAGE
    assert reason in ended.err
    assert_nothing_was_made(client, tmp_path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a", "there is no subnet"),
        ("Worker-9-" + "x" * 54, "there is no subnet"),
        ("x" * 64, "1 to 63 characters"),
        ("", "1 to 63 characters"),
        ("worker_9", "a-z, A-Z, 0-9 and hyphen"),
        ("wörker", "a-z, A-Z, 0-9 and hyphen"),
        ("worker\n", "a-z, A-Z, 0-9 and hyphen"),
    ],
)
def test_a_name_has_to_be_one_of_a_worker(client: AhvClient, name: str, reason: str) -> None:
    """W21: a good name is refused only for the subnet that is not there, a bad one for itself."""
    boot = WorkerBoot(name=name, package="ahvault")
    wanted = WorkerWanted(boot=boot, image_name="debian", image_url=None, subnet="vlan-1")
    with pytest.raises(DeployRefused, match=reason):
        plan_deployment(client, wanted)


def test_a_dry_run_shows_the_first_boot_and_makes_nothing(
    deploy: Callable[..., Any], client: AhvClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would be made is shown, the cloud-init document included, and no secret in it."""
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "user:hunter2")
    shown = deploy("--dry-run", "--prefect-url", "http://prefect.example.com:4200/api")
    assert shown.code == ExitCode.OK, shown.err
    assert "6 vCPUs, 6 GiB of memory" in shown.out
    assert "#cloud-config" in shown.out
    assert "http://prefect.example.com:4200/api" in shown.out
    assert "hunter2" not in shown.out + shown.err
    assert_nothing_was_made(client, tmp_path)


def test_a_deployment_that_was_killed_is_undone_by_the_next_session(
    client: AhvClient, image_url: str, tmp_path: Path
) -> None:
    """Killed between the creation and the trial: the VM stands in the journal, so the next run's cleaning removes it."""
    from jobs import find_leftovers, remove_leftovers

    wanted = WorkerWanted(
        boot=WorkerBoot(name=NAME, package="x"), image_name="i", image_url=image_url, subnet="vlan-10",
        disk_bytes=GIB,
    )  # fmt: skip
    with Repository.open(f"file://{tmp_path}/store") as repository:
        plan = plan_deployment(client, wanted)
        with open_session(
            client=client, repository=repository, workers=[], job_name="x", observer=NullObserver()
        ) as run:
            dying = deployed(run, plan, tell=lambda _: None)
            dying.__enter__()
            entry = next(each for each in all_entries(repository.live) if each.kind == "vm")
            repository.live.delete("journal", entry.key)
        ended = entry.model_copy(update={"session_id": "ended", "key": "ended.vm.x"})
        repository.live.put("journal", ended.key, ended.model_dump(mode="json"))
        assert NAME in [vm.name for vm in client.vms()]
        found = find_leftovers(
            client, repository, cluster_url=client.connection.url, clock=SystemClock()
        )
        remove_leftovers(client, repository, found, clock=SystemClock())
    assert NAME not in [vm.name for vm in client.vms()]


BOOT = WorkerBoot(
    name=NAME,
    package="ahvault @ https://files.example.com/ahvault-0.1.0-py3-none-any.whl",
    slots=5,
    queue='q"1',
    prefect_api_url="http://prefect.example.com:4200/api",
    prefect_api_auth=SecretStr("user:pass'w\\o$rd"),
    ssh_keys=("ssh-ed25519 AAAA me@example.com",),
)


def test_the_cloud_init_document_says_what_it_must() -> None:
    """W12: every blank is filled, values stay values whatever they hold, the service gets its queue, nothing takes up attached disks, and nothing updates itself."""
    text = BOOT.user_data()
    assert text.startswith("#cloud-config\n")
    assert "@" not in text.replace("@ https", "").replace("me@example", "")
    document = yaml.safe_load(text)
    assert document["hostname"] == NAME
    assert document["ssh_authorized_keys"] == ["ssh-ed25519 AAAA me@example.com"]
    files = {each["path"]: each for each in document["write_files"]}
    assert files["/etc/ahvault/worker.env"]["permissions"] == "0600"
    assert read_environment(files["/etc/ahvault/worker.env"]["content"]) == {
        "AHVAULT_WORKER": NAME,
        "AHVAULT_QUEUE": 'q"1',
        "AHVAULT_SLOTS": "5",
        "PREFECT_API_URL": "http://prefect.example.com:4200/api",
        "PREFECT_API_AUTH_STRING": "user:pass'w\\o$rd",
    }
    unit = files["/etc/systemd/system/ahvault-worker.service"]["content"]
    assert "--pool ahvault-movers --work-queue ${AHVAULT_QUEUE}" in unit
    assert "KillMode=control-group" in unit
    assert ["/opt/ahvault/bin/pip", "install", "--no-cache-dir", BOOT.package] in document["runcmd"]
    assert not {"lvm2", "mdadm", "multipath-tools", "unattended-upgrades"} & set(
        document["packages"]
    )
    assert "package_upgrade" not in document
    rule = files["/etc/udev/rules.d/99-ahvault.rules"]["content"]
    assert 'KERNEL!="sda*"' in rule
    assert len(base64.b64encode(text.encode())) < 128_000


@pytest.mark.skipif(shutil.which("cloud-init") is None, reason="cloud-init is not installed")
@pytest.mark.parametrize(
    "boot",
    [BOOT, WorkerBoot(name=NAME, package="ahvault")],
    ids=["all there can be", "the least there can be"],
)
def test_cloud_init_itself_accepts_the_document(boot: WorkerBoot, tmp_path: Path) -> None:
    """The schema of cloud-init finds nothing wrong."""
    path = tmp_path / "user-data"
    path.write_text(boot.user_data())
    checked = subprocess.run(
        ["cloud-init", "schema", "--config-file", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_sizes_follow_from_the_slots() -> None:
    """W17: 6 vCPUs and 6 GiB for four slots, one more of each for each further slot."""
    assert [vcpus_for(slots) for slots in (4, 5, 10)] == [6, 7, 12]
    assert [memory_bytes_for(slots) // GIB for slots in (4, 5, 10)] == [6, 7, 12]
