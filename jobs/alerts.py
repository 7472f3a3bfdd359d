"""Who is told of late VMs, and how often: once when a VM becomes late, and once a day while it lasts.

A check that runs every hour would otherwise send the same message every hour, and nobody reads the
twelfth. What was told last is remembered in the repository, so that it does not matter which
machine checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, ValidationError

from jobs.status import StatusReport
from repository import LiveRecords

ALERTS, LATE = "alerts", "late"
REMIND_AFTER = timedelta(hours=24)


class Told(BaseModel):
    """The last message about late VMs."""

    model_config = ConfigDict(frozen=True)

    at: datetime
    vms: tuple[str, ...]
    """`JOB/VM-ID` of each VM that was late then."""


class Alert(StrEnum):
    """What there is to tell now."""

    NOTHING = "nothing"
    LATE = "late"
    RECOVERED = "recovered"


@dataclass(frozen=True, slots=True)
class AlertPlan:
    """What to tell, and the record to leave once it was told; None: the record goes."""

    alert: Alert
    told: Told | None


def plan_alert(last: Told | None, report: StatusReport) -> AlertPlan:
    """Decide from the last message and the status now. Pure."""
    late = tuple(sorted(f"{vm.job}/{vm.vm_id or vm.vm_name}" for vm in report.breaches))
    if not late:
        return AlertPlan(Alert.NOTHING if last is None else Alert.RECOVERED, None)
    if last is not None and set(late) <= set(last.vms) and report.now - last.at < REMIND_AFTER:
        # Those that recovered leave the record, so that they are told of if they are late again.
        return AlertPlan(Alert.NOTHING, Told(at=last.at, vms=late))
    return AlertPlan(Alert.LATE, Told(at=report.now, vms=late))


def last_told(records: LiveRecords) -> Told | None:
    """The last message; None if nobody is known to be late, or the record makes no sense any more."""
    record = records.get(ALERTS, LATE)
    try:
        return None if record is None else Told.model_validate(record)
    except ValidationError:
        return None


def remember_told(records: LiveRecords, told: Told | None) -> None:
    """Keep what was told for the next check."""
    if told is None:
        records.delete(ALERTS, LATE)
    else:
        records.put(ALERTS, LATE, told.model_dump(mode="json"))
