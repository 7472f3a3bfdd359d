"""The client of one Prism Central: every verb in one object, opened and closed in one place."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import httpx

from nutanix.changed_regions import ChangedRegionVerbs
from nutanix.clock import Clock, SystemClock
from nutanix.connection import ClusterConnection
from nutanix.images import ImageVerbs
from nutanix.inventory import InventoryVerbs
from nutanix.power import PowerVerbs
from nutanix.recovery_points import RecoveryPointVerbs
from nutanix.retries import RetryPolicy
from nutanix.rights import RightsVerbs
from nutanix.transport import ServerFacts, Transport
from nutanix.vm_lifecycle import VmLifecycleVerbs
from nutanix.volume_groups import VolumeGroupVerbs


class AhvClient(
    InventoryVerbs,
    RecoveryPointVerbs,
    ChangedRegionVerbs,
    VolumeGroupVerbs,
    PowerVerbs,
    VmLifecycleVerbs,
    ImageVerbs,
    RightsVerbs,
):
    """A cluster as an operator would speak of it: one method per verb, each named after its effect.

    One object serves many threads; connections are pooled and closed by `close` or at the end of
    a `with`. Nothing is sent before the first verb. Mutations wait until the cluster is done, take
    the caller's `request_id` where calling again must not do the work twice, and treat "already so"
    as success. Every error is a `NutanixError` and says whether it `is_transient`.
    """

    def __init__(
        self,
        connection: ClusterConnection,
        *,
        transport: httpx.BaseTransport | None = None,
        clock: Clock | None = None,
        retries: RetryPolicy | None = None,
    ) -> None:
        clock = clock or SystemClock()
        self._wire = Transport(
            connection, clock=clock, retries=retries or RetryPolicy(), transport=transport
        )
        super().__init__(connection, transport=self._wire, clock=clock)
        self.clock = clock

    def look_at(self, url: str | None = None) -> ServerFacts:
        """Reach Prism Central, or a Prism Element's `url`, without logging in: its clock and certificate."""
        return self._wire.look_at(url or self.connection.url)

    def prism_element_url(self, address: str) -> str:
        """The URL of a Prism Element from the bare address that Prism Central gives."""
        host = f"[{address}]" if ":" in address else address
        return f"https://{host}:{self.connection.prism_element_port}"

    def close(self) -> None:
        """Close all connections; the client cannot be used afterwards."""
        self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"AhvClient({self.connection.url}, {self.connection.identity})"
