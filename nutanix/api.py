"""The ground all verbs stand on: calls in a namespace, lists over pages, operations, conditional writes."""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import ValidationError

from nutanix.answers import Answer, Subject, is_stale_etag
from nutanix.clock import Clock
from nutanix.connection import ClusterConnection
from nutanix.errors import (
    AnswerUnusable,
    ClusterMessage,
    ConcurrentChange,
    NotFound,
    OperationFailed,
    OperationTimedOut,
    RequestInvalid,
)
from nutanix.models.operations import Operation
from nutanix.models.wire import WireModel
from nutanix.transport import Call, Transport
from nutanix.versions import Versions

log = logging.getLogger(__name__)

PAGE_LIMIT = 100
PAGES_MAX = 10_000
POLL_S_FIRST = 0.05
POLL_S_MAX = 2.0
SUB_TASKS_READ_MAX = 20
CHANGE_ATTEMPTS_MAX = 8
CHANGE_PAUSE_S = 2.0
FRESH_WAIT_S = 15.0

Model = TypeVar("Model", bound=WireModel)


class Api:
    """One Prism Central as calls, without knowing what they are for. Thread-safe."""

    def __init__(
        self, connection: ClusterConnection, *, transport: Transport, clock: Clock
    ) -> None:
        self.connection = connection
        self._transport, self._clock = transport, clock
        self.versions = Versions(transport, connection.url)

    def _call(
        self,
        method: str,
        namespace: str,
        path: str,
        *,
        purpose: str,
        subject: Subject | None = None,
        query: Mapping[str, str] | None = None,
        body: dict[str, Any] | None = None,
        etag: str | None = None,
        request_id: str | None = None,
    ) -> Answer:
        version = self.versions.of(namespace)
        call = Call(
            method=method,
            path=f"/{namespace}/{version}/{path}",
            purpose=purpose,
            query=query or {},
            body=body,
            etag=etag,
            request_id=request_id,
            subject=subject,
        )
        return self._transport.send(call)

    def _get(self, namespace: str, path: str, object_id: str, kind: str) -> Answer:
        """One object by id; `path` is the collection's."""
        return self._call(
            "GET",
            namespace,
            f"{path}/{quote(object_id, safe='')}",
            purpose=f"read {kind} {object_id}",
            subject=Subject(kind, object_id),
        )

    def _get_model(
        self, model: type[Model], namespace: str, path: str, object_id: str, kind: str
    ) -> Model:
        answer = self._get(namespace, path, object_id, kind)
        return parse(model, answer.data, f"read {kind} {object_id}")

    def _list(
        self,
        model: type[Model],
        namespace: str,
        path: str,
        *,
        purpose: str,
        filter_: str | None = None,
    ) -> list[Model]:
        """Every entry of a list (`nutanix-v4 §5`).

        Entries that come and go between two pages shift the others, so that one may be missed. A list
        whose total changes while it is read is read again; `ConcurrentChange` when that never ends.
        """
        for _ in range(CHANGE_ATTEMPTS_MAX):
            totals: set[int | None] = set()
            entries: list[Model] = []
            for answer, items in self._pages(namespace, path, purpose=purpose, filter_=filter_):
                totals.add(answer.total_count)
                entries += [parse(model, item, purpose) for item in items]
            if len(totals) == 1:
                return entries
            log.info("The list changed while it was read; reading it again to %s", purpose)
        raise ConcurrentChange(purpose)

    def _pages(
        self, namespace: str, path: str, *, purpose: str, filter_: str | None
    ) -> Iterator[tuple[Answer, list[Any]]]:
        """The pages of a list to its end. An empty list may have no data at all."""
        for page in range(PAGES_MAX):
            query = {"$page": str(page), "$limit": str(PAGE_LIMIT)}
            if filter_ is not None:
                query["$filter"] = filter_
            answer = self._call("GET", namespace, path, purpose=purpose, query=query)
            items = answer.data or []
            if not isinstance(items, list):
                raise AnswerUnusable(purpose, "a list was expected")
            yield answer, items
            if _is_last_page(answer, page, len(items)):
                return
        raise AnswerUnusable(purpose, f"the list does not end after {PAGES_MAX} pages")

    def _list_by_prefix(
        self, model: type[Model], namespace: str, path: str, name_prefix: str, *, purpose: str
    ) -> list[Model]:
        """The entries whose `name` may start with the prefix; all of them where it cannot be asked.

        Which filter functions a release knows is not documented, so the caller compares again.
        """
        if name_prefix:
            filter_ = f"startswith(name,{quoted(name_prefix)})"
            try:
                return self._list(model, namespace, path, purpose=purpose, filter_=filter_)
            except RequestInvalid as error:
                log.info("Listing without a filter: %s", error)
        return self._list(model, namespace, path, purpose=purpose)

    def _start(
        self,
        method: str,
        namespace: str,
        path: str,
        *,
        purpose: str,
        subject: Subject | None = None,
        body: dict[str, Any] | None = None,
        etag: str | None = None,
        request_id: str | None = None,
    ) -> str:
        """Send a mutation; the id of the operation it started."""
        answer = self._call(
            method,
            namespace,
            path,
            purpose=purpose,
            subject=subject,
            body=body,
            etag=etag,
            request_id=request_id,
        )
        operation_id = answer.data.get("extId") if isinstance(answer.data, dict) else None
        if not isinstance(operation_id, str):
            raise AnswerUnusable(purpose, "it names no task")
        return operation_id

    def operation(self, operation_id: str) -> Operation:
        """An operation as it stands now; `NotFound` for an unknown one."""
        return self._get_model(Operation, "prism", "config/tasks", operation_id, "task")

    def wait_for_operation(
        self, operation_id: str, *, purpose: str = "finish a task", timeout_s: float | None = None
    ) -> Operation:
        """Poll until the operation succeeds.

        Raises `OperationFailed` with the cause, looked for in its sub-tasks too, `ConcurrentChange`
        when the cause is a stale ETag, and `OperationTimedOut` after `timeout_s` (default: the
        connection's `operation_timeout_s`); then the work may still finish.
        """
        timeout_s = self.connection.operation_timeout_s if timeout_s is None else timeout_s
        deadline_s = self._clock.monotonic_s() + timeout_s
        pause_s = POLL_S_FIRST
        while True:
            operation = self._retry_fresh(lambda: self.operation(operation_id), pause_s=0.5)
            if operation.is_terminal:
                break
            if self._clock.monotonic_s() >= deadline_s:
                raise OperationTimedOut(
                    purpose,
                    operation_id=operation_id,
                    status=operation.status,
                    timeout_s=timeout_s,
                )
            self._clock.sleep(pause_s)
            pause_s = min(pause_s * 1.6, POLL_S_MAX)
        if operation.status != "SUCCEEDED":
            raise self._failure(operation, purpose)
        return operation

    def _failure(self, operation: Operation, purpose: str) -> OperationFailed | ConcurrentChange:
        """The parent's text is often generic; the cause sits in a failed sub-task (`§9`)."""
        messages = list(operation.messages())
        entities = [entity.id for entity in operation.entities]
        for sub_task in operation.sub_tasks[:SUB_TASKS_READ_MAX]:
            try:
                part = self.operation(sub_task.id)
            except NotFound:
                continue
            entities += [entity.id for entity in part.entities]
            if part.status == "FAILED":
                messages[:0] = part.messages()
        if is_stale_etag(messages):
            return ConcurrentChange(purpose, messages)
        if operation.status == "CANCELED" and not messages:
            messages = [ClusterMessage("it was cancelled")]
        return OperationFailed(
            purpose,
            operation_id=operation.id,
            status=operation.status,
            messages=messages,
            entity_ids=tuple(dict.fromkeys(entities)),
        )

    def _change(self, read: Callable[[], Answer], act: Callable[[Answer], None]) -> None:
        """A conditional write: read, act with the ETag read; again when it was stale (`§10`).

        `act` looks at what was read and does nothing when there is nothing left to do. The stale
        ETag may come back as HTTP 412 or as a failed operation; both raise `ConcurrentChange`.
        """
        for attempt in range(1, CHANGE_ATTEMPTS_MAX + 1):
            try:
                act(read())
            except ConcurrentChange as error:
                if attempt == CHANGE_ATTEMPTS_MAX:
                    raise
                log.info("Reading again before another attempt: %s", error)
                self._clock.sleep(CHANGE_PAUSE_S)
            else:
                return

    def _retry_fresh(self, read: Callable[[], Model], *, pause_s: float = 0.25) -> Model:
        """Read something just made: it may answer 404 for a moment after success (`§9`)."""
        deadline_s = self._clock.monotonic_s() + FRESH_WAIT_S
        while True:
            try:
                return read()
            except NotFound:
                if self._clock.monotonic_s() >= deadline_s:
                    raise
            self._clock.sleep(pause_s)


def parse(model: type[Model], document: Any, purpose: str) -> Model:
    """A document of the API as its model; `AnswerUnusable` names the first field that does not fit."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or model.__name__
        raise AnswerUnusable(purpose, f"{where}: {first['msg']}") from error


def conditional_request_id(request_id: str | None, etag: str | None) -> str | None:
    """The request id of one conditional write, derived from the caller's and the ETag it depends on.

    A repeated id must come with the same payload and ETag (`nutanix-v4 §10`): the same attempt
    made again after a crash gets the same id, an attempt on a newer state another one.
    """
    if request_id is None:
        return None
    digest = hashlib.sha256(f"{request_id}|{etag or ''}".encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4))


def quoted(text: str) -> str:
    """A string literal of a filter; OData doubles the quote inside."""
    return "'" + text.replace("'", "''") + "'"


def _is_last_page(answer: Answer, page: int, item_count: int) -> bool:
    total = answer.total_count
    if total is not None:
        return (page + 1) * PAGE_LIMIT >= total or item_count == 0
    return item_count < PAGE_LIMIT
