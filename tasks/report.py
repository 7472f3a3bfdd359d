"""What the Prefect UI shows of a session: live progress per VM, and the table of the session.

Nothing here may hold up or fail a backup: the server can be slow or away, and the session's own
report lies in the repository (`prefect-notes §2.6`).
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import wraps
from importlib.metadata import version
from inspect import signature
from typing import ParamSpec, TypeVar, cast
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.states import Completed, Failed

from jobs import (
    JobError,
    NullObserver,
    RetentionResult,
    SessionFailed,
    SessionResult,
    VmStory,
    nothing_to_retry,
    outcome,
    session_markdown,
)
from nutanix import NutanixError
from repository import RepositoryError
from tasks.cancel import is_being_cancelled
from tasks.context import current_backup, current_story
from tasks.policy import step

log = logging.getLogger(__name__)

PERIOD_S = 5.0
VERSION = version("ahvault")
"""Of our flows, as Prefect shows it; else it would be a digest of this file, in which they are wrapped."""

P = ParamSpec("P")
R = TypeVar("R")


class RunLog(NullObserver):
    """Writes the steps of a VM to the log of the run that takes them."""

    def session_step(self, text: str) -> None:
        """One line in the log of the session's own run."""
        self.step("", text)

    def step(self, vm_id: str, text: str) -> None:  # noqa: ARG002 - the run's name says which VM
        """One line, a warning where the text is one."""
        logger = get_run_logger()
        told = logger.warning if text.startswith("warning: ") else logger.info
        told(text.removeprefix("warning: "))


@contextmanager
def progress_artifact(vm_name: str) -> Iterator[None]:
    """While the block runs, a side thread shows how far the current VM's disks have come."""
    story, ended = current_story(), threading.Event()
    reporter = threading.Thread(
        target=copy_context().run,
        args=(_report_progress, _key("progress", vm_name), story, ended),
        name=f"progress-{vm_name}",
        daemon=True,
    )
    reporter.start()
    try:
        yield
    finally:
        ended.set()


def _report_progress(key: str, story: VmStory, ended: threading.Event) -> None:
    artifact_id: UUID | None = None
    while not ended.wait(PERIOD_S):
        percent, text = story.describe_progress()
        try:
            if artifact_id is None:
                artifact_id = UUID(str(create_progress_artifact(percent, key, text)))
            else:
                update_progress_artifact(artifact_id, percent, text)
        except Exception as error:  # noqa: BLE001 - a display never fails a backup
            log.debug("Progress of %s was not shown: %s", story.vm_name, error)


def name_part() -> None:
    """Let the run's name say which part of its job the session takes."""
    session, context = current_backup(), FlowRunContext.get()
    run = context.flow_run if context is not None else None
    if session.part is None or run is None:
        return
    name = f"backup {session.job.name}: {session.part.describe()}"
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run(run.id, name=name)
    except Exception as error:  # noqa: BLE001 - a display never fails a backup
        log.debug("The run was not named %s: %s", name, error)


@step("report-session")
def report_session(cleaned: list[str], retention: RetentionResult | None = None) -> SessionResult:
    """Store the session's report with the repository, and show it as an artifact."""
    session = current_backup()
    result = session.result(cleaned, retention)
    session.repository.save_report(session.session_id, result.model_dump(mode="json"))
    show_markdown(
        _key("session", session.job.name),
        session_markdown(result),
        f"Session of job {session.job.name}",
    )
    return result


def show_markdown(key: str, markdown: str, description: str) -> None:
    """Show a page in the Prefect UI under this key (`a-z0-9-`); trouble with it is only logged."""
    try:
        create_markdown_artifact(markdown, key=key, description=description)
    except Exception as error:  # noqa: BLE001 - a display never fails what it shows
        log.warning("%s was not shown in Prefect: %s", description, error)


def _key(kind: str, name: str) -> str:
    """An artifact key: lower-case letters, digits and hyphens only."""
    return f"{kind}-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-') or 'x'}"


def cause_first(run: Callable[P, R]) -> Callable[P, R]:
    """Below `@flow`: a run that fails says why in the first words of its state.

    Prefect would begin with words of its own, and lists, automations and people read the beginning.
    The caller of the flow gets the same exception as without: it is raised as it is where Prefect
    would not take the state, from a run that it tries again or that is being cancelled. What our own
    code raises for its callers is told in the log without a stack: it names the object and the next step.
    """

    @wraps(run)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return run(*args, **kwargs)
        except Exception as error:
            is_ours = isinstance(error, JobError | NutanixError | RepositoryError)
            cause = str(error) if is_ours else f"{type(error).__name__}: {error}"
            get_run_logger().error("%s", cause, exc_info=not is_ours)
            if not _takes_a_failure():
                raise
            return cast("R", Failed(message=cause, data=error))

    # Prefect would look for the types of the parameters in this module, where they are not.
    told.__signature__ = signature(run, eval_str=True)  # type: ignore[attr-defined]
    return told


def _takes_a_failure() -> bool:
    """Whether there is a run, and Prefect would let it end as failed now."""
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    return run is not None and not run.empirical_policy.retries and not is_being_cancelled()


def ending(result: SessionResult) -> SessionResult:
    """What a session's flow returns: the result, in a state that says in words how it went.

    Raises `SessionFailed` for a session that failed. The state's name is `Stopped` or `Warning` where
    that is so: Prefect knows no such type of state, but shows the name, and notifications go by it.
    """
    if result.status == "failed" or (result.status == "stopped" and not result.point_count):
        raise SessionFailed(result)
    if result.status == "stopped" and is_being_cancelled():
        return result
    if result.status == "stopped":
        why = next((vm.error for vm in result.vms if vm.error), "it was stopped")
        told = f"{result.point_count} of {len(result.vms)} VMs have a new restore point. {why}"
        return cast("SessionResult", Completed(name="Stopped", message=told, data=result))
    if result.status == "warning":
        warned = [vm.vm_name for vm in result.vms if vm.warnings]
        first = next(iter(result.warnings or [w for vm in result.vms for w in vm.warnings]), "")
        named = f" Warnings: {', '.join(warned)}." if warned else ""
        told = f"{outcome(result)}.{named} First: {first}"
        return cast("SessionResult", Completed(name="Warning", message=told, data=result))
    told = nothing_to_retry(result.part, result.job) or outcome(result)
    return cast("SessionResult", Completed(message=told, data=result))
