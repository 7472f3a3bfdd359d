"""The mover's side of a move: one VM's disks, moved by this process on the worker they are attached to.

It may work as long as its grant stands (`jobs.moves` has the argument). Two threads see to that: one
reads the grant and writes the signs of life, the other stops the transfers when the first has not seen
the grant for too long, because a store that hangs would hold the first one up.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from jobs.errors import MoveWithdrawn
from jobs.leases import process_token, this_machine
from jobs.move_plans import MovePlan
from jobs.moves import GRANT_LIFE_S, SIGN_PERIOD_S, DiskSign, MoveResult, Moves, MoveSign
from jobs.progress import Observer
from jobs.restore import restore_disk
from jobs.story import VmStory
from jobs.throttle import ThrottleEngine, open_throttle
from jobs.throttle_lane import SharedLimits
from jobs.throttle_rules import rules_of_job
from jobs.transfer import transfer_disk
from nutanix import AhvClient
from repository import (
    Clock,
    DiskRecord,
    Repository,
    RepositoryError,
    Stopped,
    StoreUnavailable,
    SystemClock,
    WriteSession,
)

log = logging.getLogger(__name__)


class Mover:
    """One move under way in this process. Thread-safe. Made by `carrying_out`."""

    def __init__(
        self,
        client: AhvClient,
        repository: Repository,
        plan: MovePlan,
        throttle: ThrottleEngine,
        *,
        name: str,
        observer: Observer,
        clock: Clock,
    ) -> None:
        self.client, self.repository, self.clock = client, repository, clock
        self.plan, self.session_id, self.job_name = plan, plan.session_id, plan.job
        self.throttle = throttle
        self.stop = threading.Event()
        self.story = VmStory.begin(plan.vm_id, plan.vm_name, clock=clock, observer=observer)
        self._attachment = plan.unpack_attachment(self.stop, client.connection.chap_secret)
        self._point = repository.point(plan.point_id) if plan.point_id else None
        self._moves, self._name = Moves(repository.live), name
        self._writer: WriteSession | None = None
        self._records: dict[int, DiskRecord] = {}
        self._done: list[int] = []
        self._signing = threading.Lock()
        self._number = 0
        self._open_disks = 0
        self._granted_s = clock.monotonic_s()
        self._over = threading.Event()

    @property
    def writer(self) -> WriteSession:
        """Where a backup's disks are written; a restore has none."""
        if self._writer is None:
            raise RuntimeError("this move writes no disks to the repository")
        return self._writer

    @property
    def to_move(self) -> dict[int, str]:
        """The disks that are to be moved: place, and bus and index in words."""
        disks = self._point.disks if self._point else [each.disk for each in self.plan.disks]
        labels = enumerate(disk.label for disk in disks)
        return {index: label for index, label in labels if index not in self.plan.skip}

    def move_disk(self, index: int) -> None:
        """Move one disk. Idempotent: a second call finds what the first one stored."""
        with self._signing:
            self._open_disks += 1
        try:
            self._move_disk(index)
            self._done.append(index)
        finally:
            with self._signing:
                self._open_disks -= 1

    def deliver(self) -> None:
        """Hand the result to the control side; raises `MoveWithdrawn` if the grant is gone by now."""
        self._require_grant()
        self._put_result()

    def begin(self) -> None:
        """Show life, then look for the grant: in this order, as the control side does the opposite."""
        earlier = self._moves.sign(self.plan.move_id)
        if earlier is not None:
            raise MoveWithdrawn(self.plan.move_id, f"{earlier.mover} has begun it already")
        self._show_life()
        self._require_grant()

    @contextmanager
    def living(self) -> Iterator[None]:
        """Signs of life while the block runs, the last one at its end; a failure is delivered."""
        for target in (self._show_life_for_long, self._stop_without_grant):
            threading.Thread(target=target, name=f"move-{target.__name__}", daemon=True).start()
        try:
            yield
        except BaseException as error:
            self._deliver_failure(error)
            raise
        finally:
            self._over.set()
            with suppress(RepositoryError):  # The control side then waits until the fence is sure.
                self._show_life(has_ended=True)

    def open_writer(self) -> WriteSession:
        """The write session that the disks of a backup go to; the caller closes it."""
        self._writer = self.repository.write_session(self.session_id)
        return self._writer

    def _move_disk(self, index: int) -> None:
        if self._point is not None:
            restore_disk(
                self,
                self.story,
                point=self._point,
                disk=self._point.disks[index],
                index=index,
                attachment=self._attachment,
                is_untouched=self.plan.is_untouched,
                allow_damaged=self.plan.allow_damaged,
            )
            return
        each = self.plan.disks[index]
        self._records[index] = transfer_disk(
            self,
            self.story,
            disk=each.disk,
            index=index,
            plan=each.unpack_plan(),
            base=each.base,
            attachment=self._attachment,
        )

    def _require_grant(self) -> None:
        if self.stop.is_set() or not self._moves.is_granted(self.plan.move_id):
            self.stop.set()
            raise MoveWithdrawn(self.plan.move_id)

    def _show_life_for_long(self) -> None:
        while not self._over.wait(SIGN_PERIOD_S):
            asked_s = self.clock.monotonic_s()
            try:
                if not self._moves.is_granted(self.plan.move_id):
                    self.stop.set()
                    log.warning("The move of %s was withdrawn", self.plan.vm_name)
                self._granted_s = asked_s
                self._show_life()
            except RepositoryError as error:
                log.warning("No sign of life could be given: %s", error)

    def _stop_without_grant(self) -> None:
        while not self._over.wait(1.0):
            if self.clock.monotonic_s() - self._granted_s > GRANT_LIFE_S:
                log.warning("The move stops: its grant could not be read for %.0f s", GRANT_LIFE_S)
                self.stop.set()
                return

    def _show_life(self, *, has_ended: bool = False) -> None:
        """Write the next sign; an end is told only when no disk is open any more."""
        with self._signing:
            if self._over.is_set() and not has_ended:
                return
            self._number += 1
            sign = MoveSign(
                number=self._number,
                at=self.clock.now(),
                mover=self._name,
                machine=this_machine(),
                process=process_token(os.getpid()) or "",
                has_ended=has_ended and self._open_disks == 0,
                disks=self._disk_signs(),
                warnings=tuple(self.story.warnings),
            )
            self._moves.put_sign(self.plan.move_id, sign)

    def _disk_signs(self) -> tuple[DiskSign, ...]:
        with self.story.lock:
            disks = list(self.story.progress.items())
        return tuple(
            DiskSign(
                disk_id=disk_id,
                label=disk.label,
                to_read_bytes=disk.to_read_bytes,
                figures=disk.counters.figures(),
            )
            for disk_id, disk in disks
        )

    def _deliver_failure(self, error: BaseException) -> None:
        if isinstance(error, MoveWithdrawn):
            return
        hopeless = isinstance(error, RepositoryError) and not isinstance(
            error, StoreUnavailable | Stopped
        )
        with suppress(RepositoryError):  # Then the silence tells.
            self._put_result(str(error) or type(error).__name__, elsewhere=not hopeless)

    def _damaged(self) -> dict[str, tuple[tuple[int, int], ...]]:
        with self.story.lock:
            return {
                disk_id: tuple((each.start_bytes, each.end_bytes) for each in extents)
                for disk_id, extents in self.story.damaged.items()
            }

    def _put_result(self, error: str | None = None, *, elsewhere: bool = True) -> None:
        result = MoveResult(
            records=dict(self._records),
            done=tuple(sorted(self._done)),
            error=error,
            elsewhere=elsewhere,
            damaged=self._damaged(),
        )
        self._moves.put_result(self.plan.move_id, result)


@contextmanager
def carrying_out(
    client: AhvClient,
    repository: Repository,
    move_id: str,
    *,
    name: str,
    observer: Observer,
    shared_limits: SharedLimits | None = None,
    clock: Clock | None = None,
) -> Iterator[Mover]:
    """Carry out a move inside the block; `name` tells others who does. Ends on `deliver` or an error.

    `shared_limits` are those of throttle rules over processes. Raises `MoveWithdrawn` when the move is
    not wanted any more, or was begun by another process. No disk is open when the block has been left,
    unless a transfer hangs in one.
    """
    clock = clock or SystemClock()
    plan = MovePlan.model_validate(Moves(repository.live).plan(move_id))
    limits = rules_of_job(plan.job, plan.limits)
    with ExitStack() as stack:
        throttle = stack.enter_context(
            open_throttle(repository, shared=shared_limits, clock=clock, extra_rules=limits)
        )
        mover = Mover(client, repository, plan, throttle, name=name, observer=observer, clock=clock)
        mover.begin()
        stack.enter_context(mover.living())
        if plan.disks:
            stack.enter_context(mover.open_writer())
        try:
            yield mover
        except Stopped as error:
            raise MoveWithdrawn(move_id) from error
