"""A run that somebody cancels in Prefect's UI or API, noticed by the run itself.

A Prefect worker sends its child a signal, but a run that was started by hand gets none, and a worker
that lost its server sends none either (`prefect-notes §2.3`). So every run looks at itself.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from httpx import HTTPError
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException
from prefect.states import Cancelled

log = logging.getLogger(__name__)

LOOK_PERIOD_S = 10.0
_TROUBLE = (HTTPError, PrefectException, OSError)


class CancelWatch:
    """Looks after one flow run, and stops what it does when somebody cancels it."""

    def __init__(self, run_id: UUID | None) -> None:
        self._run_id = run_id
        self._over = threading.Event()

    def then(self, stop: Callable[[], None]) -> None:
        """Begin to look; `stop` is called once, from another thread, when the run is cancelled."""
        if self._run_id is not None:
            threading.Thread(
                target=self._look, args=(self._run_id, stop), name="cancel-watch", daemon=True
            ).start()

    def end(self) -> None:
        """Look no more."""
        self._over.set()

    def _look(self, run_id: UUID, stop: Callable[[], None]) -> None:
        while not self._over.wait(LOOK_PERIOD_S):
            if _is_cancelled(run_id):
                stop()
                return


@contextmanager
def heeding_cancel() -> Iterator[CancelWatch]:
    """A watch over the flow run of the block."""
    context = FlowRunContext.get()
    watch = CancelWatch(context.flow_run.id if context and context.flow_run else None)
    try:
        yield watch
    finally:
        watch.end()


def is_being_cancelled() -> bool:
    """Whether somebody cancels the current flow run; then Prefect takes no other end of it."""
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    return run is not None and _is_cancelled(run.id)


def _is_cancelled(run_id: UUID) -> bool:
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(run_id).state
    except _TROUBLE as error:  # A server that does not answer is no cancel.
        log.debug("Prefect does not say whether run %s is cancelled: %s", run_id, error)
        return False
    return state is not None and (state.is_cancelling() or state.is_cancelled())


def confirm_cancelled(run_id: UUID) -> None:
    """Tell Prefect that a run which was being cancelled is over: a run by hand has nobody else to."""
    try:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(
                run_id, Cancelled(message="Cancelled in Prefect; what it held was released")
            )
    except _TROUBLE as error:
        log.warning("Prefect was not told that run %s is over: %s", run_id, error)
