"""The cluster: what it holds, how it is reached, and what becomes of requests that take time.

No HTTP here. What the operations do is told in the files named after their subjects (`vms`,
`recovery_points`, `volume_groups`, `images`), which register themselves in `OPERATIONS`.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import random
import secrets
import shutil
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO

from simulator.clock import Clock, parse_stamp
from simulator.devices import AttachedDisk, DeviceFolders
from simulator.disks import DiskStore
from simulator.documents import Document, Documents, Record
from simulator.errors import NotFoundError, PreconditionError, RefusedError, StateInUseError
from simulator.faults import FaultPlayer, TaskTrouble
from simulator.settings import Settings
from simulator.tasks import TERMINAL, RunningTask, TaskRunner

Operation = Callable[["Cluster", RunningTask], None]
OPERATIONS: dict[str, Operation] = {}
_EXPIRY_CHECK_S = 2.0


def operation(name: str) -> Callable[[Operation], Operation]:
    """Register what a task of this name does."""

    def register(function: Operation) -> Operation:
        OPERATIONS[name] = function
        return function

    return register


class Cluster:
    """One Prism Central with one AOS cluster behind it, kept in one state directory.

    Every method may be called from any thread. `start` begins the background work, `close` ends it and
    gives the directory free; what is in it then, or after a kill, is what the next one begins with.
    """

    def __init__(
        self,
        state: Path,
        *,
        settings: Settings,
        clock: Clock,
        seed: str,
        faults: FaultPlayer | None = None,
    ) -> None:
        state.mkdir(parents=True, exist_ok=True)
        self.state = state
        self.settings = settings
        self.clock = clock
        self.seed = seed
        self.faults = faults or FaultPlayer()
        self._lock_file = _lock(state)
        # What a kill left of disks being built and images being fetched.
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir()
        self.documents = Documents(state / "state.sqlite")
        self.disks = DiskStore(state / "vdisks", self.documents, self.new_id)
        self.devices = DeviceFolders(state / "devices")
        self.secret, self.password = _credentials(state / "credentials.json")
        self.tasks = TaskRunner(self.documents, clock, self._perform, self._give_up)
        self._stopping = threading.Event()
        self._showing = threading.Lock()
        self._janitor = threading.Thread(
            target=self._expire_loop, name="simulator-expiry", daemon=True
        )

    @property
    def scratch(self) -> Path:
        """Where files grow before they are disks; emptied at every start."""
        return self.state / "scratch"

    # -- life ----------------------------------------------------------------------------------

    @property
    def is_new(self) -> bool:
        """Whether nothing has been put into this state directory yet."""
        return not self.documents.all("cluster")

    def start(self) -> None:
        """Show devices, drop what a kill left without an owner, and take up unfinished tasks."""
        self._drop_unowned_disks()
        kept = self.documents.find("meta", "clock")
        if kept is not None:
            self.clock.advance(max(0.0, kept.document["offset_s"] - self.clock.offset_s))
        workers = [r for r in self.documents.all("vm") if r.private.get("is_worker")]
        self.devices.prepare(r.document["name"] for r in workers)
        for record in workers:
            self.refresh_devices(record.ext_id)
        self.tasks.start()
        self._janitor.start()

    def close(self) -> None:
        """Stop background work and give the state directory free."""
        self._stopping.set()
        if self._janitor.is_alive():
            self._janitor.join()
        self.tasks.stop()
        self.documents.close()
        self._lock_file.close()

    def _drop_unowned_disks(self) -> None:
        owned = {
            disk_id
            for kind in ("vm", "volume_group", "image")
            for r in self.documents.all(kind)
            for disk_id in r.private.get("vdisks", ())
        }
        for record in self.documents.all("vdisk"):
            if record.document["has_live"] and record.ext_id not in owned:
                self.disks.drop_live(record.ext_id)

    def _expire_loop(self) -> None:
        while not self._stopping.wait(_EXPIRY_CHECK_S):
            self.expire_recovery_points()
            self._forget_old_requests()

    def _forget_old_requests(self) -> None:
        """Request ids are remembered for a while only, and ended tasks as long (§10 leaves it open)."""
        horizon_s = self.clock.now_s() - self.settings.memory_s
        old = [r for r in self.documents.all("request") if r.private["at_s"] < horizon_s]
        ended = [t for t in self.documents.all("task") if t.document["status"] in TERMINAL]
        past = [t for t in ended if float(t.private.get("ends_s", 0)) < horizon_s]
        if old or past:
            with self.documents.change():
                for request in old:
                    self.documents.delete("request", request.ext_id)
                for task in past:
                    self.documents.delete("task", task.ext_id)

    def advance_clock(self, seconds: float) -> None:
        """Let time pass, also for whoever opens this state directory next."""
        self.clock.advance(seconds)
        with self.documents.change():
            self.documents.put("meta", "clock", {"offset_s": self.clock.offset_s})

    def expire_recovery_points(self) -> list[str]:
        """Remove recovery points whose time is over; returns their ids."""
        now = self.clock.now()
        gone = []
        for record in self.documents.all("recovery_point"):
            expires = record.document.get("expirationTime")
            if expires and parse_stamp(expires) <= now:
                gone += self._expire(record.ext_id)
        return gone

    def _expire(self, ext_id: str) -> list[str]:
        task = RunningTask("", "", {"extId": ext_id}, self.documents)
        try:
            OPERATIONS["DeleteRecoveryPoint"](self, task)
        except NotFoundError:  # a client was quicker
            return []
        return [ext_id]

    # -- documents -----------------------------------------------------------------------------

    def new_id(self) -> str:
        """A fresh id: shaped like a UUID, without its version and variant bits (nutanix-v4 §5)."""
        digits = secrets.token_hex(16)
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

    def require(self, kind: str, ext_id: str, namespace: str = "") -> Record:
        """The record, or NotFoundError in the words of the namespace that asks."""
        record = self.documents.find(kind, ext_id)
        if record is None:
            raise NotFoundError(kind, ext_id, namespace)
        return record

    @property
    def aos(self) -> Record:
        """The AOS cluster itself (not Prism Central's own entry)."""
        return next(r for r in self.documents.all("cluster") if r.private.get("is_aos"))

    # -- tasks ---------------------------------------------------------------------------------

    def submit(
        self,
        name: str,
        arguments: Document,
        *,
        entities: list[Document] | None = None,
        duration_s: float | None = None,
        private: Document | None = None,
    ) -> str:
        """Queue an operation; returns the task id. Only within `documents.change()`."""
        trouble = self.faults.for_task(name)
        honest_s = self.settings.task_s if duration_s is None else duration_s
        is_slow = trouble is not None and trouble.outcome == "slow"
        return self.tasks.submit(
            name,
            arguments,
            duration_s=trouble.delay_s if trouble is not None and is_slow else honest_s,
            entities=entities or [],
            cluster_ext_id=self.aos.ext_id,
            private={**_hidden_trouble(trouble), **(private or {})},
        )

    def _perform(self, task: RunningTask) -> None:
        OPERATIONS[task.operation](self, task)

    def _give_up(self, task: RunningTask) -> None:
        for vdisk_id in task.new_disks:
            self.disks.drop_live(vdisk_id)

    # -- devices -------------------------------------------------------------------------------

    def attached_disks(self, vm: Record) -> list[AttachedDisk]:
        """Every disk on the SCSI bus of a VM: its own, then those of attached volume groups."""
        own = [
            AttachedDisk(d["extId"], d["diskAddress"]["index"], 0, self.disks.live_path(d["extId"]))
            for d in vm.document.get("disks", ())
            if d["extId"] in vm.private["vdisks"] and d["diskAddress"]["busType"] == "SCSI"
        ]
        return own + [
            disk for r in self.documents.all("volume_group") for disk in self._of_group(r, vm)
        ]

    def _of_group(self, group: Record, vm: Record) -> list[AttachedDisk]:
        index = group.private["vm_attachments"].get(vm.ext_id)
        if index is None:
            return []
        return [
            AttachedDisk(disk["extId"], index, disk["index"], self.disks.live_path(disk["extId"]))
            for disk in group.private["disks"]
        ]

    def refresh_devices(self, vm_ext_id: str) -> None:
        """Make the device folder of a worker show what is attached to it now."""
        # Two threads must not show an older state over a newer one.
        with self._showing:
            record = self.documents.find("vm", vm_ext_id)
            if record is None or not record.private.get("is_worker"):
                return
            name = record.document["name"]
            is_on = record.document["powerState"] == "ON" and not self.faults.hides_devices(name)
            for disk in self.attached_disks(record) if is_on else []:
                self.disks.expose(disk.vdisk_id)
            shown = self.attached_disks(record) if is_on else []
            self.devices.show(name, shown)


def _hidden_trouble(trouble: TaskTrouble | None) -> Document:
    """What a task record keeps of the trouble it is in, so that a restart does not heal it."""
    if trouble is None or trouble.outcome == "slow":
        return {}
    if trouble.outcome == "stuck":
        return {"is_stuck": True}
    cause = {"message": trouble.message, "code": trouble.code, "group": trouble.group}
    when = "fails_with" if trouble.outcome == "fails" else "fails_after_with"
    return {when: cause, "tells": trouble.tells}


def entity_tag(content: Document, revision: int = 0) -> str:
    """The ETag of an entity in one state; opaque to clients."""
    text = json.dumps([revision, content], sort_keys=True).encode()
    digest = base64.urlsafe_b64encode(hashlib.sha256(text).digest()[:12]).decode()
    return f'"YXBwbGljYXRpb24vanNvbg==:{digest}"'


def check_tag(given: str | None, current: str, *, is_required: bool, settings: Settings) -> None:
    """PreconditionError unless `If-Match` fits the entity as it is (nutanix-v4 §10, §23 rule 5)."""
    if given is None:
        if is_required and settings.entity_tags == "strict":
            raise PreconditionError(
                "If-Match is missing.", code="PLAT-10004", group="MISSING_ETAG_HEADER"
            )
        return
    if given.strip('"') == current.strip('"'):
        return
    if ":" not in given:
        raise PreconditionError("If-Match is not an ETag.", code="PLAT-10005", group="INVALID_ETAG")
    if settings.entity_tags == "strict" or is_required:
        raise PreconditionError(
            "The entity was changed since its ETag was read.",
            code="VMM-30303",
            group="VM_ETAG_MISMATCH",
        )


def _lock(state: Path) -> IO[str]:
    file = (state / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise StateInUseError(str(state)) from error
    return file


def _credentials(path: Path) -> tuple[bytes, str]:
    """The signing secret and the admin password of a state directory, made on first use."""
    if not path.exists():
        made = {"secret": secrets.token_hex(32), "password": secrets.token_urlsafe(16)}
        spare = path.with_suffix(".part")
        descriptor = os.open(spare, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(made, file)
        spare.replace(path)
    kept = json.loads(path.read_text())
    return bytes.fromhex(kept["secret"]), kept["password"]


def seeded_id(seed: str, name: str) -> str:
    """An id that is the same for the same seed, for what is there from the beginning."""
    digits = random.Random(f"{seed}/{name}").randbytes(16).hex()
    return str(uuid.UUID(digits))


def refuse(message: str, *, code: str, group: str, status: int = 422) -> RefusedError:
    """A refusal in one line, for rules."""
    return RefusedError(message, status=status, code=code, group=group)
