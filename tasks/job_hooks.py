"""The job's hooks around a session. Without one no step is taken."""

from __future__ import annotations

import threading

import jobs
from jobs import Hook, HookFacts, HookFailed
from tasks.context import current_backup
from tasks.policy import step

HURRY_S = 10.0
"""What a hook gets after a session that was stopped: whoever stopped it may end the process soon."""


def run_before_hook(vm_count: int) -> None:
    """Run the hook before the session; raises `HookFailed` where the job insists on it."""
    session = current_backup()
    hook = session.job.hooks.before
    if hook is None:
        return
    facts = HookFacts("before", session.job.name, session.session_id, vm_count)
    try:
        run_hook(hook, facts, session.stop)
    except HookFailed as error:
        if hook.if_it_fails == "stop":
            raise
        session.warn(str(error))


def run_after_hook(vm_count: int) -> None:
    """Run the hook after the session, whatever came of it. Its failure is a warning."""
    session = current_backup()
    hook, stop = session.job.hooks.after, session.stop
    if hook is None:
        return
    if stop.is_set():
        hook = Hook(command=hook.command, timeout_s=min(hook.timeout_s, HURRY_S))
        stop = threading.Event()
    status = session.result(()).status
    facts = HookFacts("after", session.job.name, session.session_id, vm_count, status)
    try:
        run_hook(hook, facts, stop)
    except HookFailed as error:
        session.warn(str(error))


@step("run-hook", run_name="hook-{facts.when}")
def run_hook(hook: Hook, facts: HookFacts, stop: threading.Event) -> None:
    """Run one program to its end."""
    jobs.run_hook(hook, facts, clock=current_backup().clock, stop=stop)
