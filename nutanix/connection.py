"""How to reach one Prism Central: address, credentials, trust and patience, as one frozen value."""

from __future__ import annotations

from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

PRISM_PORT = 9440
ISCSI_PORT = 3260
CHAP_SECRET_LENGTHS = range(12, 17)


class ClusterConnection(BaseModel):
    """The address of Prism Central and what it takes to be let in.

    Exactly one way to log in: `username` and `password`, or `api_key`. TLS is checked against the
    system's CAs, or against `ca_file` alone; `verify_tls=False` must be said aloud. The Prism
    Element that answers changed regions has no port in its address (`nutanix-v4 §15.1`): 9440
    unless `prism_element_port` says otherwise; it is trusted by the same `ca_file`, which may hold
    several certificates.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    username: str | None = None
    password: SecretStr | None = None
    api_key: SecretStr | None = None
    ca_file: Path | None = None
    verify_tls: bool = True
    prism_element_port: int = Field(default=PRISM_PORT, ge=1, le=65535)
    iscsi_port: int = Field(default=ISCSI_PORT, ge=1, le=65535)
    """Where a cluster's data services address serves iSCSI."""
    chap_secret: SecretStr | None = None
    """What our iSCSI initiators have to show; without it the cluster lets them in by name alone."""
    connect_timeout_s: float = Field(default=10.0, gt=0)
    read_timeout_s: float = Field(default=60.0, gt=0)
    operation_timeout_s: float = Field(default=900.0, gt=0)
    """How long the cluster may take over one asynchronous operation."""
    connections_max: int = Field(default=32, ge=1)

    @field_validator("url")
    @classmethod
    def _normal_url(cls, url: str) -> str:
        """`pc.example`, `pc.example:9440` and `https://pc.example/` all mean the same."""
        parts = urlsplit(url.strip() if "://" in url else f"https://{url.strip()}")
        if parts.scheme != "https":
            raise ValueError(
                "the cluster's address must be https://HOST[:PORT]; credentials never travel in clear"
            )
        if not parts.hostname or parts.path.strip("/") or parts.query or parts.username:
            raise ValueError("the cluster's address must be https://HOST[:PORT] and nothing more")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return f"https://{host}:{parts.port or PRISM_PORT}"

    @model_validator(mode="after")
    def _one_way_to_log_in(self) -> Self:
        with_password = self.username is not None and self.password is not None
        if with_password == (self.api_key is not None) or (self.username is None) != (
            self.password is None
        ):
            raise ValueError("give either username and password, or api_key")
        return self

    @field_validator("chap_secret")
    @classmethod
    def _secret_of_the_length_that_initiators_take(
        cls, secret: SecretStr | None
    ) -> SecretStr | None:
        if secret is not None and len(secret.get_secret_value()) not in CHAP_SECRET_LENGTHS:
            raise ValueError("a CHAP secret has 12 to 16 characters")
        return secret

    @property
    def identity(self) -> str:
        """Who logs in, in words that hold no secret."""
        return f"user {self.username}" if self.username is not None else "the API key"
