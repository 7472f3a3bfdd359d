"""Every call of the client beside the same call made by the vendor's own SDK (issue 4, client 2).

`data/sdk_requests.json` holds what the SDK sent, on loopback, when its own model classes were given
the client's values; `record_sdk.py` makes it. The SDK pins an older urllib3 than the project uses,
so it lives in an environment of its own and its recording is compared here.
"""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from nutanix import (
    BlankDisk,
    DiskFromRecoveryPoint,
    DiskRecoveryPointRef,
    Vm,
    VolumeDiskRef,
    rebuild_vm,
)

RECORDING = Path(__file__).parent / "data" / "sdk_requests.json"
VM, RP, VG, CLUSTER, WORKER, CONTAINER, DISK, VM_RP, DISK_RP, SUBNET, CATEGORY = (
    f"0006555e-0000-0000-185b-{place:012d}" for place in range(11)
)
CLIENT = "0006555e-0000-0000-185b-0000000000aa"
SECRET = SecretStr("secretsecret12")
REF = DiskRecoveryPointRef(
    recovery_point_id=RP, vm_recovery_point_id=VM_RP, disk_recovery_point_id=DISK_RP
)
VG_REF = DiskRecoveryPointRef(
    recovery_point_id=RP, volume_group_recovery_point_id=VM_RP, disk_recovery_point_id=DISK_RP
)
EXPIRES = datetime(2030, 1, 1, tzinfo=UTC)
CAPTURED = {
    "extId": VM,
    "name": "db01",
    "description": "orders",
    "powerState": "OFF",
    "numSockets": 2,
    "numCoresPerSocket": 4,
    "numThreadsPerCore": 1,
    "memorySizeBytes": 8 << 30,
    "machineType": "Q35",
    "hardwareClockTimezone": "UTC",
    "isAgentVm": False,
    "isCpuPassthroughEnabled": False,
    "enabledCpuFeatures": ["HARDWARE_VIRTUALIZATION"],
    "apcConfig": {"$objectType": "vmm.v4.ahv.config.ApcConfig", "isApcEnabled": False},
    "cluster": {"extId": CLUSTER},
    "categories": [{"extId": CATEGORY}],
    "bootConfig": {"$objectType": "vmm.v4.ahv.config.UefiBoot", "isSecureBootEnabled": True},
    "vtpmConfig": {"isVtpmEnabled": True},
    "disks": [
        {
            "extId": DISK,
            "diskAddress": {"busType": "SCSI", "index": 0},
            "backingInfo": {"$objectType": "vmm.v4.ahv.config.VmDisk", "diskSizeBytes": 1 << 30},
        }
    ],
    "cdRoms": [{"extId": DISK, "diskAddress": {"busType": "SATA", "index": 0}}],
    "nics": [
        {
            "extId": DISK,
            "nicBackingInfo": {
                "$objectType": "vmm.v4.ahv.config.VirtualEthernetNic",
                "model": "VIRTIO",
                "macAddress": "50:6b:8d:00:00:01",
                "isConnected": True,
                "numQueues": 4,
            },
            "nicNetworkInfo": {
                "$objectType": "vmm.v4.ahv.config.VirtualEthernetNicNetworkInfo",
                "nicType": "NORMAL_NIC",
                "subnet": {"extId": SUBNET},
                "vlanMode": "ACCESS",
                "ipv4Config": {"ipAddress": {"value": "192.0.2.7"}},
            },
        }
    ],
}


def script(prism):
    """A Prism Central that is content with everything."""
    made = [
        {"extId": VG, "rel": "volumes:config:volume-group"},
        {"extId": VM, "rel": "vmm:ahv:config:vm"},
    ]
    detail = [{"name": "recoveryPointExtId", "value": RP}]
    accepted = prism.task({"entitiesAffected": made, "completionDetails": detail})
    attached = {"$objectType": "volumes.v4.config.VmAttachment", "extId": WORKER, "index": 1}
    group, tag = {"extId": VG, "name": "g"}, {"ETag": "e1"}
    held = {**group, "attachments": [{"attachment": attached}]}
    point = {"extId": RP, "creationTime": "2030-01-01T00:00:00Z"}
    extra = [{"name": "fileSize", "value": "1024"}]
    place = {"jwtToken": "aaa.bbb.ccc", "clusterIp": {"ipv4": {"value": "192.0.2.38"}}}
    prism.on("GET", "", prism.reply([]))
    for method in ("POST", "DELETE"):
        prism.on(method, "", accepted)
    prism.on("GET", "tasks/", prism.reply({"extId": "t", "status": "SUCCEEDED",
                                           "entitiesAffected": made, "completionDetails": detail}))  # fmt: skip
    prism.on("GET", f"vms/{VM}$", prism.reply(CAPTURED, headers=tag))
    prism.on("GET", f"vms/{WORKER}$",
             prism.reply({"extId": WORKER, "powerState": "OFF"}, headers=tag),
             prism.reply({"extId": WORKER, "powerState": "ON"}, headers=tag))  # fmt: skip
    prism.on("GET", f"volume-groups/{VG}$",
             prism.reply(group, headers=tag), prism.reply(group, headers=tag),
             prism.reply(held, headers=tag), prism.reply(held, headers=tag),
             prism.reply(group, headers=tag))  # fmt: skip
    other = {"extId": "0006555e-0000-0000-185b-0000000000ff", "targetName": "ahvault-t"}
    wired = {"$objectType": "volumes.v4.config.IscsiClientAttachment", "extId": CLIENT}
    prism.on("GET", f"volume-groups/{other['extId']}$", prism.reply(other, headers=tag),
             prism.reply({**other, "attachments": [{"attachment": wired}]}, headers=tag))  # fmt: skip
    prism.on("GET", f"iscsi-clients/{CLIENT}$",
             prism.reply({"extId": CLIENT, "iscsiInitiatorName": "iqn.a:b"}))  # fmt: skip
    prism.on("GET", f"recovery-points/{RP}$", prism.reply(point, headers=tag))
    prism.on("GET", f"vm-recovery-points/{VM_RP}$", prism.reply({"extId": VM_RP, "vm": CAPTURED}))
    prism.on("POST", "discover-cluster$", prism.reply(place))
    prism.on("POST", "compute-changed-regions$",
             prism.reply([], metadata={"extraInfo": extra}))  # fmt: skip


def drive(client):
    """Every verb once, in the order of a backup and a restore."""
    client.vms(), client.vm(VM), client.clusters(), client.hosts(), client.storage_containers()
    client.subnets(), client.categories()
    client.create_recovery_point(
        name="p",
        vm_ids=[VM],
        volume_group_ids=[VG],
        expires_at=EXPIRES,
        consistency="application",
        request_id="r1",
    )
    client.recovery_points(name_prefix="p")
    client.disk_recovery_points(RP, VM_RP)
    captured = client.captured_vm(VM_RP)
    client.changed_regions(REF, REF, block_size_bytes=262144)
    client.changed_regions(VG_REF, VG_REF)
    client.power_on(WORKER)
    sources = [DiskFromRecoveryPoint(0, DISK_RP), BlankDisk(1, 1 << 30, CONTAINER)]
    client.create_volume_group(
        name="g", cluster_id=CLUSTER, disks=sources, request_id="r2", description="d"
    )
    client.attach_volume_group(VG, WORKER, index=1)
    client.volume_disks(VG)
    client.volume_groups(name_prefix="g")
    client.detach_volume_group(VG, WORKER)
    client.attach_iscsi_client(
        "0006555e-0000-0000-185b-0000000000ff", "iqn.a:b", chap_secret=SECRET
    )
    client.detach_iscsi_client("0006555e-0000-0000-185b-0000000000ff", CLIENT)
    rebuilt = rebuild_vm(
        Vm.model_validate(captured.config),
        name="restored",
        cluster_id=CLUSTER,
        disks={DISK: VolumeDiskRef(VG, DISK)},
        storage_container_id=CONTAINER,
    )
    client.create_vm(rebuilt.spec, request_id="r3")
    client.delete_volume_group(VG)
    client.power_off(WORKER)
    client.set_recovery_point_expiry(RP, EXPIRES)
    client.delete_recovery_point(RP)
    client.delete_vm(VM)


def as_document(request):
    """A request without what differs from run to run."""
    kept = ("accept", "content-type", "if-match", "cookie")
    return {
        "method": request.method,
        "path": request.url.path,
        "query": dict(request.url.params),
        "headers": {name: request.headers[name] for name in kept if name in request.headers},
        "body": json.loads(request.content) if request.content else None,
    }


@pytest.fixture
def calls(client, prism):
    """What the client sends today, each kind of call once, by name."""
    script(prism)
    drive(client)
    found = {}
    for request in prism.requests:
        path = request.url.path
        name = f"{request.method} {re.sub(r'[^/]*-[0-9a-f]{4}-[^/]*|ZXJn[^/]*', '{}', path)}"
        if request.method == "GET" and path.endswith("s") and request.url.params:
            name += " (list)"
        if b"VolumeGroupDiskRecoveryPointReference" in request.content:
            name += " (volume group)"
        if request.method != "OPTIONS":
            found.setdefault(name, as_document(request))
    if path := os.environ.get("AHVAULT_WRITE_CLIENT_CALLS"):
        Path(path).write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def recording():
    return json.loads(RECORDING.read_text(encoding="utf-8"))


def test_the_recording_is_of_the_calls_that_are_made(calls):
    """No call of the client is missing from the recording, and none has changed since.

    If this fails after a wanted change, record again: `record_sdk.py` says how.
    """
    recorded = recording()
    assert sorted(calls) == sorted(recorded)
    assert {name: entry["client"] for name, entry in recorded.items()} == calls


@pytest.mark.parametrize("name", sorted(recording()))
def test_the_sdk_sends_the_same(name):
    """Same method, path and query; same headers, same body to the last field."""
    entry = recording()[name]
    ours, theirs = entry["client"], entry["sdk"]
    for part in ("method", "path", "query"):
        assert ours[part] == theirs[part]
    assert ours["headers"] == theirs["headers"]
    assert entry["unknown_to_sdk"] == []
    assert difference(ours["body"], theirs["body"]) == []


def difference(ours, theirs, where="$"):
    """What the two bodies do not share, as paths."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        found = []
        for key in sorted(ours.keys() | theirs.keys()):
            here = f"{where}.{key}"
            if key not in ours:
                found.append(f"{here} only in the SDK's: {theirs[key]!r}")
            elif key not in theirs:
                found.append(f"{here} only in ours: {ours[key]!r}")
            else:
                found += difference(ours[key], theirs[key], here)
        return found
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [each for place, (a, b) in pairs for each in difference(a, b, f"{where}[{place}]")]
    return [] if ours == theirs else [f"{where}: {ours!r} and {theirs!r}"]
