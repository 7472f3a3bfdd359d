"""What runs when a deployed flow crashed or was cancelled: the third of four layers of cleanup.

The flow's own exit stack comes first, where the process could still run it. A hook runs when it could
not: the Prefect worker that saw the process end calls it, in a process of its own. It may be skipped,
when that worker died too; then the clean-up flow does it, the janitor (docs/scale-out.md). It can do no harm when the
run is only called crashed: what a living session holds is never removed (`jobs.reconcile`).
"""

from __future__ import annotations

import logging
from typing import Any, TypeVar

from prefect import Flow
from prefect.blocks.core import Block
from prefect.client.schemas.objects import FlowRun, State
from prefect.logging.loggers import flow_run_logger

from blocks import AhvCluster, BackupRepository
from jobs import Moves
from tasks import confirm_cancelled, remove_what_was_left

log = logging.getLogger(__name__)

B = TypeVar("B", bound=Block)


def release_what_is_left(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Remove from the cluster what this run left. Never raises: the janitor is behind it."""
    told = flow_run_logger(flow_run, flow)
    try:
        _, removed = remove_what_was_left.fn(
            _block(AhvCluster, flow_run.parameters.get("cluster")),
            _block(BackupRepository, flow_run.parameters.get("repository")),
            dry_run=False,
        )
        for text in removed:
            told.info("Removed %s", text)
    except TypeError as error:  # Blocks that no process but the run's own had: it cleans up itself.
        log.debug("%s", error)
    except Exception as error:  # noqa: BLE001 - a hook has nobody to raise to
        told.warning("What this run left stays for the janitor or the next session: %s", error)
    if state.is_cancelling():
        confirm_cancelled(flow_run.id)


def tell_the_movers_death(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:  # noqa: ARG001 - Prefect calls it with these names
    """A mover's process is gone: its session need not wait until the silence is sure. Never raises."""
    try:
        repository = _block(BackupRepository, flow_run.parameters.get("repository"))
        with repository.open() as opened:
            Moves(opened.live).tell_the_death_of(str(flow_run.parameters.get("move_id")))
    except Exception as error:  # noqa: BLE001 - a hook has nobody to raise to; the session notices anyway
        log.debug("The end of run %s was not told: %s", flow_run.id, error)


def _block(kind: type[B], value: Any) -> B:
    """The block that a run's parameter names, or holds."""
    if isinstance(value, kind):
        return value
    if isinstance(value, dict) and "$ref" in value:
        loaded: Any = kind.load_from_ref(value["$ref"])
        if isinstance(loaded, kind):
            return loaded
    raise TypeError(f"the run's parameters name no saved {kind.__name__}")
