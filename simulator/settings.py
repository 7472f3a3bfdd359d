"""How the simulator behaves where real clusters differ or where a test wants it otherwise."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

# The newest minor version per namespace (nutanix-v4 §1).
NEWEST_MINORS = {
    "vmm": 3,
    "dataprotection": 4,
    "volumes": 3,
    "prism": 4,
    "clustermgmt": 3,
    "networking": 4,
    "datapolicies": 3,
    "iam": 0,
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Every knob with the value that serves most tests. Durations in seconds.

    `newest_minor` caps all namespaces (1 makes a PC 7.3); `answers_version_probe` False gives it the
    404 that PCs below 4.2 answer with. `content_minor` makes the PE speak another minor than the one
    PC was asked in, as PC 7.3.1 does. Request ids and ended
    tasks are remembered for `memory_s`. `redirects_iscsi` makes the data-services address
    send every login to another portal, as real clusters do. With
    `guests_ignore_shutdown` the ACPI button is pressed and the guest goes on, as one without a handler does. Limits of 0 calls per second only show in headers.
    """

    task_s: float = 0.05
    power_on_s: float = 0.3
    newest_minor: int = 4
    answers_version_probe: bool = True
    content_minor: int | None = None
    entity_tags: Literal["strict", "lax"] = "strict"
    stale_tag_as: Literal["status", "task"] = "status"
    request_ids: Literal["strict", "lax"] = "strict"
    gives_cookies: bool = True
    token_life_s: float = 900.0
    cookie_life_s: float = 900.0
    memory_s: float = 86_400.0
    region_count_max: int = 10_000
    holes_as: Literal["zeroed", "gaps"] = "zeroed"
    ends_regions_with: Literal["zero", "absent"] = "zero"
    redirects_iscsi: bool = False
    guests_ignore_shutdown: bool = False
    total_limit_per_s: int = 0
    api_limit_per_s: int = 0
    tells_retry_after: bool = True
    minors: dict[str, int] = field(default_factory=lambda: dict(NEWEST_MINORS))

    def minor_of(self, namespace: str) -> int:
        """The newest minor that this PC serves of a namespace."""
        return min(self.minors[namespace], self.newest_minor)
