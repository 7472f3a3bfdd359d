"""What a job decides besides its scope: consistency, times, limits, retries, hooks. Forms and files show these."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from jobs.week import WeeklyTimes

Consistency = Literal["crash", "application"]
IfNotConsistent = Literal["fail", "warn", "accept"]


class _Policy(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BackupWindow(WeeklyTimes):
    """When data may move (J3). Outside it no VM starts."""

    at_the_edge: Annotated[
        Literal["finish", "stop"],
        Field(
            title="When it closes",
            description="`finish`: VMs that are running end well. `stop`: they are stopped; the next run "
            "goes on from what they have stored.",
        ),
    ] = "finish"


class TransferLimits(WeeklyTimes):
    """The job's own limit of speed, for all its transfers together. Rules of the site hold besides it."""

    mbit_per_s: Annotated[
        float | None,
        Field(
            gt=0,
            le=1_000_000,
            title="Megabits per second",
            description="Limit while its times hold; 1 Mbit is 1,000,000 bits. Empty: no limit.",
        ),
    ] = None
    otherwise_mbit_per_s: Annotated[
        float | None,
        Field(
            gt=0,
            le=1_000_000,
            title="Megabits per second otherwise",
            description="Limit at all other times. Empty: none.",
        ),
    ] = None


class RetryPolicy(_Policy):
    """What a session does about VMs that failed: they alone are tried again, in the same session (J4, J6)."""

    times: Annotated[
        int,
        Field(
            ge=0,
            le=20,
            title="Retries",
            description="How often the VMs that failed are tried again. 0: not at all.",
        ),
    ] = 3
    wait_minutes: Annotated[
        float,
        Field(
            ge=0, le=1440, title="Minutes before a retry", description="Pause before each retry."
        ),
    ] = 10
    started_by_hand: Annotated[
        bool,
        Field(
            title="Also when started by hand",
            description="Retry in sessions that somebody started, too. By default only those of a "
            "schedule wait and try again.",
        ),
    ] = False


class Hook(_Policy):
    """A program that is run on the machine of the session. No shell: the words are passed as they are."""

    command: Annotated[
        tuple[Annotated[str, StringConstraints(min_length=1, max_length=4096)], ...],
        Field(
            min_length=1,
            max_length=64,
            description="The program with its full path, then its arguments, one per entry.",
        ),
    ]
    timeout_s: Annotated[
        float,
        Field(
            gt=0,
            le=86_400,
            title="Timeout in seconds",
            description="After this long the program is ended, and counts as failed.",
        ),
    ] = 300

    @field_validator("command")
    @classmethod
    def _names_a_path(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not PurePath(value[0]).is_absolute():
            raise ValueError(
                f"give the full path of the program, as in [/usr/local/bin/prepare, --all]; got {value[0]!r}"
            )
        if any("\0" in word for word in value):
            raise ValueError("a word of a command cannot hold a NUL character")
        return value


class BeforeHook(Hook):
    """A program that is run before the session."""

    if_it_fails: Annotated[
        Literal["stop", "warn"],
        Field(
            title="If it fails",
            description="`stop`: no VM is started, and the session fails. `warn`: the session goes "
            "on, with a warning.",
        ),
    ] = "stop"


class Hooks(_Policy):
    """Programs around the session, such as one that mounts the repository, or tells a ticket system."""

    before: Annotated[
        BeforeHook | None, Field(description="Run before the first VM, once the session is ready.")
    ] = None
    after: Annotated[
        Hook | None,
        Field(
            description="Run after the last VM and the last retry, whatever the result; a failure is a warning."
        ),
    ] = None


class CircuitBreaker(_Policy):
    """When a session stops starting VMs, because they all fail of one cause."""

    failures_in_a_row: Annotated[
        int,
        Field(
            ge=0,
            le=10_000,
            title="Failures in a row",
            description="After this many VMs in a row have failed of the same cause, no further VM "
            "starts. 0: never.",
        ),
    ] = 5
    percent_of_vms: Annotated[
        int,
        Field(
            ge=0,
            le=100,
            title="Percent of all VMs",
            description="The same once this share of the session's VMs, and three at least, have "
            "failed of the same cause. 0: never.",
        ),
    ] = 0


class SpaceLimits(_Policy):
    """How little free space is too little (P4). Looked at before any snapshot (S2)."""

    container_warn_percent: Annotated[
        float,
        Field(
            ge=0,
            le=100,
            title="Storage container: warn below, %",
            description="A VM whose storage container has less free than this gets a warning.",
        ),
    ] = 10.0
    container_skip_percent: Annotated[
        float,
        Field(
            ge=0,
            le=100,
            title="Storage container: skip below, %",
            description="A VM whose storage container has less free than this gets no snapshot; it "
            "counts as failed, with the reason.",
        ),
    ] = 5.0
    repository_warn_percent: Annotated[
        float,
        Field(
            ge=0,
            le=100,
            title="Repository: warn below, %",
            description="Free space of the repository below which the session warns. Only a "
            "repository in a directory can say how much is free.",
        ),
    ] = 10.0
