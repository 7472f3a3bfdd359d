"""From a captured VM to the body of a new one, and what cannot come along (§12, §24.9)."""

from __future__ import annotations

from nutanix import Vm, VolumeDiskRef, rebuild_vm

VM_DISK = "vmm.v4.ahv.config.VmDisk"
CAPTURED = {
    "$objectType": "vmm.v4.ahv.config.Vm",
    "extId": "old-vm",
    "name": "db01",
    "description": "orders",
    "powerState": "ON",
    "numSockets": 2,
    "numCoresPerSocket": 4,
    "numThreadsPerCore": 1,
    "memorySizeBytes": 8 << 30,
    "machineType": "Q35",
    "hardwareClockTimezone": "Europe/Berlin",
    "biosUuid": "old-bios",
    "generationUuid": "old-generation",
    "isMemoryOvercommitEnabled": False,
    "isCpuHotplugEnabled": None,
    "cluster": {"extId": "c1"},
    "host": {"extId": "h1"},
    "categories": [{"extId": "cat-1"}, {"extId": "cat-2"}],
    "someFutureField": {"x": 1},
    "bootConfig": {
        "$objectType": "vmm.v4.ahv.config.UefiBoot",
        "isSecureBootEnabled": True,
        "nvramDevice": {"backingStorageInfo": {"diskExtId": "nvram"}},
        "$reserved": {"$fv": "v4.r3"},
    },
    "vtpmConfig": {"isVtpmEnabled": True, "vtpmDevice": {"diskExtId": "tpm"}},
    "disks": [
        {"extId": "d0", "diskAddress": {"busType": "SCSI", "index": 0},
         "backingInfo": {"$objectType": VM_DISK, "diskSizeBytes": 1 << 30, "storageContainer": {"extId": "sc"}}},
        {"extId": "d1", "diskAddress": {"busType": "PCI", "index": 3},
         "backingInfo": {"$objectType": VM_DISK, "diskSizeBytes": 2 << 30}},
        {"extId": "d2", "diskAddress": {"busType": "SCSI", "index": 7},
         "backingInfo": {"$objectType": "vmm.v4.ahv.config.ADSFVolumeGroupReference", "volumeGroupExtId": "vg9"}},
    ],
    "cdRoms": [{"extId": "cd", "diskAddress": {"busType": "SATA", "index": 0},
                "backingInfo": {"$objectType": VM_DISK, "dataSource": {"reference": {"imageExtId": "iso"}}}}],
    "nics": [
        {"extId": "n0",
         "backingInfo": {"model": "E1000", "macAddress": "old:pair"},
         "nicBackingInfo": {"$objectType": "vmm.v4.ahv.config.VirtualEthernetNic", "model": "VIRTIO",
                            "macAddress": "50:6b:8d:00:00:01", "isConnected": False, "numQueues": 4},
         "nicNetworkInfo": {"nicType": "NORMAL_NIC", "subnet": {"extId": "s1"},
                            "vlanMode": "TRUNK", "trunkedVlans": [5, 7]}},
        {"extId": "n1", "nicBackingInfo": {"$objectType": "vmm.v4.ahv.config.SriovNic"}},
    ],
    "gpus": [{"extId": "gpu"}],
    "serialPorts": [{"extId": "tty"}],
}  # fmt: skip
DISKS = {
    "d0": VolumeDiskRef(volume_group_id="vg", volume_disk_id="x0"),
    "d1": VolumeDiskRef(volume_group_id="vg", volume_disk_id="x1"),
}


def rebuild(document=CAPTURED, **options):
    arguments = {"name": "db01-restored", "cluster_id": "c2", "disks": DISKS, **options}
    return rebuild_vm(Vm.model_validate(document), **arguments)


def test_hardware_comes_along():
    """CPU, memory, machine type, clock and plain settings are those of the old VM."""
    body = rebuild().spec.wire()
    for key in ("numSockets", "numCoresPerSocket", "numThreadsPerCore", "memorySizeBytes",
                "machineType", "hardwareClockTimezone", "description", "isMemoryOvercommitEnabled"):  # fmt: skip
        assert body[key] == CAPTURED[key]
    assert body["name"] == "db01-restored"
    assert body["cluster"]["extId"] == "c2"


def test_nothing_of_the_old_vm_itself_comes_along():
    """Ids, host, power and fields we do not know stay behind: the new VM is a new VM."""
    body = rebuild().spec.wire()
    left = {"extId", "host", "powerState", "biosUuid", "generationUuid", "someFutureField", "gpus"}
    assert not left & body.keys()
    assert "isCpuHotplugEnabled" not in body


def test_disks_are_clones_at_their_old_addresses():
    """Each data disk sits where it sat, cloned from its volume disk; a volume group is no disk of it."""
    body = rebuild(storage_container_id="sc9").spec.wire()
    addresses = [disk["diskAddress"] for disk in body["disks"]]
    assert [(each["busType"], each["index"]) for each in addresses] == [("SCSI", 0), ("PCI", 3)]
    backing = body["disks"][0]["backingInfo"]
    assert backing["dataSource"]["reference"] == {
        "$objectType": "vmm.v4.ahv.config.VolumeDiskReference",
        "diskExtId": "x0",
        "volumeGroupExtId": "vg",
    }
    assert backing["storageContainer"]["extId"] == "sc9"


def test_nics_from_the_new_pair_which_wins():
    """MAC, model, queues, VLANs and link state come along; a card bound to hardware does not."""
    (nic,) = rebuild().spec.wire()["nics"]
    assert nic["nicBackingInfo"]["macAddress"] == "50:6b:8d:00:00:01"
    assert nic["nicBackingInfo"]["model"] == "VIRTIO"
    assert nic["nicBackingInfo"]["isConnected"] is False
    assert nic["nicBackingInfo"]["numQueues"] == 4
    assert nic["nicNetworkInfo"]["trunkedVlans"] == [5, 7]
    assert nic["nicNetworkInfo"]["subnet"]["extId"] == "s1"


def test_nics_of_an_old_cluster_use_the_old_pair():
    """API 4.0 knows only backingInfo and networkInfo."""
    (nic,) = rebuild().spec.wire(old_nics=True)["nics"]
    assert nic["backingInfo"]["macAddress"] == "50:6b:8d:00:00:01"
    assert nic["networkInfo"]["subnet"]["extId"] == "s1"
    assert "nicBackingInfo" not in nic


def test_macs_can_stay_behind():
    """Beside a running original, a second VM with its MAC would break both."""
    (nic,) = rebuild(keeps_macs=False).spec.wire()["nics"]
    assert "macAddress" not in nic["nicBackingInfo"]


def test_networks_can_be_mapped_or_dropped():
    """A subnet is replaced as asked; `None` leaves the card out and says so."""
    (nic,) = rebuild(subnets={"s1": "s2"}).spec.wire()["nics"]
    assert nic["nicNetworkInfo"]["subnet"]["extId"] == "s2"
    dropped = rebuild(subnets={"s1": None})
    assert "nics" not in dropped.spec.wire()
    assert any("no network here" in warning for warning in dropped.warnings)


def test_categories_that_are_gone_are_dropped_with_a_word():
    """A category that no longer exists would fail the whole restore."""
    rebuilt = rebuild(known_category_ids=frozenset({"cat-2"}))
    assert rebuilt.spec.wire()["categories"][0]["extId"] == "cat-2"
    assert any("1 of its categories" in warning for warning in rebuilt.warnings)


def test_boot_stays_uefi_without_the_old_nvram():
    """Firmware kind and Secure Boot come along; a reference to the old VM's NVRAM must not."""
    boot = rebuild().spec.wire()["bootConfig"]
    assert boot == {"$objectType": "vmm.v4.ahv.config.UefiBoot", "isSecureBootEnabled": True}


def test_every_loss_is_told():
    """NVRAM, vTPM, GPU, serial port, disc, volume group, SR-IOV: nothing is lost in silence."""
    told = " ".join(rebuild().warnings)
    for word in ("NVRAM", "vTPM", "GPU", "Serial ports", "CD-ROM", "volume group", "SriovNic"):
        assert word in told


def test_a_disk_that_was_not_restored_is_told():
    """A VM without one of its disks is possible, never silent."""
    rebuilt = rebuild(disks={"d0": DISKS["d0"]})
    assert len(rebuilt.spec.disks) == 1
    assert "Disk pci.3 is not part of the restore and will be missing." in rebuilt.warnings


def test_a_plain_vm_comes_back_without_a_warning():
    """No warning is crying wolf: a legacy VM with one disk and one card has none."""
    plain = {
        "extId": "v", "name": "web", "numSockets": 1, "numCoresPerSocket": 1, "memorySizeBytes": 1 << 30,
        "cluster": {"extId": "c"}, "bootConfig": {"$objectType": "vmm.v4.ahv.config.LegacyBoot", "bootOrder": ["DISK"]},
        "disks": CAPTURED["disks"][:1], "nics": CAPTURED["nics"][:1], "categories": None, "gpus": [], "cdRoms": None,
    }  # fmt: skip
    rebuilt = rebuild(plain)
    assert rebuilt.warnings == ()
    assert rebuilt.spec.wire()["bootConfig"]["bootOrder"] == ["DISK"]


def test_the_vm_model_tells_disks_from_volume_groups():
    """`data_disks` are what a recovery point holds; groups are listed apart; labels read well."""
    vm = Vm.model_validate(CAPTURED)
    assert [disk.label for disk in vm.data_disks] == ["scsi.0", "pci.3"]
    assert vm.volume_group_ids == ("vg9",)
    assert (vm.is_on, vm.is_uefi, vm.has_vtpm, vm.host_id) == (True, True, True, "h1")
    assert vm.config == CAPTURED
