"""Asking a cluster which regions of a disk changed: hand-off from Prism Central to a Prism Element.

Prism Central names the Prism Element that can answer, with a token for one pair of disk recovery
points; the Prism Element answers page by page (`nutanix-v4 §15`). The token lives 15 minutes, so
it is renewed in mid-paging; it never reaches a log or an error.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from nutanix.answers import Answer, Subject
from nutanix.api import Api
from nutanix.errors import AnswerUnusable, LoginRefused, RegionsUnusable
from nutanix.models.recovery_points import ChangedRegions, DiskRecoveryPointRef
from nutanix.models.wire import typed
from nutanix.regions import RegionPages
from nutanix.transport import Call

BLOCK_SIZES_BYTES = (32768, 65536, 131072, 262144)
TOKEN_LIFE_S = 12 * 60.0
"""Renewed well before the documented 15 minutes."""
PAGES_MAX = 100_000
_CONTENT_PATH = re.compile(r"/dataprotection/(v\d+\.\d+(?:\.[abr]\d+)?)/content")


@dataclass(frozen=True, slots=True)
class _Pass:
    """Leave to ask one Prism Element about one pair of disk recovery points."""

    url: str
    version: str
    token: str = field(repr=False)
    valid_until_s: float


class ChangedRegionVerbs(Api):
    """Which bytes of a disk to read."""

    def changed_regions(
        self,
        disk: DiskRecoveryPointRef,
        reference: DiskRecoveryPointRef | None,
        *,
        block_size_bytes: int = 65536,
    ) -> ChangedRegions:
        """What differs between `reference` and `disk`, or what of `disk` is allocated without one.

        Regions start and end on multiples of `block_size_bytes` (32, 64, 128 or 256 KiB), but for
        the disk's end. The answer is complete or an error: `RegionsUnusable` when the cluster's list
        breaks its own rules (B5), `NotFound` or `RequestInvalid` when a recovery point is gone or
        the reference belongs to another disk. Each page is one call; safe to call from many threads.
        """
        if block_size_bytes not in BLOCK_SIZES_BYTES:
            raise ValueError(f"block_size_bytes must be one of {BLOCK_SIZES_BYTES}")
        pages = RegionPages(disk.disk_recovery_point_id)
        leave = self._discover(disk, reference)
        for _ in range(PAGES_MAX):
            if self._clock.monotonic_s() >= leave.valid_until_s:
                leave = self._discover(disk, reference)
            body = _compute_body(disk, pages.next_offset_bytes, block_size_bytes, reference)
            try:
                page = self._compute(leave, disk, body)
            except LoginRefused:
                leave = self._discover(disk, reference)
                page = self._compute(leave, disk, body)
            pages.add(page)
            if pages.is_complete:
                return ChangedRegions(pages.size_bytes or 0, block_size_bytes, pages.merged())
        raise RegionsUnusable(
            disk.disk_recovery_point_id, f"it does not end after {PAGES_MAX} pages"
        )

    def _discover(
        self, disk: DiskRecoveryPointRef, reference: DiskRecoveryPointRef | None
    ) -> _Pass:
        purpose = f"find the cluster of disk recovery point {disk.disk_recovery_point_id}"
        spec = typed(
            "dataprotection.v4.content.ComputeChangedRegionsClusterDiscoverSpec",
            diskRecoveryPoint=disk.wire(),
            referenceDiskRecoveryPoint=reference.wire() if reference else None,
        )
        body = typed(
            "dataprotection.v4.content.ClusterDiscoverSpec",
            operation="COMPUTE_CHANGED_REGIONS",
            spec=spec,
        )
        asked_at_s = self._clock.monotonic_s()
        answer = self._call(
            "POST",
            "dataprotection",
            f"config/recovery-points/{disk.recovery_point_id}/$actions/discover-cluster",
            purpose=purpose,
            subject=Subject("recovery point", disk.recovery_point_id),
            body=body,
        )
        info = answer.data if isinstance(answer.data, dict) else {}
        token, host = info.get("jwtToken"), _address(info.get("clusterIp"))
        if not isinstance(token, str) or host is None:
            raise AnswerUnusable(purpose, "it names no cluster address and token")
        version = content_version(answer.document, token) or self.versions.of("dataprotection")
        url = f"https://{host}:{self.connection.prism_element_port}"
        return _Pass(url, version, token, asked_at_s + TOKEN_LIFE_S)

    def _compute(self, leave: _Pass, disk: DiskRecoveryPointRef, body: dict[str, Any]) -> Answer:
        call = Call(
            method="POST",
            path=f"/dataprotection/{leave.version}/content"
            f"/recovery-points/{disk.recovery_point_id}"
            f"/{disk.owner_path}"
            f"/disk-recovery-points/{disk.disk_recovery_point_id}"
            "/$actions/compute-changed-regions",
            purpose=f"list regions of disk recovery point {disk.disk_recovery_point_id}",
            subject=Subject("disk recovery point", disk.disk_recovery_point_id),
            body=body,
            token=leave.token,
        )
        return self._transport.send(call, base_url=leave.url)


def _compute_body(
    disk: DiskRecoveryPointRef,
    offset_bytes: int,
    block_size_bytes: int,
    reference: DiskRecoveryPointRef | None,
) -> dict[str, Any]:
    """No `length`: the window is all that is left, so the list ends only at the disk's end."""
    kind = "Vm" if disk.vm_recovery_point_id else "VolumeGroup"
    return typed(
        f"dataprotection.v4.content.{kind}RecoveryPointChangedRegionsComputeSpec",
        offset=offset_bytes,
        blockSizeByte=block_size_bytes,
        **(reference.wire_as_reference() if reference else {}),
    )


def _address(cluster_ip: object) -> str | None:
    """The address as it goes into a URL: IPv4, or IPv6 in brackets."""
    if not isinstance(cluster_ip, dict):
        return None
    for family, form in (("ipv4", "{}"), ("ipv6", "[{}]")):
        value = (cluster_ip.get(family) or {}).get("value")
        if value:
            return form.format(value)
    return None


def content_version(document: dict[str, Any], token: str) -> str | None:
    """The API version that the Prism Element must be asked in (`nutanix-v4 §15.1`).

    The token is scoped to one version's path, and another one is refused. In order of trust: a link
    in the answer to the content path, then the path named by the token's claims.
    """
    for text in (*_links(document), _claims(token)):
        match = _CONTENT_PATH.search(text)
        if match:
            return match[1]
    return None


def _links(document: dict[str, Any]) -> Iterator[str]:
    for holder in (document.get("data"), document, document.get("metadata")):
        for link in (holder.get("links") if isinstance(holder, dict) else None) or ():
            if isinstance(link, dict):
                yield str(link.get("href", ""))


def _claims(token: str) -> str:
    """The token's payload as text; its signature is the Prism Element's to check, not ours."""
    payload = token.split(".")[1] if token.count(".") == 2 else ""
    try:
        padded = payload + "=" * (-len(payload) % 4)
        return json.dumps(json.loads(base64.urlsafe_b64decode(padded))).replace("\\/", "/")
    except (ValueError, binascii.Error):
        return ""
