"""The cluster's asynchronous work: records that clients poll, and the threads that do it.

A task is data: the name of an operation and its arguments. So a simulator that was killed takes up
after its restart what was queued or running. An operation commits its result and the end of its task in
one change (`RunningTask.finishing`), and therefore happens once.
"""

from __future__ import annotations

import heapq
import logging
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from simulator.clock import Clock, stamp
from simulator.documents import Document, Documents, Record
from simulator.errors import NotFoundError, RefusedError

log = logging.getLogger(__name__)

# base64 of "ergon", the task service (nutanix-v4 §9).
_ID_PREFIX = "ZXJnb24=:"
_PERFORMERS = 4
TERMINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELED"})


@dataclass(slots=True)
class Outcome:
    """What a finished operation tells its client."""

    entities: list[Document] = field(default_factory=list)
    details: dict[str, str] = field(default_factory=dict)
    warnings: list[Document] = field(default_factory=list)

    def affects(self, rel: str, ext_id: str, name: str | None = None) -> None:
        """Name an entity that was made or changed; `rel` as in nutanix-v4 §9."""
        entity: Document = {
            "$objectType": "prism.v4.config.EntityReference",
            "extId": ext_id,
            "rel": rel,
        }
        self.entities.append({**entity, "name": name} if name else entity)

    def detail(self, name: str, value: str) -> None:
        """Add one completion detail."""
        self.details[name] = value


@dataclass(slots=True)
class RunningTask:
    """What an operation sees of its own task. `end` records how it ended, within its change."""

    ext_id: str
    operation: str
    arguments: Document
    documents: Documents
    end: Callable[[Outcome], None] = lambda _outcome: None
    new_disks: list[str] = field(default_factory=list)

    def owns(self, vdisk_id: str) -> str:
        """Have a new vdisk removed again should this operation fail."""
        self.new_disks.append(vdisk_id)
        return vdisk_id

    @contextmanager
    def finishing(self) -> Iterator[Outcome]:
        """Change documents and end the task, both or neither."""
        outcome = Outcome()
        with self.documents.change():
            yield outcome
            self.end(outcome)
        self.new_disks.clear()


def app_message(namespace: str, refusal: RefusedError, severity: str = "ERROR") -> Document:
    """A refusal in the shape that error bodies and tasks share (nutanix-v4 §7)."""
    return {
        "$objectType": f"{namespace}.v4.error.AppMessage",
        "message": refusal.message,
        "severity": severity,
        "code": refusal.code,
        "locale": "en_US",
        "errorGroup": refusal.group,
        "argumentsMap": {"reason": refusal.message},
    }


def _succeeded(document: Document, outcome: Outcome, clock: Clock) -> Document:
    known = {(e["rel"], e["extId"]) for e in outcome.entities}
    before = [e for e in document["entitiesAffected"] if (e["rel"], e["extId"]) not in known]
    entities = [*before, *outcome.entities]
    details = [
        {"$objectType": "common.v1.config.KVPair", "name": name, "value": value}
        for name, value in outcome.details.items()
    ]
    return {
        **_ended(document, "SUCCEEDED", clock),
        "progressPercentage": 100,
        "entitiesAffected": entities,
        "numberOfEntitiesAffected": len(entities),
        "completionDetails": details,
        "warnings": outcome.warnings,
    }


def _ended(document: Document, status: str, clock: Clock) -> Document:
    now = stamp(clock.now())
    return {**document, "status": status, "completedTime": now, "lastUpdatedTime": now}


Perform = Callable[[RunningTask], None]
GiveUp = Callable[[RunningTask], None]


class TaskRunner:
    """Keeps task records and runs them. `submit` belongs inside a change; the rest is thread-safe."""

    def __init__(
        self, documents: Documents, clock: Clock, perform: Perform, give_up: GiveUp
    ) -> None:
        self._documents, self._clock = documents, clock
        self._perform, self._give_up = perform, give_up
        self._due: list[tuple[float, str]] = []
        self._wake = threading.Condition()
        self._is_stopping = False
        self._pool = ThreadPoolExecutor(_PERFORMERS, "simulator-task")
        self._thread = threading.Thread(target=self._loop, name="simulator-tasks", daemon=True)
        clock.on_jump(self._notify)

    def start(self) -> None:
        """Begin, with whatever an earlier run left unfinished."""
        for record in self._documents.all("task"):
            if record.document["status"] not in TERMINAL and not record.private.get("is_stuck"):
                self._schedule(record.ext_id, self._clock.now_s())
        self._thread.start()

    def stop(self) -> None:
        """Let running operations end and leave the others for the next start."""
        with self._wake:
            self._is_stopping = True
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._pool.shutdown(wait=True)

    def submit(
        self,
        operation: str,
        arguments: Document,
        *,
        duration_s: float,
        entities: list[Document],
        cluster_ext_id: str,
        private: Mapping[str, object] | None = None,
    ) -> str:
        """Queue an operation and return the id of its task. Only within a change."""
        ext_id = _ID_PREFIX + str(uuid.uuid4())
        now_s = self._clock.now_s()
        document = _queued(ext_id, operation, entities, cluster_ext_id, self._clock.now())
        hidden = {"arguments": arguments, "ends_s": now_s + duration_s, **(private or {})}
        self._documents.put("task", ext_id, document, hidden)
        self._documents.after_commit(lambda: self._schedule(ext_id, now_s + duration_s * 0.2))
        return ext_id

    def cancel(self, ext_id: str) -> None:
        """Cancel a task that has not begun. RefusedError when it is too late or not possible."""
        with self._documents.change():
            record = self._documents.find("task", ext_id)
            if record is None:
                raise NotFoundError("task", ext_id)
            if record.document["status"] in TERMINAL or not record.document["isCancelable"]:
                raise RefusedError(
                    f"The task {ext_id} cannot be cancelled any more.",
                    status=409,
                    code="TSKS-20902",
                    group="TASK_NOT_CANCELABLE",
                )
            self._documents.put("task", ext_id, _ended(record.document, "CANCELED", self._clock))

    def _schedule(self, ext_id: str, at_s: float) -> None:
        with self._wake:
            heapq.heappush(self._due, (at_s, ext_id))
            self._wake.notify_all()

    def _notify(self) -> None:
        with self._wake:
            self._wake.notify_all()

    def _loop(self) -> None:
        while True:
            with self._wake:
                while not self._is_stopping and (wait_s := self._wait_s()) != 0:
                    self._wake.wait(wait_s)
                if self._is_stopping:
                    return
                _at_s, ext_id = heapq.heappop(self._due)
            self._pool.submit(self._step, ext_id)

    def _wait_s(self) -> float | None:
        """Seconds until something is due; None when nothing is queued, 0 when it is now."""
        if not self._due:
            return None
        return max(0.0, self._due[0][0] - self._clock.now_s())

    def _step(self, ext_id: str) -> None:
        """Take a task one state further; a bug in an operation must not end its thread silently."""
        try:
            record = self._documents.find("task", ext_id)
            if record is not None and record.document["status"] == "QUEUED":
                self._begin(record)
            elif record is not None and record.document["status"] == "RUNNING":
                self._run(record)
        except Exception:
            log.exception("task %s stopped on a bug of the simulator", ext_id)
            self._fail(
                ext_id, RefusedError("The operation hit an internal error.", group="INTERNAL_ERROR")
            )

    def _begin(self, record: Record) -> None:
        now = stamp(self._clock.now())
        with self._documents.change():
            current = self._documents.find("task", record.ext_id)
            if current is None or current.document["status"] != "QUEUED":
                return
            started = {"status": "RUNNING", "startedTime": now, "lastUpdatedTime": now}
            running = {
                **current.document,
                **started,
                "isCancelable": False,
                "progressPercentage": 10,
            }
            self._documents.put("task", record.ext_id, running)
        if not record.private.get("is_stuck"):
            self._schedule(record.ext_id, float(record.private["ends_s"]))

    def _run(self, record: Record) -> None:
        operation = str(record.document["operation"])
        arguments = record.private["arguments"]
        task = RunningTask(
            record.ext_id,
            operation,
            arguments,
            self._documents,
            end=lambda outcome: self._end(record, outcome),
        )
        try:
            if "fails_with" in record.private:
                raise RefusedError(**record.private["fails_with"])
            self._perform(task)
        except RefusedError as refusal:
            self._give_up(task)
            self._fail(record.ext_id, refusal)
        except BaseException:
            self._give_up(task)
            raise

    def _end(self, record: Record, outcome: Outcome) -> None:
        """The work is done; whether its client hears so is another matter."""
        done = _succeeded(record.document, outcome, self._clock)
        self._documents.put("task", record.ext_id, done)
        if "fails_after_with" in record.private:
            self._fail(record.ext_id, RefusedError(**record.private["fails_after_with"]))

    def _fail(self, ext_id: str, refusal: RefusedError) -> None:
        with self._documents.change():
            record = self._documents.find("task", ext_id)
            if record is None:
                return
            failed = _ended(record.document, "FAILED", self._clock)
            told = str(record.private.get("tells", "task"))
            failed |= _failure_texts(told, refusal)
            if told == "subtask":
                failed["subTasks"] = [self._add_failed_subtask(record, refusal)]
                failed["numberOfSubtasks"] = 1
            self._documents.put("task", ext_id, failed)

    def _add_failed_subtask(self, parent: Record, refusal: RefusedError) -> Document:
        """A sub-task that holds the cause which its parent keeps to itself."""
        ext_id = _ID_PREFIX + str(uuid.uuid4())
        now = self._clock.now()
        cluster = parent.document["clusterExtIds"][0]
        document = _queued(ext_id, parent.document["operation"], [], cluster, now)
        reference = {"$objectType": "prism.v4.config.TaskReferenceInternal", "extId": parent.ext_id}
        document |= {
            "parentTask": reference,
            "rootTask": reference,
            **_failure_texts("task", refusal),
        }
        # It is remembered as long as its parent: a task without a time is taken for an old one.
        private = {"ends_s": parent.private["ends_s"]}
        self._documents.put("task", ext_id, _ended(document, "FAILED", self._clock), private)
        return {**reference, "extId": ext_id, "rel": "subtask"}


def _failure_texts(told: str, refusal: RefusedError) -> Document:
    """Where a failed task says why: in its messages, in the legacy text only, or nowhere (§9)."""
    if told == "nothing":
        return {}
    if told == "legacy":
        return {"errorMessages": [], "legacyErrorMessage": refusal.message}
    if told == "subtask":
        general = RefusedError("The operation failed.", code="PLAT-50000", group="INTERNAL_ERROR")
        return {"errorMessages": [app_message("prism", general)]}
    return {
        "errorMessages": [app_message("prism", refusal)],
        "legacyErrorMessage": refusal.message,
    }


def _queued(
    ext_id: str, operation: str, entities: list[Document], cluster_ext_id: str, now: datetime
) -> Document:
    created = stamp(now.astimezone(UTC))
    return {
        "$objectType": "prism.v4.config.Task",
        "extId": ext_id,
        "operation": operation,
        "operationDescription": operation,
        "createdTime": created,
        "lastUpdatedTime": created,
        "status": "QUEUED",
        "progressPercentage": 0,
        "entitiesAffected": entities,
        "numberOfEntitiesAffected": len(entities),
        "numberOfSubtasks": 0,
        "isCancelable": True,
        "isBackgroundTask": False,
        "ownedBy": {
            "$objectType": "prism.v4.config.OwnerReference",
            "extId": "00000000-0000-0000-0000-000000000000",
            "name": "admin",
        },
        "clusterExtIds": [cluster_ext_id],
    }
