"""clustermgmt and networking: clusters, hosts, storage containers, subnets (nutanix-v4 §19)."""

from __future__ import annotations

from simulator.api.routes import Answer, Call, Catalogue
from simulator.clock import stamp
from simulator.cluster import entity_tag
from simulator.documents import Document
from simulator.errors import SchemaError
from simulator.infrastructure import CONTAINER_REL

clusters = Catalogue("clustermgmt", "clustermgmt.v4.config")
networks = Catalogue("networking", "networking.v4.config")

_CLUSTER_FILTERS = (
    "name",
    "extId",
    "config/clusterFunction",
    "config/hypervisorTypes",
    "config/buildInfo/version",
    "config/isAvailable",
)
_HOST_FILTERS = ("extId", "hostName", "cluster/uuid", "cluster/name", "hypervisor/type")


@clusters.route("GET", "/config/clusters")
def list_clusters(call: Call) -> Answer:
    found = [r.document for r in call.cluster.documents.all("cluster")]
    return call.page(found, filters=_CLUSTER_FILTERS, orders=("name", "extId", "vmCount"))


@clusters.route("GET", "/config/clusters/{cluster}")
def get_cluster_by_id(call: Call) -> Answer:
    record = call.cluster.require("cluster", call.params["cluster"])
    return Answer(record.document, tag=entity_tag(record.document, record.revision))


@clusters.route("GET", "/config/hosts")
def list_hosts(call: Call) -> Answer:
    found = [r.document for r in call.cluster.documents.all("host")]
    return call.page(found, filters=_HOST_FILTERS, orders=("hostName", "extId", "cluster/name"))


@clusters.route("GET", "/config/clusters/{cluster}/hosts")
def list_hosts_by_cluster_id(call: Call) -> Answer:
    record = call.cluster.require("cluster", call.params["cluster"])
    hosts = [r.document for r in call.cluster.documents.all("host")]
    own = [h for h in hosts if h["cluster"]["uuid"] == record.ext_id]
    return call.page(own, filters=_HOST_FILTERS, orders=("hostName", "extId"))


@clusters.route("GET", "/config/clusters/{cluster}/hosts/{host}")
def get_host_by_id(call: Call) -> Answer:
    call.cluster.require("cluster", call.params["cluster"])
    record = call.cluster.require("host", call.params["host"])
    return Answer(record.document, tag=entity_tag(record.document, record.revision))


@clusters.route("GET", "/config/storage-containers")
def list_storage_containers(call: Call) -> Answer:
    found = [r.document for r in call.cluster.documents.all("storage_container")]
    fields = ("name", "containerExtId", "clusterExtId", "clusterName")
    return call.page(found, filters=fields, orders=fields)


@clusters.route("POST", "/config/storage-containers")
def create_storage_container(call: Call) -> Answer:
    """The cluster is named by a header here, and only here (§3)."""
    call.need("name")
    home = call.headers.get("x-cluster-id")
    if home is None:
        raise SchemaError("The header X-Cluster-Id is required.", "X-Cluster-Id")
    call.cluster.require("cluster", home)
    ext_id = call.cluster.new_id()
    arguments = {"extId": ext_id, "name": call.body["name"], "clusterExtId": home}
    return call.task("CreateStorageContainer", arguments, (CONTAINER_REL, ext_id))


@clusters.route("GET", "/config/storage-containers/{container}")
def get_storage_container_by_id(call: Call) -> Answer:
    record = call.cluster.require("storage_container", call.params["container"])
    return Answer(record.document, tag=entity_tag(record.document, record.revision))


@clusters.route("GET", "/stats/storage-containers/{container}")
def get_storage_container_stats(call: Call) -> Answer:
    """Samples of what a container holds, the newest first; both ends of the time must be given."""
    record = call.cluster.require("storage_container", call.params["container"])
    for name in ("$startTime", "$endTime"):
        if name not in call.query:
            raise SchemaError(f"The query parameter {name} is required.", name)
    capacity = int(record.document["maxCapacityBytes"])
    free = int(capacity * record.private.get("free_percent", 60.0) / 100)
    stats: Document = {"$objectType": "clustermgmt.v4.stats.StorageContainerStats"}
    for name, value in (
        ("storageCapacityBytes", capacity),
        ("storageFreeBytes", free),
        ("storageUsageBytes", capacity - free),
    ):
        stats[name] = [_sample(call, value)]
    return Answer({**stats, "extId": record.ext_id, "containerExtId": record.ext_id})


def _sample(call: Call, value: int) -> Document:
    moment = stamp(call.cluster.clock.now())
    return {"$objectType": "common.v1.stats.TimeIntValuePair", "value": value, "timestamp": moment}


@networks.route("GET", "/config/subnets")
def list_subnets(call: Call) -> Answer:
    found = [r.document for r in call.cluster.documents.all("subnet")]
    fields = ("name", "extId", "clusterReference", "subnetType", "isExternal", "vpcReference")
    return call.page(found, filters=fields, orders=("name",))


@networks.route("GET", "/config/subnets/{subnet}")
def get_subnet_by_id(call: Call) -> Answer:
    record = call.cluster.require("subnet", call.params["subnet"])
    return Answer(record.document, tag=entity_tag(record.document, record.revision))


@networks.route("GET", "/config/subnets/{subnet}/vnics")
def list_subnet_vnics(call: Call) -> Answer:
    record = call.cluster.require("subnet", call.params["subnet"])
    rows: list[Document] = [
        {
            "$objectType": "networking.v4.config.Vnic",
            "extId": nic["extId"],
            "macAddress": nic["nicBackingInfo"]["macAddress"],
            "vmReference": vm.ext_id,
        }
        for vm in call.cluster.documents.all("vm")
        for nic in vm.document.get("nics", ())
        if (nic["nicNetworkInfo"].get("subnet") or {}).get("extId") == record.ext_id
    ]
    return call.page(rows)
