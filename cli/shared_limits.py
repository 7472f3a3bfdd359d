"""The limits that a command shares with sessions: through the Prefect server, if one is configured.

Copying and exporting need no Prefect; without `PREFECT_API_URL` they keep to limits by themselves.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobs import Grant, SharedLimits
    from tasks import PrefectLimits


@contextmanager
def open_shared_limits() -> Iterator[SharedLimits | None]:
    """Whatever holds limits beyond this process, or None."""
    if not os.environ.get("PREFECT_API_URL"):
        yield None
        return
    limits = _MadeWhenNeeded()
    try:
        yield limits
    finally:
        limits.close()


class _MadeWhenNeeded:
    """Imports Prefect, which takes a second or more, with the first transfer under a limit."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._limits: PrefectLimits | None = None

    def reserve(self, key: str, bytes_s: float, length_bytes: int) -> Grant:
        with self._guard:
            if self._limits is None:
                from cli.local_prefect import prepare_prefect

                prepare_prefect(verbose=False)
                from tasks import PrefectLimits

                self._limits = PrefectLimits()
        return self._limits.reserve(key, bytes_s, length_bytes)

    def close(self) -> None:
        if self._limits is not None:
            self._limits.close()
