"""The mark on everything we create on a cluster, and how to know it again (N10).

    ahvault-<repository>-<session>-<job>-<VM>

`repository` and `session` are the first eight hex digits of their ids, so two installations that
share a cluster never take each other's objects for their own. A name alone never permits a
deletion: the reconciler also wants the object's id in a record of ours.
"""

from __future__ import annotations

import re

PREFIX = "ahvault-"
NAME_LENGTH_MAX = 80
"""A VM name has at most 80 characters (`nutanix-v4 §12`); the other names may be longer."""

_UNSAFE = re.compile(r"[^A-Za-z0-9.-]+")


def repository_prefix(repository_id: str) -> str:
    """The start of every name that sessions of this repository give."""
    return f"{PREFIX}{_short(repository_id)}-"


def object_name(*, repository_id: str, session_id: str, job: str, vm_name: str) -> str:
    """The name for what one session creates for one VM."""
    told = f"{_slug(job)}-{_slug(vm_name)}"
    return f"{repository_prefix(repository_id)}{_short(session_id)}-{told}"[:NAME_LENGTH_MAX]


def _short(identifier: str) -> str:
    return identifier.replace("-", "")[:8]


def _slug(text: str) -> str:
    return _UNSAFE.sub("_", text).strip("_") or "x"
