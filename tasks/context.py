"""What the steps of a run work with.

Open handles cannot be parameters of a Prefect flow or task: parameters are data that Prefect walks
and stores. So the run travels in a context variable, which Prefect carries into subflows and
submitted tasks as it carries its own run context.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from uuid import UUID

from prefect.blocks.core import Block
from prefect.context import FlowRunContext

from jobs import BackupSession, Session, VmStory

_session: ContextVar[Session] = ContextVar("ahvault_session")
_story: ContextVar[VmStory] = ContextVar("ahvault_story")
_blocks: ContextVar[dict[str, UUID | None]] = ContextVar("ahvault_blocks")


@contextmanager
def working_in(session: Session, **blocks: Block) -> Iterator[None]:
    """Steps called inside belong to this run, which was opened with these blocks."""
    token = _session.set(session)
    block_token = _blocks.set(saved_ids(blocks))
    try:
        yield
    finally:
        _blocks.reset(block_token)
        _session.reset(token)


def saved_ids(blocks: Mapping[str, Block]) -> dict[str, UUID | None]:
    """The ids under which blocks are saved; `None` for one that lives in this process only."""
    # Prefect offers no other way to ask.
    return {name: block._block_document_id for name, block in blocks.items()}  # noqa: SLF001


def current_blocks() -> dict[str, UUID] | None:
    """The ids of the run's blocks, by which another machine can load them; `None` if one is not saved."""
    saved = {name: each for name, each in _blocks.get().items() if each is not None}
    return saved if len(saved) == len(_blocks.get()) else None


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


def started_by_schedule() -> bool:
    """Whether the running flow was started by a schedule, and not by a person or a program (J4)."""
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    return bool(run is not None and run.auto_scheduled)
