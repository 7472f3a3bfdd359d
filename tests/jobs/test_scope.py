"""Scope: which VMs a job takes on a real (simulated) cluster, in which order, and with which disks (E1-E5)."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from jobs import DiskRule, JobInvalid, NothingToBackUp, Scope, Selection, choose_vms
from nutanix import AhvClient, Nic, VmAmbiguous, VmNotFound, VmSpec

PRODUCTION = "Environment/production"


@contextmanager
def extra_vm(client: AhvClient, name: str, **options: object) -> Iterator[str]:
    """A VM without disks, while the block runs."""
    spec = VmSpec(
        name=name,
        cluster_id=client.clusters()[0].id,
        socket_count=1,
        cores_per_socket=1,
        memory_size_bytes=1 << 30,
        **options,  # type: ignore[arg-type]
    )
    vm_id = client.create_vm(spec, request_id=str(uuid.uuid4()))
    try:
        yield vm_id
    finally:
        client.delete_vm(vm_id)


def names(client: AhvClient, scope: Scope, *, never: tuple[str, ...] = ()) -> list[str]:
    return [vm.vm_name for vm in choose_vms(client, scope, never=never).targets]


def test_every_kind_of_object_selects_its_members_in_order(client: AhvClient) -> None:
    """E1, E5: lists keep their order, members of a container come largest first; each VM once (S11), however often it is selected."""
    cluster = client.clusters()[0].name
    assert names(client, Scope(vms=("web01", "db01"))) == ["web01", "db01"]
    assert names(client, Scope(categories=(PRODUCTION,))) == ["db01", "web01"]
    assert names(client, Scope(name_patterns=("*s01", "[dw]*01"))) == ["files01", "db01", "web01"]
    everything = ["db01", "files01", "web01", "ahvault-worker-1", "ahvault-worker-2"]
    assert names(client, Scope(clusters=(cluster,))) == everything
    assert names(client, Scope()) == everything
    mixed = Scope(
        vms=("web01",), categories=("Environment/office", PRODUCTION), clusters=(cluster,)
    )
    assert names(client, mixed) == ["web01", "files01", "db01", *everything[3:]]


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        (Selection(vms=("db01",)), ["web01", "files01"]),
        (Selection(categories=(PRODUCTION,)), ["files01"]),
        (Selection(name_patterns=("*b01",)), ["files01"]),
        (Selection(name_patterns=("nothing-*",)), ["web01", "db01", "files01"]),
    ],
)
def test_exclusion_of_any_kind_beats_inclusion(
    client: AhvClient, exclude: Selection, left: list[str]
) -> None:
    """E2: also for a VM that is named; and the answer says who was left out, and why."""
    scope = Scope(vms=("web01", "db01", "files01"), exclude=exclude)
    chosen = choose_vms(client, scope)
    assert [vm.vm_name for vm in chosen.targets] == left
    assert {each.vm_name for each in chosen.left_out} == {"web01", "db01", "files01"} - set(left)
    assert {each.why for each in chosen.left_out} <= {"excluded by the job"}
    assert chosen.warnings == ()


def test_a_new_member_of_a_container_comes_along_by_itself(client: AhvClient) -> None:
    """E1: membership is looked up at each run."""
    category = next(each for each in client.categories() if each.label == PRODUCTION)
    scope = Scope(categories=(PRODUCTION,))
    assert names(client, scope) == ["db01", "web01"]
    with extra_vm(client, "cache01", category_ids=(category.id,)):
        assert names(client, scope) == ["db01", "web01", "cache01"]
    assert names(client, scope) == ["db01", "web01"]


def test_the_platforms_own_vms_are_never_taken(client: AhvClient) -> None:
    """E4, W15: workers, controller VMs and Prism Central are left out even when they are named, and it is said."""
    worker = client.find_vm("ahvault-worker-1").id
    host = client.connection.url.removeprefix("https://").partition(":")[0]
    subnet = client.subnets()[0].id
    card = Nic(subnet_id=subnet, ip_address=host)
    with (
        extra_vm(client, "NTNX-18SM6E220127-A-CVM"),
        extra_vm(client, "NTNX-PCVM-10-0-0-9"),
        extra_vm(client, "prism-central", nics=(card,)),
        extra_vm(client, "NTNX-tools"),
    ):
        never_taken = ("ahvault-worker-1", "NTNX-18SM6E220127-A-CVM", "NTNX-PCVM-10-0-0-9")
        scope = Scope(vms=("web01", "NTNX-tools", *never_taken, "prism-central"))
        chosen = choose_vms(client, scope, never=[worker])
    assert [vm.vm_name for vm in chosen.targets] == ["web01", "NTNX-tools"]
    assert [str(each) for each in chosen.left_out] == [
        "ahvault-worker-1: it is a worker",
        "NTNX-18SM6E220127-A-CVM: it is a controller VM of the cluster",
        "NTNX-PCVM-10-0-0-9: it is Prism Central's own VM",
        "prism-central: it is Prism Central's own VM",
    ]


def test_a_name_nobody_knows_does_not_leave_the_others_unprotected(client: AhvClient) -> None:
    """A VM that is gone counts as failed, anything else that is gone is a warning; each with the near name."""
    scope = Scope(
        vms=("web01", "web1"),
        categories=("Environment/produktion",),
        name_patterns=("mail*",),
        clusters=("elsewhere",),
        exclude=Selection(vms=("old01",)),
    )
    rules = [DiskRule(vms=("bd01",), disks=("scsi.0",))]
    chosen = choose_vms(client, scope, disk_rules=rules)
    assert [vm.vm_name for vm in chosen.targets] == ["web01"]
    assert list(chosen.unknown_vms) == ["web1"]
    assert "Did you mean web01?" in str(chosen.unknown_vms["web1"])
    assert [text.partition(":")[0] for text in chosen.warnings] == [
        "scope.categories",
        "scope.name_patterns",
        "scope.clusters",
        "scope.exclude.vms",
        "disk_rules.0.vms",
    ]
    assert f"did you mean {PRODUCTION}" in chosen.warnings[0]
    assert "Did you mean db01 or web01?" in chosen.warnings[4]


def test_a_scope_that_selects_nothing_is_refused_with_the_reason(client: AhvClient) -> None:
    """The cluster's own error for a VM, the field and the near name for the rest."""
    with pytest.raises(VmNotFound, match=r"no VM web1 .*web01"):
        choose_vms(client, Scope(vms=("web1",)))
    with (
        extra_vm(client, "twin"),
        extra_vm(client, "twin"),
        pytest.raises(VmAmbiguous, match="2 VMs are called twin"),
    ):
        choose_vms(client, Scope(vms=("twin",)))
    with pytest.raises(JobInvalid, match=r"scope.categories: .*did you mean Tier/web\?"):
        choose_vms(client, Scope(categories=("Tier/wep",)))
    with pytest.raises(JobInvalid, match=r"scope.name_patterns: no VM is named WEB\*"):
        choose_vms(client, Scope(name_patterns=("WEB*",)))
    with pytest.raises(NothingToBackUp, match="web01 except category Tier/web selects no VM"):
        choose_vms(client, Scope(vms=("web01",), exclude=Selection(categories=("Tier/web",))))


def test_the_nearest_disk_rule_holds(client: AhvClient) -> None:
    """E3: a rule that names the VM overrides one of its container, that one a rule for all; among equals the first holds."""
    rules = [
        DiskRule(disks=("scsi.0",)),
        DiskRule(categories=(PRODUCTION,), disks=("scsi.1",)),
        DiskRule(name_patterns=("web*",), disks=("scsi.2",)),
        DiskRule(vms=(client.find_vm("db01").id,), disks=("scsi.3",), volume_groups=False),
    ]
    chosen = choose_vms(client, Scope(), disk_rules=rules)
    rule = {vm.vm_name: vm.disk_rule for vm in chosen.targets}
    assert rule["files01"].disks == ("scsi.0",)
    assert rule["web01"].disks == ("scsi.1",)
    assert (rule["db01"].disks, rule["db01"].volume_groups) == (("scsi.3",), False)
    assert rule["db01"].takes("scsi.3")
    assert not rule["db01"].takes("scsi.0")
    assert choose_vms(client, Scope()).targets[0].disk_rule.takes("ide.7")
