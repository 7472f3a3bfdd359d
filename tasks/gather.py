"""Waiting for the transfers of one VM."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TypeVar, cast

from prefect.futures import PrefectFuture, wait
from prefect.utilities.annotations import quote

from tasks.context import current_session

T = TypeVar("T")


def quoted(value: T) -> T:
    """A parameter that Prefect hands over as it is, instead of walking it in search of futures.

    A list of a million extents costs half a minute to walk (`prefect-notes §2.2`).
    """
    return cast("T", quote(value))


HALT_TIMEOUT_S = 20.0
"""A transfer ends at its next chunk; the grace before a kill is 30 s (`prefect-notes §2.3`)."""


def finish_all(
    futures: Mapping[int, PrefectFuture[T]],
    keep: Callable[[int, T], None],
    *,
    stop: threading.Event | None = None,
) -> None:
    """Wait for all, hand every result to `keep`, then raise the first failure if there is one.

    The others go on when one fails: a disk that is done is not read again, on whatever worker, and
    what was stored of it is not stored again in the next session.

    An interrupt reaches only the flow's thread: a submitted task outlives it. So the transfers are
    told to stop and waited for before whatever they use is released. The wait ends every second,
    because a signal is handled only when the main thread runs. `stop` is the session's unless given.
    """
    pending = list(futures.values())
    try:
        while wait(pending, timeout=1.0).not_done:
            pass
    except BaseException:
        (stop or current_session().stop).set()
        wait(pending, timeout=HALT_TIMEOUT_S)
        raise
    failures = []
    for index, future in futures.items():
        try:
            keep(index, future.result())
        except Exception as error:  # noqa: BLE001 - raised below, once the others are kept
            failures.append(error)
    if failures:
        raise failures[0]
