"""Which minor version of each API namespace to speak (`nutanix-v4 §1.1`).

Asked once per namespace. Servers from 4.2 on name their newest; older ones do not answer, so for
them a harmless list call finds the newest minor they serve.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping

from nutanix.errors import (
    AnswerUnusable,
    ClusterBusy,
    FeatureMissing,
    LoginRefused,
    NotFound,
    NotPrism,
    PermissionDenied,
    RedirectedTooOften,
    RequestInvalid,
)
from nutanix.transport import Call, Transport

NEWEST: Mapping[str, str] = {
    "vmm": "v4.3",
    "dataprotection": "v4.4",
    "volumes": "v4.3",
    "prism": "v4.4",
    "clustermgmt": "v4.3",
    "networking": "v4.4",
}
"""The newest minor of each namespace that this client was written against."""

HARMLESS_LIST: Mapping[str, str] = {
    "vmm": "ahv/config/vms",
    "dataprotection": "config/recovery-points",
    "volumes": "config/volume-groups",
    "prism": "config/tasks",
    "clustermgmt": "config/clusters",
    "networking": "config/subnets",
}

NOT_ANNOUNCED = (
    NotFound,
    LoginRefused,
    PermissionDenied,
    ClusterBusy,
    RequestInvalid,
    FeatureMissing,
    AnswerUnusable,
    NotPrism,
    RedirectedTooOften,
)
"""What servers below 4.2 answer to the question for their version; none of it means harm."""

_VERSION = re.compile(r"v(\d+)\.(\d+)(\.[abr]\d+)?")


def parse_version(text: str) -> tuple[int, int, int]:
    """Major, minor, and 1 for a release or 0 for a preview of it; `ValueError` for anything else."""
    match = _VERSION.fullmatch(text)
    if match is None:
        raise ValueError(f"not an API version: {text!r}")
    return int(match[1]), int(match[2]), 0 if match[3] else 1


class Versions:
    """The versions agreed with one Prism Central. Thread-safe; each namespace is asked once."""

    def __init__(self, transport: Transport, url: str) -> None:
        self._transport, self._url = transport, url
        self._lock = threading.Lock()
        self._agreed: dict[str, str] = {}

    def of(self, namespace: str) -> str:
        """The version to speak, such as `v4.1`.

        Raises `NotPrism` when no v4 API is there, and whatever keeps us from asking.
        """
        with self._lock:
            if namespace not in self._agreed:
                self._agreed[namespace] = self._announced(namespace) or self._found(namespace)
            return self._agreed[namespace]

    def _announced(self, namespace: str) -> str | None:
        call = Call(
            method="OPTIONS",
            path=f"/{namespace}/unversioned/info",
            purpose=f"ask for the version of the {namespace} API",
            attempts_max=2,
        )
        try:
            announced = self._transport.send(call).data
        except NOT_ANNOUNCED:
            return None
        try:
            theirs = parse_version(str(announced))
        except ValueError:
            return None
        ours = NEWEST[namespace]
        if theirs[0] != parse_version(ours)[0]:
            return None
        return ours if theirs >= parse_version(ours) else str(announced)

    def _found(self, namespace: str) -> str:
        for version in _candidates(NEWEST[namespace]):
            call = Call(
                method="GET",
                path=f"/{namespace}/{version}/{HARMLESS_LIST[namespace]}",
                query={"$limit": "1"},
                purpose=f"find the version of the {namespace} API",
            )
            try:
                self._transport.send(call)
            except NotFound:
                continue
            except PermissionDenied:
                pass  # The call exists; whether we may use it is the business of whoever needs it.
            return version
        raise NotPrism(self._url, f"no version of the {namespace} API is there")

    def at_least(self, namespace: str, version: str) -> bool:
        """Whether the agreed version of a namespace is this one or newer."""
        return parse_version(self.of(namespace))[:2] >= parse_version(version)[:2]


def _candidates(newest: str) -> list[str]:
    """4.1 and 4.0 first: a server that does not announce its version is most likely one of them."""
    major, minor, _ = parse_version(newest)
    newer = [f"v{major}.{each}" for each in range(minor, 1, -1)]
    return ["v4.1", "v4.0", *newer]
