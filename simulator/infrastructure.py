"""What VMs stand on: clusters, hosts, storage containers, subnets, categories (nutanix-v4 §19)."""

from __future__ import annotations

from typing import Any

from simulator.cluster import Cluster, operation, seeded_id
from simulator.documents import Document
from simulator.tasks import RunningTask

FURTHER_ADDRESS = "127.0.0.3"
"""Where the Prism Elements of all clusters but the first are reached."""
CONTAINER_REL = "clustermgmt:config:storage-container"


def own_id(cluster: Cluster, name: str) -> str:
    """Id of something that is there from the beginning; the seed decides it."""
    return seeded_id(cluster.seed, name)


def put_infrastructure(cluster: Cluster, host_count: int) -> None:
    """Record all of it, with hosts `host-1`, .... Within a change."""
    aos, central = "0006555e" + own_id(cluster, "aos")[8:], own_id(cluster, "central")
    put = cluster.documents.put
    hosts = [_host(cluster, number, aos) for number in range(1, host_count + 1)]
    put("cluster", aos, _aos_cluster(aos, hosts), {"is_aos": True})
    put("cluster", central, _central_cluster(central), {"is_aos": False})
    for host in hosts:
        put("host", host["extId"], host)
    for name in ("default-container", "archive-container"):
        container = _container(own_id(cluster, name), name, aos)
        put("storage_container", container["containerExtId"], container)
    for vlan in (10, 20):
        subnet = _subnet(own_id(cluster, f"vlan-{vlan}"), vlan, aos)
        put("subnet", subnet["extId"], subnet)
    pairs = (
        "Environment/production",
        "Environment/office",
        "Tier/web",
        "Tier/database",
        "Role/worker",
    )
    for pair in pairs:
        key, value = pair.split("/")
        put("category", own_id(cluster, pair), category(own_id(cluster, pair), key, value))


def put_further_cluster(cluster: Cluster, name: str) -> None:
    """One more cluster under the same Prism Central, with a host and a container. Within a change."""
    put, aos = cluster.documents.put, cluster.aos.document
    ext_id = own_id(cluster, name)
    network = {**aos["network"], "externalAddress": _address(FURTHER_ADDRESS)}
    document = {**aos, "extId": ext_id, "name": name, "network": network}
    put("cluster", ext_id, document, {"is_aos": False})
    host = {**_host(cluster, 9, ext_id), "extId": own_id(cluster, f"{name}/host")}
    host |= {"hostName": f"{name}-host", "cluster": {**host["cluster"], "name": name}}
    put("host", host["extId"], host)
    container = _container(own_id(cluster, f"{name}/container"), f"{name}-container", ext_id)
    put("storage_container", container["containerExtId"], {**container, "clusterName": name})


def _address(value: str) -> Document:
    inner = {"$objectType": "common.v1.config.IPv4Address", "value": value, "prefixLength": 32}
    return {"$objectType": "common.v1.config.IPAddress", "ipv4": inner}


def _object(kind: str, /, **fields: Any) -> Document:
    return {"$objectType": f"clustermgmt.v4.config.{kind}", **fields}


def _aos_cluster(ext_id: str, hosts: list[Document]) -> Document:
    nodes = [
        _object(
            "NodeListItemReference",
            nodeUuid=h["extId"],
            hostIp=h["hypervisor"]["externalAddress"],
            controllerVmIp=h["controllerVm"]["externalAddress"],
        )
        for h in hosts
    ]
    return _object(
        "Cluster",
        extId=ext_id,
        name="sim-cluster",
        config=_object(
            "ClusterConfigReference",
            buildInfo=_object(
                "BuildReference", version="7.5", fullVersion="el8.5-release-7.5-stable"
            ),
            hypervisorTypes=["AHV"],
            clusterFunction=["AOS"],
            clusterArch="X86_64",
            isAvailable=True,
            operationMode="NORMAL",
            timezone="UTC",
        ),
        network=_object(
            "ClusterNetworkReference",
            externalAddress=_address("127.0.0.2"),
            externalDataServiceIp=_address("127.0.0.1"),
        ),
        nodes=_object("NodeReference", numberOfNodes=len(nodes), nodeList=nodes),
        vmCount=5,
    )


def _central_cluster(ext_id: str) -> Document:
    """Prism Central's own entry, which is no place for VMs (§19)."""
    return _object(
        "Cluster",
        extId=ext_id,
        name="sim-central",
        config=_object(
            "ClusterConfigReference",
            buildInfo=_object("BuildReference", version="pc.7.5"),
            hypervisorTypes=["$UNKNOWN"],
            clusterFunction=["PRISM_CENTRAL"],
            isAvailable=True,
        ),
        network=_object("ClusterNetworkReference", externalAddress=_address("127.0.0.1")),
    )


def _host(cluster: Cluster, number: int, aos: str) -> Document:
    return _object(
        "Host",
        extId=own_id(cluster, f"host-{number}"),
        hostName=f"host-{number}",
        hostType="HYPER_CONVERGED",
        cluster=_object("ClusterReference", uuid=aos, name="sim-cluster"),
        hypervisor=_object(
            "HypervisorReference",
            externalAddress=_address(f"192.0.2.{20 + number}"),
            fullName="Nutanix 20251021.1",
            type="AHV",
            state="ACROPOLIS_NORMAL",
            acropolisConnectionState="CONNECTED",
        ),
        controllerVm=_object(
            "ControllerVmReference", externalAddress=_address(f"192.0.2.{30 + number}")
        ),
        maintenanceState="normal",
        nodeStatus="NORMAL",
        numberOfCpuCores=16,
        memorySizeBytes=256 << 30,
        firmwareFlavour="blue",
    )


def _container(ext_id: str, name: str, aos: str) -> Document:
    return _object(
        "StorageContainer",
        containerExtId=ext_id,
        name=name,
        clusterExtId=aos,
        clusterName="sim-cluster",
        maxCapacityBytes=8 << 40,
        replicationFactor=2,
        isCompressionEnabled=True,
        isInternal=False,
        isEncrypted=False,
        isMarkedForRemoval=False,
        onDiskDedup="OFF",
    )


def _subnet(ext_id: str, vlan: int, aos: str) -> Document:
    return {
        "$objectType": "networking.v4.config.Subnet",
        "extId": ext_id,
        "name": f"vlan-{vlan}",
        "subnetType": "VLAN",
        "networkId": vlan,
        "clusterReference": aos,
        "clusterReferenceList": [aos],
        "isExternal": False,
        "isAdvancedNetworking": False,
    }


@operation("CreateStorageContainer")
def create_container(cluster: Cluster, task: RunningTask) -> None:
    """Add a storage container."""
    ext_id = task.arguments["extId"]
    container = _container(ext_id, task.arguments["name"], task.arguments["clusterExtId"])
    with task.finishing() as outcome:
        cluster.documents.put("storage_container", ext_id, container)
        outcome.affects(CONTAINER_REL, ext_id, container["name"])


def category(
    ext_id: str, key: str, value: str, description: str | None = None, kind: str = "USER"
) -> Document:
    """A category as the API shows it."""
    return {
        "$objectType": "prism.v4.config.Category",
        "extId": ext_id,
        "key": key,
        "value": value,
        "type": kind,
        "description": description or "",
    }
