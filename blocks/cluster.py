"""The `AHV Cluster` block: how to reach Prism Central."""

from __future__ import annotations

from pathlib import Path

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from nutanix import AhvClient, ClusterConnection


class AhvCluster(Block):
    """Connection to a Nutanix AHV cluster through its Prism Central.

    Give either a user name with its password, or an API key. The certificate is verified unless
    that is switched off by name.

    Example:
        Load a saved cluster and list its VMs:
        ```python
        from blocks import AhvCluster

        with AhvCluster.load("BLOCK_NAME").client() as client:
            names = [vm.name for vm in client.vms()]
        ```
    """

    _block_type_name = "AHV Cluster"
    _block_type_slug = "ahv-cluster"

    url: str = Field(
        title="Prism Central URL",
        description="Address of Prism Central, such as https://prism.example.com:9440.",
        examples=["https://prism.example.com:9440"],
    )
    username: str | None = Field(
        default=None, description="Account with backup rights; leave empty with an API key."
    )
    password: SecretStr | None = Field(default=None, description="Password of the account.")
    api_key: SecretStr | None = Field(
        default=None,
        title="API key",
        description="Key of a service account, instead of user name and password.",
    )
    ca_file: str | None = Field(
        default=None,
        title="CA file",
        description="PEM file, on the machine that runs the session, with the authority that signed "
        "the cluster's certificate. Empty means the system's authorities.",
    )
    verify_tls: bool = Field(
        default=True,
        title="Verify the certificate",
        description="Switch off only in a lab: anybody between here and the cluster could read the password.",
    )
    prism_element_port: int = Field(
        default=9440,
        ge=1,
        le=65535,
        title="Prism Element port",
        description="Port of Prism Element; its address comes without one. 9440 unless changed.",
    )

    iscsi_port: int = Field(
        default=3260,
        ge=1,
        le=65535,
        title="iSCSI port",
        description="Port of the clusters' data services addresses, for workers that use iSCSI.",
    )
    chap_secret: SecretStr | None = Field(
        default=None,
        title="CHAP secret",
        description="Secret of 12 to 16 characters that our iSCSI logins have to show. Without it the "
        "cluster lets them in by name alone.",
    )

    def connection(self) -> ClusterConnection:
        """The connection settings as the API client wants them; errors name the field to correct."""
        return ClusterConnection(
            url=self.url,
            username=self.username,
            password=self.password,
            api_key=self.api_key,
            ca_file=Path(self.ca_file) if self.ca_file else None,
            verify_tls=self.verify_tls,
            prism_element_port=self.prism_element_port,
            iscsi_port=self.iscsi_port,
            chap_secret=self.chap_secret,
        )

    def client(self) -> AhvClient:
        """A new client; the caller closes it. It connects at the first call, not here."""
        return AhvClient(self.connection())
