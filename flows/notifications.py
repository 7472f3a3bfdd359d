"""Who hears of a session: Prefect's automations, which send through a notification block (P1-P3).

Each kind is one automation. It fires once per session, on the state in which the session's run ends:
tries of single VMs happen inside the session, so what is sent is what was left after the last of
them. Late backups come from the event of the `check-rpo` flow, never from failed runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from uuid import UUID

from prefect.automations import Automation
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import get_client
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound

from tasks import LATE_EVENT, RECOVERED_EVENT

WEBHOOK_NAME = "ahvault"
PREFIX = "ahvault: "

_SESSION_FLOWS = ["backup", "restore-vm"]
_UPKEEP_FLOWS = ["retention", "collect", "verify", "clean-up"]
"""`check-rpo` is not among them: it is red as long as somebody is late, and has its own event."""

_RUN_BODY = "{{ flow_run.state.message }}\n\n{{ flow_run|ui_url }}"


class NotifyOn(StrEnum):
    """What somebody can be told of."""

    FAILURE = "failure"
    """A session or a maintenance flow failed, crashed, or was not finished in time."""
    WARNING = "warning"
    """A session ended with warnings, or was stopped."""
    LATE = "late"
    """VMs have no good restore point that is young enough for the RPO, or have one again."""
    SUCCESS = "success"
    """A session succeeded."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """Which events are told, and how."""

    name: str
    expect: frozenset[str]
    flows: tuple[str, ...]
    subject: str
    body: str


_RULES = {
    NotifyOn.FAILURE: _Rule(
        "a session or maintenance failed",
        frozenset(
            {
                "prefect.flow-run.Failed",
                "prefect.flow-run.Crashed",
                "prefect.flow-run.TimedOut",
            }
        ),
        (*_SESSION_FLOWS, *_UPKEEP_FLOWS),
        "ahvault: {{ flow_run.name }} {{ flow_run.state.name | lower }}",
        _RUN_BODY,
    ),
    NotifyOn.WARNING: _Rule(
        "a session ended with warnings",
        frozenset({"prefect.flow-run.Warning", "prefect.flow-run.Stopped"}),
        tuple(_SESSION_FLOWS),
        "ahvault: {{ flow_run.name }} {{ flow_run.state.name | lower }}",
        _RUN_BODY,
    ),
    NotifyOn.SUCCESS: _Rule(
        "a session succeeded",
        frozenset({"prefect.flow-run.Completed"}),
        tuple(_SESSION_FLOWS),
        "ahvault: {{ flow_run.name }} succeeded",
        _RUN_BODY,
    ),
    NotifyOn.LATE: _Rule(
        "backups are late",
        frozenset({LATE_EVENT, RECOVERED_EVENT}),
        (),
        "ahvault: {{ event.resource.name }} {{ event.event.split('.') | last }}",
        "{{ event.payload.message }}",
    ),
}


def describe_automations(block_id: UUID, kinds: Iterable[NotifyOn]) -> list[Automation]:
    """The automations that send these kinds through a notification block."""
    return [_automation(_RULES[kind], block_id) for kind in kinds]


def install_notifications(block_id: UUID, kinds: Sequence[NotifyOn]) -> list[str]:
    """Make the server send these kinds, and no others of ours; returns the automations' names.

    Installing again replaces what was installed before; nobody else's automation is touched.
    """
    remove_notifications()
    automations = describe_automations(block_id, kinds)
    for automation in automations:
        automation.create()
    return [automation.name for automation in automations]


def remove_notifications() -> list[str]:
    """Take our automations off the server; returns the names of those that were there."""
    ours = {PREFIX + rule.name for rule in _RULES.values()}
    with get_client(sync_client=True) as client:
        found = [each for name in sorted(ours) for each in client.read_automations_by_name(name)]
        for each in found:
            client.delete_automation(each.id)
    return [each.name for each in found]


def save_webhook(url: str) -> UUID:
    """A notification block that posts `{"subject": ..., "body": ...}` to a URL; returns its id."""
    block = CustomWebhookNotificationBlock(
        name=WEBHOOK_NAME,
        url=url,
        method="POST",
        json_data={"subject": "{{subject}}", "body": "{{body}}"},
    )
    return UUID(str(block.save(WEBHOOK_NAME, overwrite=True)))


def find_block(slug: str) -> UUID | None:
    """The id of a saved block, written `TYPE/NAME`; None if there is none."""
    kind, _, name = slug.partition("/")
    with get_client(sync_client=True) as client:
        try:
            return client.read_block_document_by_name(name, kind).id
        except ObjectNotFound:
            return None


def _automation(rule: _Rule, block_id: UUID) -> Automation:
    return Automation(
        name=PREFIX + rule.name,
        description="Installed by `ahvault notifications install`.",
        trigger=EventTrigger(
            expect=set(rule.expect),
            match=ResourceSpecification(
                {
                    "prefect.resource.id": "prefect.flow-run.*"
                    if rule.flows
                    else "ahvault.repository.*"
                }
            ),
            match_related=ResourceSpecification(
                {"prefect.resource.role": "flow", "prefect.resource.name": list(rule.flows)}
                if rule.flows
                else {}
            ),
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[
            SendNotification(block_document_id=block_id, subject=rule.subject, body=rule.body)
        ],
    )
