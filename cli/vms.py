"""`ahvault vms`: what the cluster has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cli.config import load_settings
from cli.connections import open_cluster
from cli.options import ClusterOptions, CommonOptions, with_options
from cli.output import Column, open_output, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from nutanix import Vm

EXAMPLES = """Examples:

- `ahvault vms`
- `ahvault vms --json | jq -r '.vms[].name'`
"""

_COLUMNS = (
    Column("VM"),
    Column("POWER"),
    Column("CLUSTER"),
    Column("HOST"),
    Column("DISKS", is_number=True),
    Column("SIZE", is_number=True),
    Column("ID"),
)


@with_options
def vms(common: CommonOptions, cluster: ClusterOptions) -> None:
    """List the cluster's VMs with their disks and where they run."""
    settings = load_settings(common, cluster)
    output = open_output(as_json=common.as_json)
    with open_cluster(settings) as client:
        found = sorted(client.vms(), key=lambda vm: (vm.name, vm.id))
        places = {each.id: each.name for each in client.clusters()}
        places |= {each.id: each.name for each in client.hosts()}
    listed = [_vm_as_data(vm, places) for vm in found]
    output.result({"vms": listed}, lambda: [_view(listed)])


def _vm_as_data(vm: Vm, places: Mapping[str, str]) -> dict[str, Any]:
    return {
        "id": vm.id,
        "name": vm.name,
        "power_state": vm.power_state,
        "cluster": places.get(vm.cluster_id or "", vm.cluster_id),
        "host": places.get(vm.host_id or "", vm.host_id),
        "size_bytes": sum(disk.size_bytes for disk in vm.data_disks),
        "disks": [
            {"id": disk.id, "label": disk.label, "size_bytes": disk.size_bytes}
            for disk in vm.data_disks
        ],
    }


def _view(listed: Sequence[dict[str, Any]]) -> RenderableType:
    if not listed:
        return "The cluster has no VM that this account may see."
    return table(_COLUMNS, (_row(vm) for vm in listed))


def _row(vm: dict[str, Any]) -> tuple[str, ...]:
    from jobs import human_bytes

    return (
        vm["name"],
        vm["power_state"].lower(),
        vm["cluster"] or "-",
        vm["host"] or "-",
        str(len(vm["disks"])),
        human_bytes(vm["size_bytes"]),
        vm["id"],
    )
