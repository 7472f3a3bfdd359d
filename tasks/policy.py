"""How steps are retried. A step is retried only when the code that failed says that it may help."""

from __future__ import annotations

from typing import Any, TypedDict

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff


def is_transient(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    """True when the step's error says that the same call may succeed later."""
    error = state.result(raise_on_failure=False)
    return bool(getattr(error, "is_transient", False))


class StepOptions(TypedDict):
    """Options common to all steps."""

    cache_policy: Any
    retries: int
    retry_delay_seconds: Any
    retry_jitter_factor: float
    retry_condition_fn: Any


STEP: StepOptions = {
    # A cached "snapshot taken" could name a snapshot that a cleanup has removed since.
    "cache_policy": NO_CACHE,
    "retries": 2,
    "retry_delay_seconds": exponential_backoff(backoff_factor=5),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": is_transient,
}
