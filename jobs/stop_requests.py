"""The wish that a running session stops, left for it beside the repository (J7).

A record under `live/`, so that it reaches a session on whatever machine, with or without Prefect.
"""

from __future__ import annotations

import logging
from datetime import datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from repository import Clock, LiveRecords, RepositoryError

log = logging.getLogger(__name__)

REQUESTS = "stop-requests"


class StopRequest(BaseModel):
    """Somebody wants a session to stop."""

    model_config = ConfigDict(frozen=True)

    session_id: str
    at_once: bool
    """Whether VMs that run are stopped as well; otherwise they end well, and no further one starts."""
    asked_at: datetime


def ask_to_stop(records: LiveRecords, session_id: str, *, at_once: bool, clock: Clock) -> None:
    """Leave the wish; the session sees it within seconds. Raises `RepositoryError`."""
    request = StopRequest(session_id=session_id, at_once=at_once, asked_at=clock.now())
    records.put(REQUESTS, session_id, request.model_dump(mode="json"))


def stop_asked(records: LiveRecords, session_id: str) -> StopRequest | None:
    """The wish for this session, if there is one. A store that does not answer now is asked again later."""
    try:
        record = records.get(REQUESTS, session_id)
        return None if record is None else StopRequest.model_validate(record)
    except (RepositoryError, ValidationError) as error:
        log.debug("Whether session %s is to stop cannot be read: %s", session_id, error)
        return None


def forget_request(records: LiveRecords, session_id: str) -> None:
    """The session is over; the wish, if there was one, goes. Raises nothing."""
    try:
        records.delete(REQUESTS, session_id)
    except RepositoryError as error:
        log.warning("The request to stop session %s was not removed: %s", session_id, error)
