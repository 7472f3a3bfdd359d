"""Moves by another process: what travels, who may work, and who is taken for dead. No Prefect, real disks."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import jobs
from jobs import BackupSession, NullObserver, SessionStopped, VmStory
from jobs.errors import MoveWithdrawn, WorkerLost
from jobs.extents import DiskPlan, ReadMethod
from jobs.leases import process_token, this_machine
from jobs.move_plans import MoveDisk, MovePlan, pack_attachment, pack_extents, unpack_extents
from jobs.move_watch import LifeJudge, Patience, RunPhase, await_move
from jobs.mover import Mover, carrying_out
from jobs.moves import FENCE_S, MoveResult, Moves, MoveSign, end_moves, move_id_of
from repository import (
    CollectSettings,
    CollectStage,
    Extent,
    ExtentKind,
    Repository,
    SystemClock,
    VerifyLevel,
)
from simulator import Simulator


def test_a_million_extents_travel_in_a_few_seconds_and_megabytes() -> None:
    """The extents of a plan come back as they were, a million of them in less than 5 MB."""
    kinds = (ExtentKind.DATA, ExtentKind.ZERO)
    extents = tuple(
        Extent(i * 7_000_000 + i % 13 * 4096, i * 7_000_000 + i % 13 * 4096 + 65536, kinds[i % 2])
        for i in range(1_000_000)
    )
    packed = pack_extents(extents)
    assert unpack_extents(packed) == extents
    assert len(packed) < 5_000_000
    assert unpack_extents(pack_extents(())) == ()


class Prepared:
    """A session with one VM attached to a worker, and a move of it handed out."""

    def __init__(self, session: BackupSession, vm_id: str) -> None:
        self.session = session
        self.moves = Moves(session.repository.live)
        self.story = VmStory.begin(vm_id, "web01", clock=session.clock, observer=NullObserver())
        self.snapshot = jobs.take_snapshot(session, vm_id)
        self.reference = jobs.find_reference(session, self.snapshot)
        self.plans = jobs.plan_reads(session, self.snapshot, self.reference)
        self.group = jobs.group_snapshot(session, self.snapshot)
        self.attachment = jobs.attach(session, self.group, {})

    def hand_out(self, attempt: int = 1) -> str:
        """A plan for a mover; returns its key."""
        move_id = move_id_of(self.session.session_id, self.snapshot.vm_id, attempt)
        plan = MovePlan(
            move_id=move_id,
            session_id=self.session.session_id,
            job="nightly",
            vm_id=self.snapshot.vm_id,
            vm_name="web01",
            worker=self.attachment.choice.worker.name,
            attachment=pack_attachment(self.attachment),
            disks=tuple(
                MoveDisk.pack(disk, plan, self.reference.base(disk.disk_id))
                for disk, plan in zip(self.snapshot.disks, self.plans, strict=True)
            ),
        )
        self.moves.hand_out(move_id, plan.model_dump(mode="json"))
        return move_id

    def release(self) -> None:
        jobs.detach(self.session, self.attachment)
        jobs.remove_group(self.session, self.group)


@pytest.fixture
def prepared(open_backup: Any, simulator: Simulator) -> Iterator[Prepared]:
    with open_backup() as session:
        made = Prepared(session, simulator.vm_id("web01"))
        try:
            yield made
        finally:
            made.release()
            jobs.abandon_snapshot(session, made.snapshot)


def carry_out(prepared: Prepared, move_id: str, hold: Callable[[Mover], None]) -> None:
    """What the mover's flow does, in this process."""
    session = prepared.session
    with carrying_out(
        session.client, session.repository, move_id, name="test", observer=NullObserver()
    ) as mover:
        hold(mover)
        for index in mover.to_move:
            mover.move_disk(index)
        mover.deliver()


@contextmanager
def in_a_thread(work: Callable[[], None]) -> Iterator[list[BaseException]]:
    """Another process's part; what it raised is in the list at the end."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield raised
    finally:
        thread.join(60)


def wait_for(prepared: Prepared, move_id: str, **options: Any) -> MoveResult:
    return await_move(
        prepared.session,
        prepared.story,
        move_id,
        "worker",
        stop=prepared.attachment.stop,
        ask_phase=lambda: RunPhase.RUNNING,
        wait=time.sleep,
        **options,
    )


def test_what_a_mover_delivers_is_committed_as_if_read_here(
    prepared: Prepared, repository: Repository
) -> None:
    """The records of a mover make a restore point that verifies; its progress reaches the session's story."""
    move_id = prepared.hand_out()
    with in_a_thread(lambda: carry_out(prepared, move_id, lambda _: None)) as raised:
        result = wait_for(prepared, move_id)
    assert raised == []
    records = [result.records[index] for index in range(len(prepared.snapshot.disks))]
    point = jobs.commit_point(prepared.session, prepared.snapshot, prepared.reference, records)
    assert repository.verify(VerifyLevel.CONTENT, points=[point]).findings == ()
    assert prepared.story.describe_progress()[0] == 100.0
    assert point.read_bytes > 0


def test_what_a_mover_stored_outlives_a_collection_before_the_commit(
    prepared: Prepared, repository: Repository
) -> None:
    """A collection planned and tried to the end between a mover's end and the commit takes nothing of it."""
    move_id = prepared.hand_out()
    with in_a_thread(lambda: carry_out(prepared, move_id, lambda _: None)) as raised:
        result = wait_for(prepared, move_id)
    assert raised == []
    hasty = CollectSettings(grace_hours=0, undelete_hours=0)
    stages = {repository.collect(hasty).stage for _ in range(3)}
    assert CollectStage.SWEPT not in stages
    records = [result.records[index] for index in range(len(prepared.snapshot.disks))]
    point = jobs.commit_point(prepared.session, prepared.snapshot, prepared.reference, records)
    repository.collect(hasty)
    assert repository.verify(VerifyLevel.CONTENT, points=[point]).findings == ()


def test_a_withdrawn_mover_stops_and_what_it_delivers_late_is_not_read(
    prepared: Prepared, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fence: with the grant gone a mover stops in mid-transfer, delivers nothing, and a second one makes the point."""
    monkeypatch.setattr("jobs.mover.SIGN_PERIOD_S", 0.05)
    first, begun, withdrawn = prepared.hand_out(1), threading.Event(), threading.Event()

    def hold(mover: Mover) -> None:
        begun.set()
        assert mover.stop.wait(30)
        withdrawn.set()

    with in_a_thread(lambda: carry_out(prepared, first, hold)) as raised:
        assert begun.wait(30)
        prepared.moves.withdraw(first)
        assert withdrawn.wait(30)
    assert [type(error) for error in raised] == [MoveWithdrawn]
    assert prepared.moves.result(first) is None
    second = prepared.hand_out(2)
    with in_a_thread(lambda: carry_out(prepared, second, lambda _: None)):
        result = wait_for(prepared, second)
    assert len(result.records) == len(prepared.snapshot.disks)


def test_a_mover_that_cannot_read_its_grant_stops_by_itself(
    prepared: Prepared, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off from the repository a mover stops after the life of its grant, before anybody takes the disks away."""
    monkeypatch.setattr("jobs.mover.SIGN_PERIOD_S", 0.05)
    monkeypatch.setattr("jobs.mover.GRANT_LIFE_S", 0.5)
    move_id, hung = prepared.hand_out(), threading.Event()

    def hold(mover: Mover) -> None:
        monkeypatch.setattr(mover._moves, "is_granted", lambda _id: hung.wait(60))
        assert mover.stop.wait(30)

    with in_a_thread(lambda: carry_out(prepared, move_id, hold)) as raised:
        pass
    hung.set()
    assert [type(error) for error in raised] == [MoveWithdrawn]


def test_a_move_is_carried_out_once_and_not_after_its_session_ended(
    prepared: Prepared, repository: Repository
) -> None:
    """A run that Prefect starts a second time, or too late, opens no disk."""
    move_id = prepared.hand_out()
    carry_out(prepared, move_id, lambda _: None)
    with pytest.raises(MoveWithdrawn, match="has begun it already"):
        carry_out(prepared, move_id, lambda _: None)
    late = prepared.hand_out(2)
    prepared.moves.withdraw(late)
    with pytest.raises(MoveWithdrawn):
        carry_out(prepared, late, lambda _: None)
    prepared.moves.forget(late)
    with pytest.raises(MoveWithdrawn):
        carry_out(prepared, late, lambda _: None)


def test_a_failing_disk_is_told_with_its_cause_and_what_was_done(
    prepared: Prepared, repository: Repository
) -> None:
    """The mover's error reaches the session in words, and says that another worker may help."""
    move_id = prepared.hand_out()
    jobs.detach(prepared.session, prepared.attachment)

    def impatient(mover: Mover) -> None:
        mover.stop.set()

    with in_a_thread(lambda: carry_out(prepared, move_id, impatient)) as raised:
        result = wait_for(prepared, move_id)
    assert raised
    assert result.error
    assert result.elsewhere


def test_a_silent_mover_is_given_up_and_fenced_and_a_stop_ends_the_wait(
    prepared: Prepared, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence ends the wait within its bound, with the grant withdrawn; so does a session that is to stop."""
    monkeypatch.setattr("jobs.move_watch.FENCE_S", 0.5)
    monkeypatch.setattr("jobs.move_watch.LOOK_PERIOD_S", 0.05)
    move_id = prepared.hand_out()
    sign = MoveSign(number=1, at=SystemClock().now(), mover="gone")
    prepared.moves.put_sign(move_id, sign)
    with pytest.raises(WorkerLost, match="no sign of life"):
        wait_for(prepared, move_id, patience=Patience(silence_s=0.3))
    assert not prepared.moves.is_granted(move_id)
    second = prepared.hand_out(2)
    prepared.session.stop.set()
    with pytest.raises(SessionStopped):
        wait_for(prepared, second)
    assert not prepared.moves.is_granted(second)


def test_prefects_word_alone_never_gives_up_a_mover() -> None:
    """`Crashed` may be false: a mover that gives signs is waited for; one that is silent too is not."""
    judge = LifeJudge(0.0, Patience())
    at = SystemClock().now()
    for second in range(1, 300):
        sign = MoveSign(number=second // 5 + 1, at=at, mover="slow")
        assert judge.judge(float(second), sign, RunPhase.OVER) is None
    last = MoveSign(number=60, at=at, mover="slow")
    assert "ended without a result" in str(judge.judge(320.0, last, RunPhase.OVER))


def test_a_run_that_never_begins_is_given_up() -> None:
    """No sign at all: at once where nobody polls the queue, after a while where somebody should."""
    judge = LifeJudge(0.0, Patience())
    assert judge.judge(100.0, None, RunPhase.WAITING) is None
    assert "polls its queue" in str(judge.judge(101.0, None, RunPhase.STRANDED))
    assert "begun within" in str(judge.judge(181.0, None, RunPhase.WAITING))


def test_movers_of_a_dead_session_end_before_their_disks_are_taken(
    repository: Repository,
) -> None:
    """The reconciler withdraws the move of a dead session and waits for its mover; one long silent is not waited for."""
    moves, clock, waited = Moves(repository.live), SystemClock(), []
    for number, ended in ((1, True), (2, False)):
        move_id = move_id_of("dead", "vm", number)
        moves.hand_out(move_id, {})
        moves.put_sign(move_id, MoveSign(number=1, at=clock.now(), mover="it", has_ended=ended))

    def wait(seconds: float) -> None:
        waited.append(seconds)
        assert not moves.is_granted(move_id_of("dead", "vm", 2))
        moves.put_sign(
            move_id_of("dead", "vm", 2),
            MoveSign(number=2, at=clock.now(), mover="it", has_ended=True),
        )

    end_moves(moves, "dead", clock, wait)
    assert waited == [1.0]
    assert moves.all() == []
    assert FENCE_S > 30


def test_a_plan_travels_whole(prepared: Prepared, repository: Repository) -> None:
    """What the mover unpacks is what the session planned: method, reason, extents, place of the disks."""
    plan = MovePlan.model_validate(prepared.moves.plan(prepared.hand_out()))
    unpacked = [each.unpack_plan() for each in plan.disks]
    assert unpacked == prepared.plans
    assert isinstance(unpacked[0], DiskPlan)
    assert unpacked[0].method is ReadMethod.ALLOCATED
    there = plan.unpack_attachment(threading.Event(), None)
    assert (there.group, there.choice, there.place) == (
        prepared.attachment.group,
        prepared.attachment.choice,
        prepared.attachment.place,
    )


def test_the_death_of_a_mover_is_told_only_when_its_process_is_gone(
    repository: Repository,
) -> None:
    """The hook's word: a process of this machine that is gone has ended; a living one, or one elsewhere, has not."""
    moves, at = Moves(repository.live), SystemClock().now()
    here, mine = this_machine(), str(process_token(os.getpid()))
    gone = f"{os.getpid()}@1"
    for machine, process, is_told in (
        (here, mine, False),
        ("elsewhere", gone, False),
        (here, gone, True),
    ):
        sign = MoveSign(number=3, at=at, mover="it", machine=machine, process=process)
        moves.put_sign("m", sign)
        assert moves.tell_the_death_of("m") is is_told
        told = moves.sign("m")
        assert told is not None
        assert told.has_ended is is_told
    assert not moves.tell_the_death_of("unknown")
