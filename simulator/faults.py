"""What goes wrong and when, as data: a plan of faults that a seed makes repeatable.

A plan is a list of faults; each says where it strikes (`match`), on which of the matching occasions
(`nth`, `every`, `probability`, at most `times`), and what happens instead of the honest thing (`kind`).
For faults that falsify an answer, an occasion is an answer that arrives and that they would change.
The HTTP skin, the tasks and the device folders ask the player; this file does nothing by itself.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from simulator.errors import BadFaultPlanError


class Match(BaseModel):
    """Where a fault strikes. Patterns are those of file names; what is not given matches everything.

    `path` is the part below `/api/<namespace>/<version>`, `operation` the name of a task's operation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    side: Literal["central", "element"] | None = None
    method: str = "*"
    path: str = "*"
    operation: str = "*"
    vm: str = "*"


class Fault(BaseModel):
    """When a fault strikes, among the occasions that match: all of them if nothing is said."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    match: Match = Match()
    nth: tuple[int, ...] = ()
    every: Annotated[int, Field(ge=1)] = 1
    probability: Annotated[float, Field(ge=0, le=1)] = 1.0
    times: int | None = None


class Status(Fault):
    """An error status instead of an answer. `body` as gateways send it, or with an error group."""

    kind: Literal["status"]
    status: Annotated[int, Field(ge=300, le=599)]
    retry_after_s: int | None = None
    body: Literal["error", "empty", "html", "bare"] = "error"
    group: str = "INTERNAL_ERROR"


class Dropped(Fault):
    """The connection breaks. With `is_done` the work was done and only its answer is lost."""

    kind: Literal["dropped"]
    is_done: bool = False


class Half(Fault):
    """The connection breaks in the middle of the body of an honest answer."""

    kind: Literal["half"]


class Slow(Fault):
    """The answer takes its time."""

    kind: Literal["slow"]
    delay_s: Annotated[float, Field(ge=0, le=600)]


class StaleTag(Fault):
    """The entity changed under the client: 412, or a task that fails with VMM-30303."""

    kind: Literal["stale_tag"]
    shows_as: Literal["status", "task"] = "status"


class Redirect(Fault):
    """302 to the same place, with a token that becomes the cookie of the second request (§8)."""

    kind: Literal["redirect"]


class WrongScope(Fault):
    """discover-cluster hands out a token for another version of the path than the one asked in."""

    kind: Literal["wrong_scope"]
    minor: int = 0


class BadRegions(Fault):
    """A page of changed regions that must not be believed."""

    kind: Literal["bad_regions"]
    how: Literal["truncated", "misordered", "overlapping", "beyond_end", "looping", "no_size"]


class TaskTrouble(Fault):
    """A task that fails, hangs, or takes long; `tells` says where the cause is told (§9)."""

    kind: Literal["task"]
    outcome: Literal["fails", "fails_after_work", "stuck", "slow"]
    tells: Literal["task", "subtask", "legacy", "nothing"] = "task"
    message: str = "The operation failed for a reason of its own."
    code: str = "PLAT-50000"
    group: str = "INTERNAL_ERROR"
    delay_s: float = 5.0


class WireTrouble(Fault):
    """A command of an initiator fails, or its connection breaks; `match.path` is the target's name."""

    kind: Literal["iscsi"]
    how: Literal["dropped", "medium_error", "busy"]


class NoDevice(Fault):
    """Disks attached to a worker never show up in its device folder."""

    kind: Literal["no_device"]


RequestFault = Status | Dropped | Half | Slow | StaleTag | Redirect
AnswerFault = WrongScope | BadRegions
AnyFault = Annotated[
    RequestFault | AnswerFault | TaskTrouble | NoDevice | WireTrouble, Field(discriminator="kind")
]


class FaultPlan(BaseModel):
    """Faults with the seed that decides their chances."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    faults: tuple[AnyFault, ...] = ()


def load_plan(path: Path) -> FaultPlan:
    """Read a plan from a JSON file. BadFaultPlanError names the first thing that is wrong."""
    try:
        return FaultPlan.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise BadFaultPlanError(str(path), _first_reason(error)) from error


def parse_plan(plan: dict[str, Any]) -> FaultPlan:
    """The same from a JSON object."""
    try:
        return FaultPlan.model_validate(plan)
    except ValidationError as error:
        raise BadFaultPlanError("the request", _first_reason(error)) from error


def _first_reason(error: OSError | ValidationError) -> str:
    if isinstance(error, OSError):
        return str(error)
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


Answer = TypeVar("Answer")


class FaultPlayer:
    """Counts occasions and says which faults strike. Thread-safe.

    With several threads asking, the order of their occasions is theirs; the draws per fault are the seed's.
    """

    def __init__(self, plan: FaultPlan | None = None) -> None:
        self._lock = threading.Lock()
        self.change(plan or FaultPlan())

    def change(self, plan: FaultPlan) -> None:
        """Begin anew with another plan."""
        with self._lock:
            self._plan = plan
            self._draws = [random.Random(f"{plan.seed}/{i}") for i in range(len(plan.faults))]
            self._seen = [0] * len(plan.faults)
            self._struck = [0] * len(plan.faults)

    def struck(self) -> list[int]:
        """How often each fault of the plan has struck so far, in the order of the plan."""
        with self._lock:
            return list(self._struck)

    def for_request(self, side: str, method: str, path: str) -> list[RequestFault]:
        """Faults that strike this request, in the order of the plan."""
        kinds = (Status, Dropped, Half, Slow, StaleTag, Redirect)
        found = self._strike(kinds, lambda f: _fits(f.match, side, method, path))
        return [f for f in found if isinstance(f, kinds)]

    def for_answer(
        self,
        side: str,
        method: str,
        path: str,
        answer: Answer,
        falsified: Callable[[AnswerFault, Answer], Answer],
    ) -> Answer:
        """An honest answer as the faults of the plan leave it, each after those before it.

        `falsified` returns what a fault makes of an answer, without changing that one.
        """
        with self._lock:
            for index, fault in enumerate(self._plan.faults):
                if isinstance(fault, AnswerFault) and _fits(fault.match, side, method, path):
                    changed = falsified(fault, answer)
                    if changed != answer and self._is_due(index, fault):
                        answer = changed
        return answer

    def for_task(self, operation: str) -> TaskTrouble | None:
        """The trouble that a new task is in, or None."""
        found = self._strike((TaskTrouble,), lambda f: fnmatchcase(operation, f.match.operation))
        return next((f for f in found if isinstance(f, TaskTrouble)), None)

    def for_command(self, target: str) -> Literal["dropped", "medium_error", "busy"] | None:
        """What happens to the next command of a session with an iSCSI target, or None."""
        found = self._strike((WireTrouble,), lambda f: fnmatchcase(target, f.match.path))
        return next((f.how for f in found if isinstance(f, WireTrouble)), None)

    def hides_devices(self, vm_name: str) -> bool:
        """Whether what is attached to this worker stays invisible this time."""
        return bool(self._strike((NoDevice,), lambda f: fnmatchcase(vm_name, f.match.vm)))

    def _strike(
        self, kinds: tuple[type[Fault], ...], matches: Callable[[Fault], bool]
    ) -> list[Fault]:
        with self._lock:
            rows = [(i, f) for i, f in enumerate(self._plan.faults) if isinstance(f, kinds)]
            return [fault for i, fault in rows if matches(fault) and self._is_due(i, fault)]

    def _is_due(self, index: int, fault: Fault) -> bool:
        self._seen[index] += 1
        seen = self._seen[index]
        is_due = seen in fault.nth if fault.nth else seen % fault.every == 0
        # The draw happens on every occasion, so that a limit does not shift later ones.
        is_due &= self._draws[index].random() < fault.probability
        if not is_due or (fault.times is not None and self._struck[index] >= fault.times):
            return False
        self._struck[index] += 1
        return True


def _fits(match: Match, side: str, method: str, path: str) -> bool:
    side_fits = match.side in (None, side)
    return side_fits and fnmatchcase(method, match.method) and fnmatchcase(path, match.path)
