"""What else lives on a cluster: clusters, hosts, containers, subnets, categories (`nutanix-v4 §19`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AliasChoices, AliasPath, Field, field_validator

from nutanix.models.wire import ManyOf, WireModel


class Cluster(WireModel):
    """One AOS cluster under the Prism Central."""

    id: str = Field(alias="extId")
    name: str = ""
    functions: Annotated[tuple[str, ...], ManyOf] = Field(
        default=(), validation_alias=AliasPath("config", "clusterFunction")
    )
    hypervisors: Annotated[tuple[str, ...], ManyOf] = Field(
        default=(), validation_alias=AliasPath("config", "hypervisorTypes")
    )
    version: str | None = Field(
        default=None, validation_alias=AliasPath("config", "buildInfo", "version")
    )

    address: str | None = Field(
        default=None, validation_alias=AliasPath("network", "externalAddress", "ipv4", "value")
    )
    """Where its Prism Element answers changed regions, without a port."""

    data_services_address: str | None = Field(
        default=None,
        validation_alias=AliasPath("network", "externalDataServiceIp", "ipv4", "value"),
    )
    """Where it serves volume groups over iSCSI."""

    @property
    def is_prism_central(self) -> bool:
        """Prism Central lists itself as a cluster; it holds no VMs."""
        return "PRISM_CENTRAL" in self.functions


class Host(WireModel):
    """One hypervisor host."""

    id: str = Field(alias="extId")
    name: str = Field(default="", alias="hostName")
    cluster_id: str | None = Field(default=None, validation_alias=AliasPath("cluster", "uuid"))


class StorageContainer(WireModel):
    """Where disks live. Its usable id is `containerExtId`; `extId` may be null."""

    id: str = Field(validation_alias=AliasChoices("containerExtId", "extId"))
    name: str = ""
    cluster_id: str | None = Field(default=None, alias="clusterExtId")
    is_internal: bool = False
    is_marked_for_removal: bool = False
    size_advertised_bytes: int | None = Field(default=None, alias="logicalAdvertisedCapacityBytes")
    size_max_bytes: int | None = Field(default=None, alias="maxCapacityBytes")

    @field_validator("is_internal", "is_marked_for_removal", mode="before")
    @classmethod
    def _false_if_null(cls, value: Any) -> Any:
        return value or False


@dataclass(frozen=True, slots=True)
class ContainerSpace:
    """How full a storage container is."""

    container_id: str
    name: str
    capacity_bytes: int
    free_bytes: int

    @property
    def free_percent(self) -> float:
        """Free space in percent of the capacity."""
        return 100 * self.free_bytes / self.capacity_bytes


class Subnet(WireModel):
    """A network that a NIC can be on."""

    id: str = Field(alias="extId")
    name: str = ""
    subnet_type: str | None = None
    cluster_id: str | None = Field(default=None, alias="clusterReference")
    cluster_ids: Annotated[tuple[str, ...], ManyOf] = Field(
        default=(), alias="clusterReferenceList"
    )


class Category(WireModel):
    """A key and a value that VMs carry by id."""

    id: str = Field(alias="extId")
    key: str
    value: str
    type: str | None = None

    @property
    def label(self) -> str:
        """`key/value`, the form VM recovery points use."""
        return f"{self.key}/{self.value}"


class Image(WireModel):
    """A disk image or ISO file that VMs are made from (`nutanix-v4 §17`)."""

    id: str = Field(alias="extId")
    name: str = ""
    type: str = "DISK_IMAGE"
    size_bytes: int = 0
