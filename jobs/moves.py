"""What the control side and a mover tell each other about one move, beside the repository.

A move is the transfer of one VM's disks by a process on the worker that they are attached to. Only
its key travels through Prefect; everything else lies here, in `live/`:

    move-plans    what to move, written once by the control side, before the grant
    move-grants   exists while the mover may work; the control side withdraws it by deleting it
    move-signs    the mover's signs of life, numbered, with its progress
    move-results  what came of it, written once by the mover, before its last sign

Why two movers of one VM can never make a wrong restore point:

- A mover commits nothing. It stores chunks under the names of their content, maps under random names,
  and its result under the key of its own move. The control side alone commits, from the result of
  exactly one move, the one whose grant stands; a result that comes later is never read.
- A move is carried out once: a mover that finds a sign of another process under its key ends.
- Whatever is stored for nothing is garbage like that of any interrupted session, or is used again.

Why the disks are not taken away under a mover that still reads:

- The mover writes its first sign, then reads its grant, and only then opens a disk. The control side
  withdraws the grant, then reads the sign. So either it sees the sign, or the mover sees no grant.
- A mover reads its grant every few seconds. It stops when the grant is gone, and also when it could not
  read it for `GRANT_LIFE_S`: that long after a withdrawal, every mover has ended or is about to, cut
  off or not. The control side waits for the mover's last sign, or for `FENCE_S`.

Why what a mover stored is safe from collection before the control side commits (`repository.collect`):
it writes under the session's id, and the session's own lease, older than the mover's, lasts until the
commit. A plan spares the packs of a session with a lease, no sweep is decided meanwhile, and a disk
record that is older than the newest plan is checked at the commit whoever wrote it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Set
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from jobs.errors import MoveWithdrawn
from jobs.leases import process_token, this_machine
from repository import Clock, DamagedObject, DiskRecord, Extent, LiveRecords, TransferFigures

PLANS, GRANTS, SIGNS, RESULTS = "move-plans", "move-grants", "move-signs", "move-results"

SIGN_PERIOD_S = 5.0
"""How often a mover reads its grant and shows that it lives."""
GRANT_LIFE_S = 30.0
"""A mover that could not read its grant for this long stops."""
FENCE_S = GRANT_LIFE_S + 10.0
"""This long after the grant was withdrawn no mover reads or writes a disk any more."""


class DiskSign(BaseModel):
    """How far one disk has come."""

    model_config = ConfigDict(frozen=True)

    disk_id: str
    label: str
    to_read_bytes: int
    figures: TransferFigures


class MoveSign(BaseModel):
    """A mover's sign of life. It lives as long as `number` grows."""

    model_config = ConfigDict(frozen=True)

    number: int
    at: datetime
    mover: str
    """Names the process: machine and flow run."""
    machine: str = ""
    process: str = ""
    """The process itself, where its id means something: as in the leases of sessions."""
    has_ended: bool = False
    """No disk is open any more, and the result, if there is one, is stored."""
    disks: tuple[DiskSign, ...] = ()
    warnings: tuple[str, ...] = ()


class MoveResult(BaseModel):
    """What came of a move: the disks that are done, and why that is not all, if so."""

    model_config = ConfigDict(frozen=True)

    records: dict[int, DiskRecord] = {}
    """By the disk's place; the disks of a backup only."""
    done: tuple[int, ...] = ()
    """Places of the disks that are done."""
    error: str | None = None
    elsewhere: bool = True
    """Whether another worker may succeed where this one failed."""
    damaged: dict[str, tuple[tuple[int, int], ...]] = {}
    """By disk id, the ranges that a restore which allows damage left as zeros."""

    def damaged_extents(self) -> dict[str, list[Extent]]:
        """The same as extents."""
        return {
            disk_id: [Extent(start, end) for start, end in ranges]
            for disk_id, ranges in self.damaged.items()
        }


class Moves:
    """The records of all moves of one repository. Thread-safe; raises the store's errors."""

    def __init__(self, records: LiveRecords) -> None:
        self._records = records

    def hand_out(self, move_id: str, plan: Mapping[str, Any]) -> None:
        """Store the plan and grant the move; durable on return."""
        self._records.put(PLANS, move_id, plan)
        self._records.put(GRANTS, move_id, {})

    def plan(self, move_id: str) -> dict[str, Any]:
        """The plan of a move, as stored; raises `MoveWithdrawn` when it is gone."""
        plan = self._records.get(PLANS, move_id)
        if plan is None:
            raise MoveWithdrawn(move_id)
        return plan

    def is_granted(self, move_id: str) -> bool:
        """Whether the mover may still work."""
        return self._records.get(GRANTS, move_id) is not None

    def withdraw(self, move_id: str) -> None:
        """The mover may work no more; durable on return, heeded within `FENCE_S`."""
        self._records.delete(GRANTS, move_id)

    def put_sign(self, move_id: str, sign: MoveSign) -> None:
        """Show that the mover lives."""
        self._records.put(SIGNS, move_id, sign.model_dump(mode="json"))

    def sign(self, move_id: str) -> MoveSign | None:
        """The mover's last sign; `None` before the first. Raises DamagedObject for one that is torn."""
        record = self._records.get(SIGNS, move_id)
        return None if record is None else MoveSign.model_validate(record)

    def tell_the_death_of(self, move_id: str) -> bool:
        """Write the last sign of a mover of this machine whose process is gone; false if it is not.

        Spares the session the wait until the silence is sure.
        """
        sign = self.sign(move_id)
        if sign is None or sign.has_ended or sign.machine != this_machine():
            return False
        if process_token(int(sign.process.partition("@")[0] or 0)) == sign.process:
            return False
        last = sign.model_copy(update={"number": sign.number + 1, "has_ended": True})
        self.put_sign(move_id, last)
        return True

    def put_result(self, move_id: str, result: MoveResult) -> None:
        """Deliver what came of the move."""
        self._records.put(RESULTS, move_id, result.model_dump(mode="json"))

    def result(self, move_id: str) -> MoveResult | None:
        """What came of the move, once its mover has delivered it."""
        record = self._records.get(RESULTS, move_id)
        return None if record is None else MoveResult.model_validate(record)

    def forget(self, move_id: str) -> None:
        """The move is over: nothing of it is needed any more. The grant goes first."""
        for kind in (GRANTS, PLANS, RESULTS, SIGNS):
            self._records.delete(kind, move_id)

    def of_session(self, session_id: str) -> list[str]:
        """The moves of one session of which anything is still there."""
        return [move_id for move_id in self.all() if session_of(move_id) == session_id]

    def all(self) -> list[str]:
        """Every move of which anything is still there."""
        kinds = (GRANTS, PLANS, RESULTS, SIGNS)
        return sorted({key for kind in kinds for key in self._records.keys(kind)})


def move_id_of(session_id: str, vm_id: str, attempt: int) -> str:
    """The key of a move: one VM's part of one session, tried on one worker."""
    return f"{session_id}.{vm_id}.{attempt}"


def session_of(move_id: str) -> str:
    """The session that a move belongs to."""
    return move_id.partition(".")[0]


def end_moves(
    moves: Moves, session_id: str, clock: Clock, wait: Callable[[float], Any] = time.sleep
) -> None:
    """Withdraw every move of a session that is over, and return once none touches a disk any more.

    Before anything of a dead session is detached or deleted: its movers may outlive it. Movers that
    are long silent are not waited for.
    """
    ids = moves.of_session(session_id)
    for move_id in ids:
        moves.withdraw(move_id)
    withdrawn_s = clock.monotonic_s()
    for move_id in ids:
        while _may_work(moves, move_id, clock):
            if clock.monotonic_s() - withdrawn_s > FENCE_S:
                break
            wait(1.0)
        moves.forget(move_id)


def _may_work(moves: Moves, move_id: str, clock: Clock) -> bool:
    """Whether the mover can still have a disk open, judged by its last sign."""
    try:
        sign = moves.sign(move_id)
    except (DamagedObject, ValidationError):
        return True
    if sign is None or sign.has_ended:
        return False
    return (clock.now() - sign.at).total_seconds() < 10 * FENCE_S


def sweep_moves(moves: Moves, alive: Set[str], clock: Clock) -> None:
    """Forget what is left of moves whose session is over and whose mover is long silent."""
    for move_id in moves.all():
        if session_of(move_id) not in alive and not _may_work(moves, move_id, clock):
            moves.forget(move_id)
