"""The flows and steps as they are, run by plain calls and threads instead of Prefect's engine.

Everything that flows, tasks and jobs do happens; what Prefect adds (a server, runs, states) does not, which
makes a session three times as fast. A step is tried again as its policy says, without the pauses. The same
storm also runs, a sample of it, on the real engine (`tests/flows/test_storm_on_prefect.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from typing import Any
from unittest.mock import patch

from prefect.flows import Flow
from prefect.tasks import Task
from prefect.utilities.annotations import quote

from jobs.slots import LocalSlots


def _no_server(*_: object, **__: object) -> None:
    """Whatever reaches for Prefect's server belongs among the replacements below."""
    raise AssertionError("the storm has no Prefect server")


class _Failed:
    """What a step's retry condition is shown of an attempt that failed."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def result(self, *, raise_on_failure: bool) -> Exception:
        assert not raise_on_failure
        return self._error


def _bare(value: Any) -> Any:
    return value.unwrap() if isinstance(value, quote) else value


def _call_task(task: Task[Any, Any], *arguments: Any, **options: Any) -> Any:
    given = [_bare(each) for each in arguments]
    named = {name: _bare(each) for name, each in options.items()}
    for attempt in range(int(task.retries or 0) + 1):
        try:
            return task.fn(*given, **named)
        except Exception as error:
            condition = task.retry_condition_fn
            again = condition is not None and condition(task, None, _Failed(error))  # type: ignore[arg-type]
            if attempt == int(task.retries or 0) or not again:
                raise
    raise AssertionError("unreachable")


@contextmanager
def without_engine() -> Iterator[None]:
    """Inside the block a flow or task that is called is a function that is called."""

    def call_flow(flow: Flow[Any, Any], *arguments: Any, **options: Any) -> Any:
        return flow.fn(*arguments, **options)

    with ThreadPoolExecutor(8) as pool, ExitStack() as stack:

        def submit(task: Task[Any, Any], *arguments: Any, **options: Any) -> Future[Any]:
            run = copy_context().run
            return pool.submit(run, _call_task, task, *arguments, **options)

        for target, name, replacement in (
            (Flow, "__call__", call_flow),
            (Task, "__call__", _call_task),
            (Task, "submit", submit),
        ):
            stack.enter_context(patch.object(target, name, replacement))
        for place, replacement in (
            ("tasks.gather.wait", wait),
            ("flows.backup.SharedSlots", LocalSlots),
            ("flows.restore.SharedSlots", LocalSlots),
            ("prefect.client.orchestration.SyncPrefectClient.__init__", _no_server),
            ("tasks.report.get_run_logger", lambda: logging.getLogger("storm")),
            ("tasks.report.create_markdown_artifact", lambda *_, **__: None),
            ("tasks.report.create_progress_artifact", lambda *_, **__: None),
        ):
            stack.enter_context(patch(place, replacement))
        yield
