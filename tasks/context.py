"""What the steps of a run work with.

Open handles cannot be parameters of a Prefect flow or task: parameters are data that Prefect walks
and stores. So the run travels in a context variable, which Prefect carries into subflows and
submitted tasks as it carries its own run context.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from jobs import BackupSession, Session, VmStory

_session: ContextVar[Session] = ContextVar("ahvault_session")
_story: ContextVar[VmStory] = ContextVar("ahvault_story")


@contextmanager
def working_in(session: Session) -> Iterator[None]:
    """Steps called inside the block belong to this run."""
    token = _session.set(session)
    try:
        yield
    finally:
        _session.reset(token)


@contextmanager
def working_on(story: VmStory) -> Iterator[None]:
    """Steps called inside the block belong to this VM's part of the run."""
    token = _story.set(story)
    try:
        yield
    finally:
        _story.reset(token)


def current_session() -> Session:
    """The run that the calling step belongs to."""
    return _session.get()


def current_backup() -> BackupSession:
    """The same, where the run makes restore points."""
    session = _session.get()
    if not isinstance(session, BackupSession):
        raise TypeError("this step belongs to a backup session")
    return session


def current_story() -> VmStory:
    """The VM's part that the calling step belongs to."""
    return _story.get()
