"""From a captured VM to a VM that can be created again, saying what cannot come along. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nutanix.models.vm_specs import DiskSpec, VmSpec
from nutanix.models.vms import Nic, Vm
from nutanix.models.volume_groups import VolumeDiskRef

PASSED_ON = (
    "numNumaNodes",
    "isVcpuHardPinningEnabled",
    "isCpuPassthroughEnabled",
    "enabledCpuFeatures",
    "isMemoryOvercommitEnabled",
    "isGpuConsoleEnabled",
    "isCpuHotplugEnabled",
    "isScsiControllerEnabled",
    "isBrandingEnabled",
    "isVgaConsoleEnabled",
    "isAgentVm",
    "apcConfig",
)
"""Settings that mean the same on a new VM and are carried unchanged."""


@dataclass(frozen=True, slots=True)
class VmRebuild:
    """A VM to create, and what of the old one it will lack. Each warning is a sentence to show."""

    spec: VmSpec
    warnings: tuple[str, ...]


def rebuild_vm(
    captured: Vm,
    *,
    name: str,
    cluster_id: str,
    disks: Mapping[str, VolumeDiskRef],
    subnets: Mapping[str, str | None] | None = None,
    known_category_ids: frozenset[str] | None = None,
    storage_container_id: str | None = None,
    restored_volume_group_ids: frozenset[str] = frozenset(),
    keeps_macs: bool = True,
) -> VmRebuild:
    """The captured VM under a new name, with its data disks cloned from volume disks.

    `disks` maps the captured disks' ids to what was restored; a data disk that is not in it is left
    out with a warning. `subnets` maps captured subnet ids to new ones, `None` for "leave the card
    out"; one that is not in it stays. With `known_category_ids`, others are dropped with a warning.
    Volume groups are attached by the caller; those in `restored_volume_group_ids` are not missed.
    `keeps_macs=False` when the old VM may still run beside the new one.
    """
    warnings: list[str] = []
    spec = VmSpec(
        name=name,
        cluster_id=cluster_id,
        description=captured.description,
        socket_count=captured.socket_count,
        cores_per_socket=captured.cores_per_socket,
        threads_per_core=captured.threads_per_core,
        memory_size_bytes=captured.memory_size_bytes,
        machine_type=captured.machine_type,
        timezone=captured.timezone,
        boot_config=_boot_config(captured, warnings),
        has_vtpm=captured.has_vtpm,
        category_ids=_categories(captured, known_category_ids, warnings),
        disks=_disks(captured, disks, storage_container_id, warnings),
        cd_roms=tuple(drive.address for drive in captured.cd_roms),
        nics=_nics(captured, subnets or {}, warnings),
        keeps_macs=keeps_macs,
        passed_on={
            key: _bare(captured.config[key])
            for key in PASSED_ON
            if captured.config.get(key) is not None
        },
    )
    return VmRebuild(spec, (*warnings, *_left_behind(captured, restored_volume_group_ids)))


def _disks(
    captured: Vm,
    restored: Mapping[str, VolumeDiskRef],
    storage_container_id: str | None,
    warnings: list[str],
) -> tuple[DiskSpec, ...]:
    specs = []
    for disk in captured.data_disks:
        if disk.id in restored:
            specs.append(
                DiskSpec(
                    address=disk.address,
                    source=restored[disk.id],
                    storage_container_id=storage_container_id,
                )
            )
        else:
            warnings.append(f"Disk {disk.label} is not part of the restore and will be missing.")
    return tuple(specs)


def _boot_config(captured: Vm, warnings: list[str]) -> dict[str, Any] | None:
    """The boot configuration without ids of the old VM; UEFI variables lie outside what we hold."""
    if captured.boot_config is None:
        return None
    config: dict[str, Any] = _bare(captured.boot_config)
    config.pop("nvramDevice", None)
    device = config.get("bootDevice")
    if isinstance(device, dict) and str(device.get("$objectType", "")).endswith("BootDeviceNic"):
        del config["bootDevice"]
        warnings.append("The VM booted from a network card; choose its boot device again.")
    if captured.is_uefi:
        warnings.append(
            "UEFI variables (NVRAM) are new: boot entries beyond the default path, and own Secure "
            "Boot keys, must be set again."
        )
    return config


def _bare(value: Any) -> Any:
    """A captured value without nulls and the server's bookkeeping; types (`$objectType`) stay."""
    if isinstance(value, dict):
        return {
            key: _bare(each)
            for key, each in value.items()
            if each is not None and (key == "$objectType" or not key.startswith("$"))
        }
    return [_bare(each) for each in value] if isinstance(value, list) else value


def _nics(captured: Vm, subnets: Mapping[str, str | None], warnings: list[str]) -> tuple[Nic, ...]:
    kept = []
    for place, nic in enumerate(captured.nics):
        if not nic.is_virtual_ethernet:
            warnings.append(
                f"Network card {place} ({nic.backing_kind}) is bound to hardware and will be missing."
            )
            continue
        subnet_id = nic.subnet_id
        if subnet_id is not None and subnet_id in subnets:
            subnet_id = subnets[subnet_id]
            if subnet_id is None:
                warnings.append(f"Network card {place} has no network here and will be missing.")
                continue
        kept.append(nic.model_copy(update={"subnet_id": subnet_id}))
    return tuple(kept)


def _categories(captured: Vm, known: frozenset[str] | None, warnings: list[str]) -> tuple[str, ...]:
    if known is None:
        return captured.category_ids
    lost = [each for each in captured.category_ids if each not in known]
    if lost:
        warnings.append(f"{len(lost)} of its categories no longer exist and were dropped.")
    return tuple(each for each in captured.category_ids if each in known)


def _left_behind(captured: Vm, restored_group_ids: frozenset[str]) -> tuple[str, ...]:
    """What a plain VM create cannot bring back (`nutanix-v4 §24.9`)."""
    said = []
    if captured.has_vtpm:
        said.append(
            "The vTPM is new and empty: keys sealed in it (BitLocker) need their recovery key."
        )
    if captured.gpu_count:
        said.append(f"{captured.gpu_count} GPU(s) are not assigned again.")
    for key, what in (("serialPorts", "Serial ports"), ("pcieDevices", "PCIe devices")):
        if captured.config.get(key):
            said.append(f"{what} are not assigned again.")
    if any(drive.holds_image for drive in captured.cd_roms):
        said.append("CD-ROM drives come back empty.")
    lost = set(captured.volume_group_ids) - restored_group_ids
    if lost:
        said.append(f"{len(lost)} volume group(s) are not attached again.")
    return tuple(said)
