"""How steps are retried. A step is retried only when the code that failed says that it may help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from nutanix import DiskError

P = ParamSpec("P")
R = TypeVar("R")


def is_transient(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    """True when the step's error says that the same call may succeed later.

    Not for a disk that fails on its worker: another worker is the better second try (`tasks.moving`).
    """
    error = state.result(raise_on_failure=False)
    return bool(getattr(error, "is_transient", False)) and not isinstance(error, DiskError)


def step(
    name: str, *, run_name: str | None = None, retries: int = 2
) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A Prefect task that is a step of a run; `run_name` may use the step's parameters.

    Never cached: a cached "snapshot taken" could name a snapshot that a cleanup has removed since.
    """
    return task(
        name=name,
        task_run_name=run_name or name,
        cache_policy=NO_CACHE,
        retries=retries,
        retry_delay_seconds=exponential_backoff(backoff_factor=5),
        retry_jitter_factor=0.5,
        retry_condition_fn=is_transient,
    )
