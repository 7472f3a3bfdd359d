"""The cluster's asynchronous work, which its API calls tasks (`nutanix-v4 §9`)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from nutanix.errors import ClusterMessage
from nutanix.models.wire import ManyOf, WireModel

TERMINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELED"})


class WireMessage(WireModel):
    """An `AppMessage` inside a task. Gateways send codes as numbers."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    message: str = ""
    code: str | None = None
    error_group: str | None = None
    severity: str | None = None

    def typed(self) -> ClusterMessage:
        """The same, as errors carry it."""
        return ClusterMessage(self.message or "no text", self.code, self.error_group)


class AffectedEntity(WireModel):
    """One object that an operation made or touched. `rel` says what kind; order means nothing."""

    id: str = Field(alias="extId")
    rel: str | None = None


class _Detail(WireModel):
    name: str
    value: Any = None


class _SubTask(WireModel):
    id: str = Field(alias="extId")


class Operation(WireModel):
    """One asynchronous operation as it stands."""

    id: str = Field(alias="extId")
    kind: str | None = Field(default=None, alias="operation")
    status: str = "$UNKNOWN"
    progress_percent: int | None = Field(default=None, alias="progressPercentage")
    entities: Annotated[tuple[AffectedEntity, ...], ManyOf] = Field(
        default=(), alias="entitiesAffected"
    )
    completion_details: Annotated[tuple[_Detail, ...], ManyOf] = ()
    error_messages: Annotated[tuple[WireMessage, ...], ManyOf] = ()
    legacy_error_message: str | None = None
    sub_tasks: Annotated[tuple[_SubTask, ...], ManyOf] = ()

    @property
    def is_terminal(self) -> bool:
        """Whether it ended. `SUSPENDED` did not: only a deadline ends that wait."""
        return self.status in TERMINAL

    def detail(self, name: str) -> str | None:
        """A completion detail by name."""
        return next(
            (str(each.value) for each in self.completion_details if each.name == name), None
        )

    def entity_ids(self, *rels: str) -> tuple[str, ...]:
        """Ids of the affected entities of these kinds, each once."""
        return tuple(dict.fromkeys(each.id for each in self.entities if each.rel in rels))

    def messages(self) -> tuple[ClusterMessage, ...]:
        """Why it failed, as far as this operation itself says; sub-tasks may know more."""
        said = [message.typed() for message in self.error_messages]
        if not said and self.legacy_error_message:
            said = [ClusterMessage(self.legacy_error_message)]
        return tuple(said)
