"""Moves by a Prefect worker on the worker VM: the run is created on its queue, and watched (design 3).

Prefect carries the start of a move, and shows it; what is moved, how far it has come and what came of
it lie beside the repository (`jobs.moves`), so that neither a slow Prefect server nor one that is away
holds up or breaks a transfer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import httpx
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import WorkQueueStatus
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.states import Cancelling

from jobs import (
    Attachment,
    BackupSession,
    DiskPlan,
    MoveDisk,
    MoveFailed,
    MovePlan,
    MoveResult,
    Moves,
    Reference,
    RunPhase,
    Snapshot,
    TransferLimits,
    WorkerLost,
    await_move,
    move_id_of,
    pack_attachment,
)
from repository import DiskRecord, RepositoryError, RestorePoint
from tasks.context import current_blocks, current_session, current_story, saved_ids
from tasks.gather import quoted
from tasks.policy import step

log = logging.getLogger(__name__)

MOVERS_POOL = "ahvault-movers"
MOVER_DEPLOYMENT = "move-vm/mover"
PHASE_PERIOD_S = 10.0
_NOT_SAVED = (
    "a mover loads the repository and the cluster by their blocks, and those of this session are not "
    "saved; run `ahvault scale setup`, and start the job as the deployment that it makes"
)
_PREFECT_TROUBLE = (httpx.HTTPError, PrefectException, OSError)


def queue_check_of(**blocks: Block) -> Callable[[str], str | None]:
    """Asks why a worker's queue cannot be used now, for sessions opened with these blocks."""
    are_saved = None not in saved_ids(blocks).values()

    def check(queue: str) -> str | None:
        return why_unusable(queue) if are_saved else _NOT_SAVED

    return check


def why_unusable(queue: str) -> str | None:
    """Why no move can be sent to a queue now, or `None`. Asks the Prefect server.

    A run on a queue that nobody polls would stay late for ever, and a queue that does not exist would
    be created in silence (`prefect-notes §3`): so nothing is sent before a Prefect worker was seen.
    """
    try:
        with get_client(sync_client=True) as client:
            client.read_deployment_by_name(MOVER_DEPLOYMENT)
            found = client.read_work_queue_by_name(queue, work_pool_name=MOVERS_POOL)
    except ObjectNotFound:
        return (
            f"there is no deployment {MOVER_DEPLOYMENT}, or no work queue {queue} in pool "
            f"{MOVERS_POOL}; run `ahvault scale setup`, and a Prefect worker for it on that VM"
        )
    except _PREFECT_TROUBLE as error:
        return f"the Prefect server could not be asked for its queue: {error}"
    if found.status is not WorkQueueStatus.READY:
        return f"no Prefect worker polls its queue {queue}; is the service on that VM running?"
    return None


def transfer_by_mover(
    snapshot: Snapshot,
    reference: Reference,
    plans: Sequence[DiskPlan],
    attachment: Attachment,
    records: dict[int, DiskRecord],
) -> None:
    """Have the worker's own process transfer the disks that `records` does not have yet; adds them."""
    disks = zip(snapshot.disks, plans, strict=True)
    packed = tuple(MoveDisk.pack(disk, plan, reference.base(disk.disk_id)) for disk, plan in disks)
    with current_story().transferring():
        result = _move(attachment, snapshot.vm_id, records, disks=packed)
    records.update(result.records)
    _raise_failure(result, attachment)


def restore_by_mover(
    point: RestorePoint, attachment: Attachment, filled: set[int], *, allow_damaged: bool
) -> None:
    """Have the worker's own process fill the blank disks that are not in `filled` yet; adds them."""
    story = current_story()
    is_untouched = not story.move_count and not story.progress
    with story.transferring():
        result = _move(
            attachment,
            point.vm_id,
            dict.fromkeys(filled),
            point_id=point.id,
            is_untouched=is_untouched,
            allow_damaged=allow_damaged,
        )
    filled.update(result.done)
    with story.lock:
        story.damaged.update(result.damaged_extents())
    _raise_failure(result, attachment)


def _move(
    attachment: Attachment,
    vm_id: str,
    done: Mapping[int, object],
    *,
    disks: tuple[MoveDisk, ...] = (),
    point_id: str | None = None,
    is_untouched: bool = True,
    allow_damaged: bool = False,
) -> MoveResult:
    session, story = current_session(), current_story()
    story.move_count += 1
    plan = MovePlan(
        move_id=move_id_of(session.session_id, vm_id, story.move_count),
        session_id=session.session_id,
        job=session.job_name,
        limits=session.job.limits if isinstance(session, BackupSession) else TransferLimits(),
        vm_id=vm_id,
        vm_name=story.vm_name,
        worker=attachment.choice.worker.name,
        attachment=pack_attachment(attachment),
        disks=disks,
        point_id=point_id,
        skip=tuple(sorted(done)),
        is_untouched=is_untouched,
        allow_damaged=allow_damaged,
    )
    moves = Moves(session.repository.live)
    moves.hand_out(plan.move_id, plan.model_dump(mode="json"))
    try:
        return move_on_worker(plan.move_id, plan.vm_name, plan.worker, quoted(attachment))
    finally:
        with suppress(RepositoryError):  # What stays of it is swept by a later session.
            moves.forget(plan.move_id)


@step("move-on-worker", run_name="move-{vm_name}-on-{worker}", retries=0)
def move_on_worker(move_id: str, vm_name: str, worker: str, attachment: Attachment) -> MoveResult:
    """Create the mover's run on the worker's queue, and wait for what comes of it."""
    run_id, queue = None, attachment.choice.worker.queue
    try:
        run_id = _create_run(move_id, vm_name, worker, queue)
        return await_move(
            current_session(),
            current_story(),
            move_id,
            worker,
            stop=attachment.stop,
            ask_phase=_phase_of(run_id, str(queue)),
            wait=time.sleep,
        )
    except BaseException:
        _call_off(run_id)
        raise


def _create_run(move_id: str, vm_name: str, worker: str, queue: str | None) -> UUID:
    blocks = current_blocks()
    if blocks is None or queue is None:
        raise WorkerLost(worker, _NOT_SAVED)
    try:
        run: Any = (
            run_deployment(  # the same key finds the same run: created once, however often asked
                MOVER_DEPLOYMENT,
                parameters={
                    **{
                        name: {"$ref": {"block_document_id": str(each)}}
                        for name, each in blocks.items()
                    },
                    "move_id": move_id,
                    "vm_name": vm_name,
                    "worker": worker,
                },
                flow_run_name=f"{vm_name} on {worker}",
                work_queue_name=queue,
                idempotency_key=move_id,
                timeout=0,
                as_subflow=True,
            )
        )
    except _PREFECT_TROUBLE as error:
        raise WorkerLost(worker, f"the Prefect server did not take the run: {error}") from error
    return UUID(str(run.id))


def _phase_of(run_id: UUID, queue: str) -> Callable[[], RunPhase]:
    """Asks Prefect for the run's phase, not more often than every `PHASE_PERIOD_S`."""
    asked_s, phase = float("-inf"), RunPhase.UNKNOWN

    def ask() -> RunPhase:
        nonlocal asked_s, phase
        if time.monotonic() - asked_s >= PHASE_PERIOD_S:
            asked_s, phase = time.monotonic(), _read_phase(run_id, queue)
        return phase

    return ask


def _read_phase(run_id: UUID, queue: str) -> RunPhase:
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(run_id).state
            if state is None or state.is_scheduled():
                polled = client.read_work_queue_by_name(queue, work_pool_name=MOVERS_POOL)
                is_ready = polled.status is WorkQueueStatus.READY
                return RunPhase.WAITING if is_ready else RunPhase.STRANDED
    except _PREFECT_TROUBLE as error:
        log.debug("Prefect does not tell the state of run %s: %s", run_id, error)
        return RunPhase.UNKNOWN
    if state.is_pending():
        return RunPhase.WAITING
    return RunPhase.OVER if state.is_final() else RunPhase.RUNNING


def _call_off(run_id: UUID | None) -> None:
    """Tell Prefect that the run is not wanted: one that waits never starts, one that runs is stopped.

    For the display, and to spare the worker the work; the withdrawn grant is what counts.
    """
    if run_id is None:
        return
    with suppress(*_PREFECT_TROUBLE), get_client(sync_client=True) as client:
        client.set_flow_run_state(run_id, Cancelling())


def _raise_failure(result: MoveResult, attachment: Attachment) -> None:
    if result.error is None:
        return
    worker = attachment.choice.worker.name
    if result.elsewhere:
        raise WorkerLost(worker, result.error)
    raise MoveFailed(current_story().vm_name, worker, result.error)
