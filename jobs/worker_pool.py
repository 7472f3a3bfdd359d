"""The run's workers: prepared at its start, chosen per VM, powered off when nobody uses them (W1-W16)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from jobs.drains import DrainWatch
from jobs.errors import NoWorker, SessionStopped
from jobs.journal import Entry, Journal
from jobs.model import WorkerSpec
from jobs.slots import LocalSlots, SlotHold, Slots
from jobs.stops import TransferStop
from jobs.worker_checks import (
    QueueCheck,
    find_worker_vm,
    remove_leftover_groups,
    self_test,
)
from jobs.worker_power import (
    HURRIED_SHUTDOWN_TIMEOUT_S,
    SHUTDOWN_TIMEOUT_S,
    power_on,
    release_worker,
    wait_until,
)
from jobs.worker_watch import WorkerWatch
from jobs.workers import WorkerChoice, WorkerState, rank_workers
from nutanix import AhvClient, NutanixError, Vm
from repository import Clock, LiveRecords, RepositoryError

log = logging.getLogger(__name__)

PATIENCE_S = 60.0
"""How long a run waits for all its workers before it begins with those that are ready."""
SLOT_POLL_S = 1.0
TOLD_EVERY_S = 300.0
"""A run that waits for a slot says so at once, and again this often."""


@dataclass(slots=True)
class _Member:
    spec: WorkerSpec
    vm: Vm | None = None
    """`None` while it was not looked up, and for a machine outside of the cluster."""
    unusable: str | None = None
    preparing: Future[None] | None = None
    entry: Entry | None = None
    powering: threading.Lock = field(default_factory=threading.Lock)

    @property
    def key(self) -> str:
        """What its slots and its drain are kept under."""
        return self.vm.id if self.vm else self.spec.vm

    @property
    def is_preparing(self) -> bool:
        return self.preparing is not None and not self.preparing.done()


class WorkerPool:
    """The configured workers of one run. Thread-safe."""

    def __init__(
        self,
        client: AhvClient,
        specs: Sequence[WorkerSpec],
        *,
        journal: Journal,
        records: LiveRecords,
        clock: Clock,
        slots: Slots | None = None,
        queue_check: QueueCheck | None = None,
    ) -> None:
        self._client, self._journal, self._records, self._clock = client, journal, records, clock
        self._members = {spec.vm: _Member(spec) for spec in specs}
        self._slots = slots or LocalSlots()
        self._queue_check = queue_check
        self._drains: DrainWatch | None = DrainWatch(records, clock)
        self._watch = WorkerWatch(client)
        self._changed = threading.Condition()
        self._taken: dict[int, tuple[WorkerChoice, SlotHold]] = {}
        self._threads = ThreadPoolExecutor(max_workers=max(1, len(specs)), thread_name_prefix="on")

    # -- before the first VM -----------------------------------------------------------------------

    def prepare(self) -> list[str]:
        """Find, power on and test every enabled worker (W9, W11, W16); the ids of all worker VMs.

        Powering on first and choosing after is what makes the same-host rule decidable: a stopped
        VM has no host (`nutanix-v4 §13`). All are prepared at once; one that takes longer than
        `PATIENCE_S` does not hold up the run and joins it when it is ready. One that fails is told
        in the log and not used. Raises `NoWorker` when none is left, before anything was asked of
        the protected VMs, and transient errors of looking the workers up.
        """
        self._find_all()
        for member in self._members.values():
            if member.unusable is None and member.preparing is None:
                member.preparing = self._threads.submit(self._prepare_one, member)
        begun = [each.preparing for each in self._members.values() if each.preparing]
        if not _wait_for(begun, timeout_s=PATIENCE_S):
            late = [name for name, each in self._members.items() if each.is_preparing]
            log.warning("Beginning without worker %s, which is not ready yet", ", ".join(late))
        self._rank("move data", None, "", {})  # Raises if there is none, and none can still come.
        return [member.vm.id for member in self._members.values() if member.vm is not None]

    def ignore_drains(self) -> None:
        """Use drained workers all the same: to try one out before it is undrained."""
        self._drains = None

    def _find_all(self) -> None:
        """One listing for all. A worker that was not found could be backed up as any VM (W15)."""
        vms = self._client.vms()
        for member in self._members.values():
            try:
                member.vm = find_worker_vm(vms, member.spec)
            except NutanixError as error:
                self._give_up(member, str(error))
                continue
            # Its name on the cluster, which is the same for everybody, whatever their settings call it.
            name = member.vm.name if member.vm else member.spec.vm
            self._slots.open(member.key, name, member.spec.slots)
            if not member.spec.enabled:
                self._give_up(member, "disabled")

    def _prepare_one(self, member: _Member) -> None:
        try:
            member.unusable = self._make_usable(member)
        except (NutanixError, RepositoryError) as error:
            member.unusable = str(error)
        if member.unusable is not None:
            log.warning("Worker %s cannot be used: %s", member.spec.vm, member.unusable)
        with self._changed:
            self._changed.notify_all()

    def _make_usable(self, member: _Member) -> str | None:
        """Why the worker cannot be used, or `None` once it can."""
        vm = member.vm
        why = self_test(self._client, member.spec, vm)
        if why is None and vm is not None:
            why = remove_leftover_groups(self._client, self._records, self._clock, vm)
        if why is None and not self._drained({member.key}):
            why = self._bring_up(member)
        return why  # A drained worker stays off, but in the run: it may be undrained.

    def _bring_up(self, member: _Member) -> str | None:
        """Power on and wait until the guest is of use; why it is not, or `None`."""
        with member.powering:
            if member.vm is not None:
                member.vm, entry = power_on(
                    self._client,
                    self._journal,
                    self._records,
                    member.vm,
                    timeout_s=member.spec.boot_timeout_s,
                )
                member.entry = entry or member.entry
        if member.vm is not None and not member.vm.is_on:
            return f"it was not on {member.spec.boot_timeout_s:.0f} s after it was powered on"
        return self._wait_for_queue(member.spec)

    def _wait_for_queue(self, spec: WorkerSpec) -> str | None:
        """A guest that boots shows itself by its Prefect worker, where it has one."""
        if spec.queue is None or self._queue_check is None:
            return None
        check, queue = self._queue_check, spec.queue
        if wait_until(
            lambda: check(queue) is None, clock=self._client.clock, timeout_s=spec.boot_timeout_s
        ):
            return None
        return check(queue)

    def _give_up(self, member: _Member, why: str) -> None:
        member.unusable = why
        log.warning("Worker %s cannot be used: %s", member.spec.vm, why)

    # -- per VM ------------------------------------------------------------------------------------

    def take(
        self,
        *,
        purpose: str,
        cluster_id: str,
        host_id: str | None,
        failed: Mapping[str, str],
        stop: threading.Event,
        tell: Callable[[str], None] = log.info,
        is_urgent: bool = False,
    ) -> WorkerChoice:
        """Take a slot of the best usable worker (W1-W7); the caller gives it back.

        A worker at its limit is passed by; when all are, this waits for a slot (W3), says so
        through `tell`, and ends early with `SessionStopped` once `stop` is set. What is urgent does
        not wait: it goes beyond the limit of the best worker (W5). Workers in `failed` are out, with
        the reason given. `NoWorker` when none is usable at all.
        """
        told_at_s: float | None = None
        while not stop.is_set():
            ranked = self._rank(purpose, host_id, cluster_id, failed)
            choice = self._take_one_of(ranked)
            if choice is None and is_urgent and ranked:
                choice = ranked[0]
                tell(f"all slots are taken; going beyond the limit of worker {choice.worker.name}")
            if choice is not None:
                return choice
            now_s = self._clock.monotonic_s()
            if told_at_s is None or now_s - told_at_s >= TOLD_EVERY_S:
                told_at_s = now_s
                names = ", ".join(choice.worker.name for choice in ranked)
                tell(f"waiting for a free slot of worker {names or 'any, once it is ready'}")
            with self._changed:
                self._changed.wait(timeout=SLOT_POLL_S)
        raise SessionStopped(f"it was interrupted while waiting for a worker to {purpose}")

    def _take_one_of(self, ranked: Sequence[WorkerChoice]) -> WorkerChoice | None:
        for choice in ranked:
            hold = self._slots.take(choice.worker.key) if choice.worker.slots_free else None
            if hold is not None:
                with self._changed:
                    self._taken[id(choice)] = (choice, hold)
                return choice
        return None

    def wake(self, choice: WorkerChoice) -> None:
        """The worker runs when this returns: somebody may have powered it off since it was chosen.

        Raises `NutanixError` when that cannot be found out, `NoWorker` when it does not come on.
        """
        member = self._members[choice.worker.name]
        if member.vm is None:
            return
        member.vm = self._client.vm(member.vm.id)
        if member.vm.is_on:
            return
        log.info("Worker %s is off; it is powered on again", choice.worker.name)
        why = self._bring_up(member)
        if why is not None:
            raise NoWorker("move data", {choice.worker.name: why})

    def guard(self, choice: WorkerChoice, stop: TransferStop) -> None:
        """Until the choice is given back, the loss of its worker sets `stop`, with the reason."""
        if choice.worker.vm_id:
            self._watch.guard(choice.worker.vm_id, stop)

    def give_back(self, choice: WorkerChoice, stop: TransferStop | None = None) -> None:
        """Free the slot of a choice; a second call for the same choice does nothing."""
        if stop is not None:
            self._watch.drop(stop)
        with self._changed:
            taken = self._taken.pop(id(choice), None)
        if taken is not None:
            taken[1].give_back()
            with self._changed:
                self._changed.notify_all()

    def _rank(
        self, purpose: str, host_id: str | None, cluster_id: str, failed: Mapping[str, str]
    ) -> list[WorkerChoice]:
        """The usable workers, best first; none while the last hope is still being prepared."""
        states = self._states(failed)
        try:
            return rank_workers(states, purpose=purpose, host_id=host_id, cluster_id=cluster_id)
        except NoWorker:
            if any(
                each.is_preparing and name not in failed for name, each in self._members.items()
            ):
                return []
            raise

    def _states(self, failed: Mapping[str, str]) -> list[WorkerState]:
        keys = [member.key for member in self._members.values()]
        free, drained = self._slots.free(keys), self._drained(set(keys))
        return [
            self._state(member, failed.get(name), free, drained)
            for name, member in self._members.items()
        ]

    def _drained(self, keys: set[str]) -> dict[str, str]:
        return self._drains.drained(keys) if self._drains else {}

    def _state(
        self,
        member: _Member,
        failed: str | None,
        free: Mapping[str, int],
        drained: Mapping[str, str],
    ) -> WorkerState:
        vm = member.vm
        not_ready = "it is still being prepared" if member.is_preparing else None
        return WorkerState(
            name=member.spec.vm,
            vm_id=vm.id if vm else "",
            cluster_id=(vm.cluster_id or "") if vm else "",
            host_id=vm.host_id if vm else None,
            is_on=vm is None or vm.is_on,
            slots_free=free.get(member.key, 0),
            device_root=member.spec.device_root,
            access=member.spec.access,
            initiator=member.spec.initiator,
            disk_timeout_s=member.spec.disk_timeout_s,
            queue=member.spec.queue,
            unusable=not_ready or member.unusable or drained.get(member.key) or failed,
        )

    # -- after the last VM -------------------------------------------------------------------------

    def release_all(self, *, hurry: bool = False) -> None:
        """Power off the workers that are ours and that nobody else uses; all at once.

        Raises neither `NutanixError` nor `RepositoryError`: what cannot be released now stays in the
        journal for the next session. In a `hurry` guests get seconds to shut down, not minutes.
        """
        self._watch.close()
        self._slots.close()
        members = list(self._members.values())
        timeout_s = HURRIED_SHUTDOWN_TIMEOUT_S if hurry else SHUTDOWN_TIMEOUT_S
        # A worker that is still being powered on is released as soon as that has ended.
        releasing = [self._threads.submit(self._release_one, each, timeout_s) for each in members]
        while not _wait_for(releasing, timeout_s=1.0):
            pass

    def _release_one(self, member: _Member, timeout_s: float) -> None:
        if member.preparing is not None:
            wait([member.preparing], timeout=timeout_s)
        if member.entry is None:
            return
        try:
            release_worker(
                self._client,
                self._records,
                self._clock,
                member.entry,
                shutdown_timeout_s=min(timeout_s, member.spec.shutdown_timeout_s),
            )
        except (NutanixError, RepositoryError) as error:
            log.warning("Worker %s was not powered off: %s", member.spec.vm, error)
        else:
            member.entry = None


def _wait_for(futures: Sequence[Future[None]], *, timeout_s: float) -> bool:
    """Wait until all are done; False when the time is up first.

    Woken every second: a signal that another thread received is handled only when the main thread
    runs.
    """
    for _ in range(max(1, round(timeout_s))):
        if not wait(futures, timeout=min(1.0, timeout_s)).not_done:
            return True
    return False
