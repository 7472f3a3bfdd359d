"""Sessions and restores of a machine that is no VM of the cluster: every byte goes over the wire (§16, §26)."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from blocks import AhvCluster
from flows.backup import backup
from flows.restore import restore_vm
from jobs import BackupJob, NoWorker, Scope, SessionFailed, WorkerSpec
from simulator import Simulator
from tests.flows.test_flows import assert_nothing_is_left

pytestmark = [pytest.mark.prefect, pytest.mark.xdist_group("prefect")]

PROJECT = Path(__file__).parents[2]
SECRET = "secretsecret12"
INITIATOR = "iqn.1993-08.org.debian:01:abcdef"


@pytest.fixture
def outside(site: Any, simulator: Simulator) -> Callable[..., Any]:
    """The installation with one worker that no VM stands for, reaching disks as told."""

    def reaching(access: str, secret: str | None = None, **options: Any) -> Any:
        port = int(simulator.iscsi_portal.rpartition(":")[2])
        changed = {"iscsi_port": port, "chap_secret": SecretStr(secret) if secret else None}
        spec = WorkerSpec(vm="backup-host", access=access, disk_timeout_s=5.0, **options)
        return type(site)(
            cluster=site.cluster.model_copy(update=changed),
            repository=site.repository,
            workers=site.workers.model_copy(update={"workers": [spec]}),
        )

    return reaching


def there_and_back(site: Any, simulator: Simulator, vm: str, restored: str) -> Any:
    """A full and an incremental session of a VM, a restore, and the restored disks against the source's."""
    job = BackupJob(name="wire", scope=Scope(vms=(vm,)))
    first = backup(site.cluster, site.repository, site.workers, job)
    simulator.story.write_file(vm, "/srv/new.bin", size_bytes=1 << 20, seed=restored)
    second = backup(site.cluster, site.repository, site.workers, job)
    assert [each.vms[0].kind for each in (first, second)] == ["full", "incremental"]
    assert {disk.read_method for disk in second.vms[0].disks} == {"changed"}
    assert all(each.vms[0].warnings == () for each in (first, second))
    with site.repository.open() as repository:
        point = repository.points().points[-1]
    result = restore_vm(site.cluster, site.repository, site.workers, point.id, restored)
    with site.cluster.client() as client:
        old, new = client.find_vm(vm), client.vm(result.vm_id)
        paths = simulator.cluster.disks
        for ours, theirs in zip(new.data_disks, old.data_disks, strict=True):
            assert paths.live_path(ours.id).read_bytes() == paths.live_path(theirs.id).read_bytes()
        client.delete_vm(new.id)
    assert_nothing_is_left(site)
    return first


def clients(site: Any) -> list[str]:
    """The names of every initiator that any volume group is attached to now."""
    with site.cluster.client() as client:
        return [name for group in client.volume_groups() for name in group.iscsi_client_ids]


@pytest.mark.parametrize("secret", [None, SECRET], ids=["by name", "with CHAP"])
def test_backup_and_restore_over_iscsi_in_user_space(
    outside: Any, simulator: Simulator, secret: str | None
) -> None:
    """Full, incremental and restore through the data services address, without any worker VM; nothing stays attached."""
    site = outside("iscsi", secret)
    first = there_and_back(site, simulator, "db01", f"wired-{secret}")
    assert first.vms[0].worker == "backup-host"
    assert first.vms[0].worker_reason == "over iSCSI, from outside of the cluster"
    assert clients(site) == []


def test_a_wrong_secret_is_told_and_leaves_nothing(
    outside: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login that the target refuses passes the worker by, names the target, never the secret, and all is removed."""
    site = outside("iscsi", SECRET)
    monkeypatch.setattr(AhvCluster, "connection", _forgetful(AhvCluster.connection))
    with pytest.raises(Exception, match="refused the login") as caught:
        backup(site.cluster, site.repository, site.workers, BackupJob(scope=Scope(vms=("web01",))))
    assert SECRET not in str(caught.value)
    monkeypatch.undo()
    assert_nothing_is_left(site)
    assert clients(site) == []


def _forgetful(connection: Any) -> Any:
    """A cluster whose target asks for another secret than its initiator shows."""

    def made(self: Any) -> Any:
        return connection(self).model_copy(update={"chap_secret": _Changing("otherother12")})

    return made


class _Changing(SecretStr):
    """Another secret at every look: the attachment gets one, the login the other."""

    def get_secret_value(self) -> str:
        self._secret_value = self._secret_value[::-1]
        return super().get_secret_value()


def test_a_cluster_without_data_services_is_told_before_anything_is_made(
    outside: Any, simulator: Simulator
) -> None:
    """Nobody listens at the portal, or no address is set: refused before a snapshot, with what to do."""
    site = outside("iscsi")
    site.cluster.iscsi_port = 9
    with pytest.raises(NoWorker, match="cannot be reached"):
        backup(site.cluster, site.repository, site.workers, BackupJob())
    record = simulator.cluster.aos
    bare = {k: v for k, v in record.document["network"].items() if k != "externalDataServiceIp"}
    with simulator.cluster.documents.change():
        simulator.cluster.documents.put(
            "cluster", record.ext_id, {**record.document, "network": bare}
        )
    try:
        with pytest.raises(NoWorker, match=r"no data services address.*Prism"):
            backup(site.cluster, site.repository, site.workers, BackupJob())
    finally:
        with simulator.cluster.documents.change():
            simulator.cluster.documents.put("cluster", record.ext_id, record.document)
    assert_nothing_is_left(site)


@pytest.fixture
def open_iscsi(simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with a stand-in for open-iscsi; the calls made to it, when called."""
    folders = {name: tmp_path / name for name in ("bin", "sessions", "dev")}
    for folder in folders.values():
        folder.mkdir()
    program = folders["bin"] / "iscsiadm.py"
    shutil.copy(Path(__file__).with_name("iscsiadm.py"), program)
    wrapper = folders["bin"] / "iscsiadm"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} {program} "$@"\n')
    wrapper.chmod(0o755)
    site = {
        "project": str(PROJECT),
        "state": str(simulator.cluster.state),
        "device_root": str(folders["dev"]),
        "sessions": str(folders["sessions"]),
        "calls": str(tmp_path / "calls.jsonl"),
        "initiator": INITIATOR,
        "secret": SECRET,
    }
    (folders["bin"] / "site.json").write_text(json.dumps(site))
    name_file = tmp_path / "initiatorname.iscsi"
    name_file.write_text(f"## made at installation\nInitiatorName={INITIATOR}\n")
    monkeypatch.setattr("nutanix.kernel_initiator.NAME_FILE", name_file)
    monkeypatch.setenv("PATH", f"{folders['bin']}:/usr/bin:/bin")
    return folders | {"calls": Path(site["calls"])}


def test_backup_and_restore_through_the_kernels_initiator(
    outside: Any, simulator: Simulator, open_iscsi: Any
) -> None:
    """The same through `iscsiadm` (a stand-in that logs in for real): its name, its devices, every session ended, a stale one too, and nobody else's."""
    stale = "iqn.2010-06.com.nutanix:ahvault-00000000-0000-0000-0000-000000000000"
    foreign = "iqn.2010-06.com.nutanix:somebody-else"
    elsewhere = "iqn.2010-06.com.nutanix:ahvault-11111111-0000-0000-0000-000000000000"
    for name in (stale, foreign):
        (open_iscsi["sessions"] / name).write_text(simulator.iscsi_portal)
    (open_iscsi["sessions"] / elsewhere).write_text("192.0.2.9:3260")
    site = outside("kernel-iscsi", SECRET, device_root=str(open_iscsi["dev"]))
    first = there_and_back(site, simulator, "web01", "kernel-restored")
    assert first.vms[0].worker == "backup-host"
    assert clients(site) == []
    calls = open_iscsi["calls"].read_text()
    assert SECRET not in calls
    assert '"node.startup", "-v", "manual"' in calls
    logins, logouts = calls.count('"--login"'), calls.count('"--logout"')
    assert logins >= 3
    assert logouts == logins + 1  # The stale one.
    assert {each.name for each in open_iscsi["sessions"].iterdir()} == {foreign, elsewhere}


def test_a_machine_without_open_iscsi_says_so(
    outside: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kernel-iscsi needs `iscsiadm`: refused before a snapshot, with the name of the package."""
    monkeypatch.setenv("PATH", str(tmp_path))
    site = outside("kernel-iscsi", device_root=str(tmp_path))
    with pytest.raises(NoWorker, match="install open-iscsi"):
        backup(site.cluster, site.repository, site.workers, BackupJob())


def test_the_repository_holds_no_secret_of_the_wire(outside: Any) -> None:
    """A session with CHAP stores the secret nowhere beside the repository, journal and reports included."""
    site = outside("iscsi", SECRET)
    backup(site.cluster, site.repository, site.workers, BackupJob(scope=Scope(vms=("web01",))))
    root = Path(site.repository.url.removeprefix("file://"))
    assert not [
        path for path in root.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()
    ]


def test_a_worker_of_another_cluster_reads_over_iscsi_with_a_warning(
    site: Any, tmp_path: Path
) -> None:
    """W2: the VM's cluster has no usable worker; one of another cluster takes it over the network, and the session says what that costs."""
    with Simulator(size=0.05, further_clusters=["remote"]) as simulator:
        simulator.story.relocate("web01", "remote")
        cluster = AhvCluster(
            url=simulator.pc_url,
            username=simulator.username,
            password=SecretStr(simulator.password),
            ca_file=str(simulator.ca_file),
            prism_element_port=int(simulator.pe_url.rpartition(":")[2]),
            iscsi_port=int(simulator.iscsi_portal.rpartition(":")[2]),
        )
        workers = site.workers.model_copy(
            update={"workers": [WorkerSpec(vm="ahvault-worker-1", access="iscsi")]}
        )
        job = BackupJob(name="abroad", scope=Scope(vms=("web01",)))
        result = backup(cluster, site.repository, workers, job)
        assert result.vms[0].worker_reason == "another cluster"
        assert any("over the network between clusters" in each for each in result.vms[0].warnings)
        direct = site.workers.model_copy(
            update={
                "workers": [
                    WorkerSpec(vm=each.name, device_root=str(each.device_root))
                    for each in simulator.workers
                    if each.name != "remote-worker"
                ]
            }
        )
        with pytest.raises(SessionFailed, match="in another cluster"):
            backup(cluster, site.repository, direct, job)
