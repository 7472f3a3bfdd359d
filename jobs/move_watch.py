"""The control side's watch over a move: dead, or only slow? (`prefect-notes §4.3`).

What Prefect says of the mover's run is a hint: `Crashed` may be false, and a lost host is `Running` for
ever. What counts are the mover's own signs of life. Silence is measured on this side's clock, so that
the worker's clock does not matter.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from jobs.errors import SessionStopped, WorkerLost
from jobs.moves import FENCE_S, MoveResult, Moves, MoveSign
from jobs.session import Session
from jobs.stops import TransferStop
from jobs.story import VmStory
from repository import Clock, RepositoryError, TransferCounters, TransferFigures

log = logging.getLogger(__name__)

LOOK_PERIOD_S = 2.0


class RunPhase(StrEnum):
    """What Prefect says of the mover's flow run."""

    UNKNOWN = "unknown"
    """The Prefect server did not answer."""
    WAITING = "waiting"
    STRANDED = "stranded"
    """It waits on a queue that no Prefect worker polls any more."""
    RUNNING = "running"
    OVER = "over"
    """Completed, failed, crashed or cancelled, as far as Prefect knows."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long what is borne, in seconds."""

    begin_s: float = 180.0
    """Until the first sign: a Prefect worker polls, then a process starts and imports."""
    silence_s: float = 90.0
    """Without a new sign, while Prefect takes the run for alive."""
    doubt_s: float = 15.0
    """Without a new sign, when Prefect takes the run for over."""
    store_s: float = 600.0
    """Without the repository to read the signs from."""


class LifeJudge:
    """Tells from signs and Prefect's word whether a mover is to be given up."""

    def __init__(self, now_s: float, patience: Patience) -> None:
        self._patience = patience
        self._number = 0
        self._heard_s = now_s
        self._over_s: float | None = None

    def judge(self, now_s: float, sign: MoveSign | None, phase: RunPhase) -> str | None:
        """Why the mover is given up, or `None` to go on waiting."""
        if sign is not None and sign.number != self._number:
            self._number, self._heard_s = sign.number, now_s
        if phase is not RunPhase.OVER:
            self._over_s = None
        elif self._over_s is None:
            self._over_s = now_s
        silent_s = now_s - self._heard_s
        patience = self._patience
        if self._over_s is not None and min(silent_s, now_s - self._over_s) > patience.doubt_s:
            return f"its process ended without a result, and is silent for {silent_s:.0f} s"
        if self._number == 0:
            if phase is RunPhase.STRANDED:
                return "no Prefect worker polls its queue any more"
            if silent_s > patience.begin_s:
                return f"no process on it has begun within {silent_s:.0f} s"
            return None
        if silent_s > patience.silence_s:
            return f"its process has given no sign of life for {silent_s:.0f} s"
        return None

    def unreadable(self, lost_s: float) -> str | None:
        """Why the mover is given up while the signs cannot be read; such time is no silence."""
        if lost_s > self._patience.store_s:
            return f"the repository could not be read for {lost_s:.0f} s"
        return None

    def excuse(self, seconds: float) -> None:
        """Time in which nobody could listen."""
        self._heard_s += seconds


def await_move(
    session: Session,
    story: VmStory,
    move_id: str,
    worker: str,
    *,
    stop: TransferStop,
    ask_phase: Callable[[], RunPhase],
    wait: Callable[[float], Any],
    patience: Patience = Patience(),
) -> MoveResult:
    """Wait until the mover has ended, and return what it delivered; progress goes to `story`.

    `stop` is that of the attachment, which also tells when the worker's VM was lost.

    Raises `WorkerLost` when the mover is dead or has delivered nothing, `SessionStopped` when the
    session is to stop. On every way out the grant is withdrawn and no mover has a disk open any more,
    or `FENCE_S` have passed. Its records stay; the caller forgets them.
    """
    moves, clock = Moves(session.repository.live), session.clock
    told = _Told(story)
    try:
        why = _watch(session, moves, move_id, stop, told, ask_phase, wait, patience)
    finally:
        _end(moves, move_id, clock, wait)
        result = _last_word(moves, move_id)
        told.disks_are_over()
    if result is not None and why is None:
        return result
    raise WorkerLost(worker, why or "its process ended without a result")


def _watch(
    session: Session,
    moves: Moves,
    move_id: str,
    stop: TransferStop,
    told: _Told,
    ask_phase: Callable[[], RunPhase],
    wait: Callable[[float], Any],
    patience: Patience,
) -> str | None:
    """Until the mover has ended (`None`), or is given up (why)."""
    clock = session.clock
    judge = LifeJudge(clock.monotonic_s(), patience)
    read_s = clock.monotonic_s()
    while True:
        if session.stop.is_set():
            raise SessionStopped("it was interrupted while a worker moved the disks")
        if stop.lost is not None:
            return stop.lost
        now_s = clock.monotonic_s()
        try:
            sign = moves.sign(move_id)
        except RepositoryError as error:
            log.warning("The signs of life of move %s could not be read: %s", move_id, error)
            why = judge.unreadable(now_s - read_s)
            judge.excuse(LOOK_PERIOD_S)
        else:
            read_s = now_s
            if sign is not None:
                told.tell(sign)
                if sign.has_ended:
                    return None
            why = judge.judge(now_s, sign, ask_phase())
        if why is not None:
            return why
        wait(LOOK_PERIOD_S)


def _end(moves: Moves, move_id: str, clock: Clock, wait: Callable[[float], Any]) -> None:
    """Withdraw the grant, then wait until the mover has ended, has never begun, or is fenced."""
    started_s = clock.monotonic_s()
    is_withdrawn = False
    while clock.monotonic_s() - started_s <= FENCE_S:
        try:
            if not is_withdrawn:
                moves.withdraw(move_id)
                is_withdrawn, started_s = True, clock.monotonic_s()
            sign = moves.sign(move_id)
            if sign is None or sign.has_ended:
                return
        except RepositoryError as error:
            log.warning("Move %s could not be withdrawn yet: %s", move_id, error)
        wait(1.0)


def _last_word(moves: Moves, move_id: str) -> MoveResult | None:
    try:
        return moves.result(move_id)
    except RepositoryError as error:
        log.warning("The result of move %s could not be read: %s", move_id, error)
        return None


class _Told:
    """Passes on what a mover tells in its signs, each thing once."""

    def __init__(self, story: VmStory) -> None:
        self._story = story
        self._counters: dict[str, TransferCounters] = {}
        self._warned = 0

    def tell(self, sign: MoveSign) -> None:
        """Warnings that are new, and how far the disks have come."""
        for warning in sign.warnings[self._warned :]:
            self._story.warn(warning)
        self._warned = max(self._warned, len(sign.warnings))
        for disk in sign.disks:
            counters = self._counters.get(disk.disk_id)
            if counters is None:
                counters = self._counters[disk.disk_id] = self._story.disk_started(
                    disk.disk_id, disk.label, disk.to_read_bytes
                )
            for name in TransferFigures.model_fields:
                setattr(counters, name, getattr(disk.figures, name))

    def disks_are_over(self) -> None:
        """No disk moves any more."""
        for disk_id in self._counters:
            self._story.disk_finished(disk_id)
