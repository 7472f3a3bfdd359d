"""Reading answers: the envelope, the three shapes of an error body, and which error each becomes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from nutanix.errors import (
    AnswerUnusable,
    ClusterBusy,
    ClusterMessage,
    ConcurrentChange,
    FeatureMissing,
    LoginRefused,
    NotFound,
    NotPrism,
    NutanixError,
    PermissionDenied,
    RequestInvalid,
)
from nutanix.retries import RATE_LIMIT_GROUPS, TRANSIENT_STATUS

FORBIDDEN_GROUPS = frozenset(
    {"FORBIDDEN", "ACCESS_DENIED", "AUTHORIZATION_ERROR", "IAM_AUTHORIZATION_ERROR"}
)
NOT_FOUND_GROUPS = frozenset(
    {"RESOURCE_NOT_FOUND", "ENTITY_NOT_FOUND", "DATAPROTECTION_ENTITY_NON_EXISTENT_ERROR"}
)
STALE_ETAG = frozenset(
    {"VMM-30303", "VM_ETAG_MISMATCH", "PLAT-10004", "PLAT-10005", "MISSING_ETAG_HEADER"}
)


@dataclass(frozen=True, slots=True)
class Subject:
    """The object a call is about, so that a 404 can name it."""

    kind: str
    object_id: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer. `document` is the whole envelope; `{}` when there was no body."""

    document: dict[str, Any] = field(repr=False)
    etag: str | None = None

    @property
    def data(self) -> Any:
        """What was asked for: an object, a list, or `None`."""
        return self.document.get("data")

    @property
    def total_count(self) -> int | None:
        """How many results the list has over all pages, if the server says."""
        total = self._metadata.get("totalAvailableResults")
        return total if isinstance(total, int) else None

    def extra_info(self, name: str) -> str | None:
        """A name/value pair of `metadata.extraInfo`, looked up by name (`nutanix-v4 §15.2`)."""
        for pair in self._metadata.get("extraInfo") or ():
            if (
                isinstance(pair, dict)
                and pair.get("name") == name
                and pair.get("value") is not None
            ):
                return str(pair["value"])
        return None

    def flag(self, name: str) -> bool:
        """A flag of the envelope; absent means false."""
        flags = self._metadata.get("flags") or ()
        return any(each.get("name") == name and each.get("value") is True for each in flags)

    @property
    def _metadata(self) -> dict[str, Any]:
        metadata = self.document.get("metadata")
        return metadata if isinstance(metadata, dict) else {}


def read_answer(response: httpx.Response, purpose: str) -> Answer:
    """The envelope of a 2xx answer; `AnswerUnusable` when it is not JSON, so possibly cut off."""
    etag = response.headers.get("ETag") or response.headers.get("X-Ntnx-Etag")
    if not response.content:
        return Answer({}, etag)
    try:
        document = json.loads(response.content)
    except ValueError as error:
        raise AnswerUnusable(purpose, "it is not JSON") from error
    if not isinstance(document, dict):
        raise AnswerUnusable(purpose, "it is JSON but no object")
    return Answer(document, etag)


def messages_of(body: bytes) -> tuple[ClusterMessage, ...]:
    """The messages of an error body: a list, a schema validation error, a bare object, or none."""
    try:
        document = json.loads(body)
    except ValueError:
        return ()
    if not isinstance(document, dict):
        return ()
    data = document.get("data")
    error = data.get("error") if isinstance(data, dict) else None
    if isinstance(error, list):
        return tuple(_message(each) for each in error if isinstance(each, dict))
    if isinstance(error, dict):
        details = error.get("validationErrorMessages") or ()
        told = [_message(each) for each in details if isinstance(each, dict)]
        return tuple(told) or (ClusterMessage(str(error.get("error", "invalid request"))),)
    return (_message(document),) if "message" in document else ()


def _message(document: dict[str, Any]) -> ClusterMessage:
    text = str(document.get("message") or "no text")
    where, code, group = (document.get(key) for key in ("attributePath", "code", "errorGroup"))
    return ClusterMessage(
        f"{where}: {text}" if where else text,
        None if code is None else str(code),
        None if group is None else str(group),
    )


def is_stale_etag(messages: Sequence[ClusterMessage]) -> bool:
    """Whether these messages mean that the object changed under us (`nutanix-v4 §7`, `§10`)."""
    return any(message.code in STALE_ETAG or message.group in STALE_ETAG for message in messages)


def is_rate_limit(status: int, messages: Sequence[ClusterMessage]) -> bool:
    """Whether the call was one too many; the group says so even on another status."""
    return status == 429 or any(message.group in RATE_LIMIT_GROUPS for message in messages)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A non-2xx answer, sorted: the error it becomes and whether sending it again may help."""

    error: NutanixError
    is_retryable: bool
    is_rate_limit: bool = False


def read_refusal(
    response: httpx.Response,
    *,
    purpose: str,
    subject: Subject | None,
    identity: str,
    attempt: int,
) -> Refusal:
    """Sort a non-2xx answer by status and error group; the group wins (`nutanix-v4 §7`)."""
    status, messages = response.status_code, messages_of(response.content)
    groups = {message.group for message in messages}
    if status in TRANSIENT_STATUS or groups & RATE_LIMIT_GROUPS:
        busy = ClusterBusy(purpose, status=status, attempts=attempt, messages=messages)
        return Refusal(busy, True, is_rate_limit(status, messages))
    url = f"{response.url.scheme}://{response.url.netloc.decode()}"
    error: NutanixError
    if status == 401 or "AUTHENTICATION_REQUIRED" in groups:
        error = LoginRefused(url, identity, "; ".join(str(message) for message in messages))
    elif status == 403 or groups & FORBIDDEN_GROUPS:
        error = PermissionDenied(purpose, messages)
    elif status in (412, 428) or is_stale_etag(messages):
        error = ConcurrentChange(purpose, messages)
    elif status == 404 or groups & NOT_FOUND_GROUPS:
        what = subject or Subject("endpoint", response.url.path)
        error = NotFound(what.kind, what.object_id, messages)
    elif status == 501:
        error = FeatureMissing(purpose, "this server does not have the call (HTTP 501)")
    elif status < 400:
        error = NotPrism(url, f"it redirects API calls (HTTP {status})")
    else:
        error = RequestInvalid(purpose, status, messages)
    return Refusal(error, False)
