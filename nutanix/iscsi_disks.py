"""The disks of a volume group over iSCSI: the same reading and writing as an attached device, by network.

For a machine that is no VM of the cluster, or has no device directory: it reaches the cluster's data
services address instead (`nutanix-v4 §16`, `§26`). Which unit is which disk is settled by serial, or
by unit number and size, and refused when in doubt.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from nutanix.clock import Clock, SystemClock
from nutanix.connection import ISCSI_PORT
from nutanix.errors import DeviceMismatch, DiskError, DiskIoError, TargetRefused
from nutanix.iscsi_pdu import lun_number
from nutanix.iscsi_session import Command, IscsiSession, Login, ScsiError, discover
from nutanix.models.volume_groups import VolumeDisk

IQN_PREFIX = "iqn.2010-06.com.nutanix:"
TRANSFER_BYTES = 1 << 20
"""One SCSI command moves at most this much; longer reads and writes are several at a time."""
ZEROING_BYTES_MAX = 32 << 20
ATTEMPTS_MAX = 4
PASSING_MAX = 10
"""How often one command is sent again for news or a busy unit; the pauses add up to about six seconds."""
REACH_TIMEOUT_S = 5.0
BUSY_PAUSE_S = 0.02
BUSY_PAUSE_S_MAX = 1.0
_UUID = re.compile(r"[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class IscsiPortal:
    """Where the cluster serves iSCSI, and as whom we come. `initiator` is the name that was attached."""

    host: str
    initiator: str
    port: int = ISCSI_PORT
    chap_secret: str | None = field(default=None, repr=False)

    def login(self, target: str | None) -> Login:
        """The login to one of its targets, or to the list of them."""
        return Login(self.host, self.port, self.initiator, target, self.chap_secret)


class IscsiDisk:
    """One disk behind one iSCSI session. Thread-safe: one call at a time, each with several commands.

    A connection that breaks is made anew and the call done again, which is harmless because every
    command names its place. Errors are `DiskIoError` with disk, offset and unit.
    """

    def __init__(self, label: str, login: Login, lun: int, *, clock: Clock | None = None) -> None:
        self.label, self.device = label, f"{login.target} unit {lun}"
        self._login, self._lun, self._clock = login, lun, clock or SystemClock()
        self._lock = threading.Lock()
        self._session: IscsiSession | None = None
        self._fetcher = ThreadPoolExecutor(1, "iscsi-ahead")
        self._fetched: dict[tuple[int, int], Future[bytearray]] = {}
        self.block_bytes = 512
        try:
            blocks, self.block_bytes = self._capacity()
        except BaseException:
            self.close()
            raise
        self.size_bytes = blocks * self.block_bytes

    def read_into(self, offset_bytes: int, buffer: bytearray | memoryview) -> None:
        """Fill the whole buffer from `offset_bytes`; the end of the disk raises."""
        view = memoryview(buffer).cast("B")
        fetched = self._fetched.pop((offset_bytes, len(view)), None)
        if fetched is not None:
            view[:] = fetched.result()
        else:
            self._read(offset_bytes, view)

    def _read(self, offset_bytes: int, view: memoryview) -> None:
        self._require_inside("read", offset_bytes, len(view))
        start, end = self._whole_blocks(offset_bytes, len(view))
        if (start, end) == (offset_bytes, offset_bytes + len(view)):
            self._run("read", offset_bytes, self._transfers(0x88, start, into=view))
            return
        blocks = memoryview(bytearray(end - start))
        self._run("read", offset_bytes, self._transfers(0x88, start, into=blocks))
        view[:] = blocks[offset_bytes - start :][: len(view)]

    def read_ahead(self, offset_bytes: int, length_bytes: int) -> None:
        """Fetch a range into memory in a thread of the disk's own, until exactly it is read.

        What is written to the range meanwhile is not seen. A trouble is raised by that read.
        """

        def fetch() -> bytearray:
            data = bytearray(length_bytes)
            self._read(offset_bytes, memoryview(data))
            return data

        self._fetched[offset_bytes, length_bytes] = self._fetcher.submit(fetch)

    def write_at(self, offset_bytes: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data`; parts of blocks are read, changed and written back."""
        view = memoryview(data).cast("B")
        self._require_inside("write", offset_bytes, len(view))
        start, end = self._whole_blocks(offset_bytes, len(view))
        if (start, end) != (offset_bytes, offset_bytes + len(view)):
            blocks = bytearray(end - start)
            self._read(start, memoryview(blocks))
            blocks[offset_bytes - start : offset_bytes - start + len(view)] = view
            view = memoryview(blocks)
        self._run("write", offset_bytes, self._transfers(0x8A, start, data_out=view))

    def write_zeros(self, offset_bytes: int, length_bytes: int) -> None:
        """Make a range read as zeros, giving its space back where the target can do that."""
        self._require_inside("write", offset_bytes, length_bytes)
        end_bytes = offset_bytes + length_bytes
        first = min(end_bytes, -(-offset_bytes // self.block_bytes) * self.block_bytes)
        last = max(first, end_bytes // self.block_bytes * self.block_bytes)
        self.write_at(offset_bytes, bytes(first - offset_bytes))
        for start in range(first, last, ZEROING_BYTES_MAX):
            self._zero_blocks(start, min(ZEROING_BYTES_MAX, last - start))
        self.write_at(last, bytes(end_bytes - last))

    def flush(self) -> None:
        """Return when everything written is durable (SYNCHRONIZE CACHE)."""
        self._run("flush", 0, [Command(self._lun, bytes([0x91]))])

    def serial_ids(self) -> frozenset[str]:
        """The UUIDs in the unit's serial number (VPD page 80h); empty when it gives none."""
        answer = bytearray(255)
        cdb = bytes([0x12, 1, 0x80, 0, len(answer), 0])
        try:
            self._run("identify", 0, [Command(self._lun, cdb, into=memoryview(answer))])
        except DiskIoError as error:
            if isinstance(error.__cause__, ScsiError):
                return frozenset()
            raise
        serial = answer[4 : 4 + answer[3]].decode("ascii", "replace").lower()
        return frozenset(each.replace("_", "-") for each in _UUID.findall(serial))

    def close(self) -> None:
        """Log out; a second call does nothing. What was being fetched ahead is waited for and dropped."""
        self._fetcher.shutdown(cancel_futures=True)
        with self._lock:
            self._drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _capacity(self) -> tuple[int, int]:
        """Blocks and bytes per block (READ CAPACITY(16))."""
        answer = bytearray(32)
        cdb = bytes([0x9E, 0x10, *bytes(8), 0, 0, 0, len(answer), 0, 0])
        self._run("measure", 0, [Command(self._lun, cdb, into=memoryview(answer))])
        last = int.from_bytes(answer[:8], "big")
        return last + 1, int.from_bytes(answer[8:12], "big")

    def _zero_blocks(self, start_bytes: int, length_bytes: int) -> None:
        """WRITE SAME with UNMAP from one block of zeros; written out where the target cannot."""
        block = memoryview(bytes(self.block_bytes))
        cdb = self._place(0x93, start_bytes, length_bytes, flags=0x08)
        try:
            self._run("write zeros to", start_bytes, [Command(self._lun, cdb, data_out=block)])
        except DiskIoError as error:
            cause = error.__cause__
            if not isinstance(cause, ScsiError) or not cause.is_unsupported:
                raise
            self.write_at(start_bytes, bytes(length_bytes))

    def _transfers(
        self,
        opcode: int,
        start_bytes: int,
        *,
        into: memoryview | None = None,
        data_out: memoryview | None = None,
    ) -> list[Command]:
        """The commands that move whole blocks between the disk and a buffer."""
        view = into if into is not None else data_out
        commands = []
        for at in range(0, len(view or b""), TRANSFER_BYTES):
            part = (view or memoryview(b""))[at : at + TRANSFER_BYTES]
            cdb = self._place(opcode, start_bytes + at, len(part))
            if into is not None:
                commands.append(Command(self._lun, cdb, into=part))
            else:
                commands.append(Command(self._lun, cdb, data_out=part))
        return commands

    def _place(self, opcode: int, start_bytes: int, length_bytes: int, *, flags: int = 0) -> bytes:
        """A 16-byte command about a run of blocks (SBC-3)."""
        first = (start_bytes // self.block_bytes).to_bytes(8, "big")
        count = (length_bytes // self.block_bytes).to_bytes(4, "big")
        return bytes([opcode, flags]) + first + count + bytes(2)

    def _run(self, action: str, offset_bytes: int, commands: Sequence[Command]) -> None:
        """Run commands to their end: news is waited out, a broken session is made anew."""
        reason: Exception | None = None
        with self._lock:
            for _ in range(ATTEMPTS_MAX):
                try:
                    self._run_once(commands)
                except OSError as error:
                    self._drop()
                    reason = error
                except ScsiError as error:
                    reason = error
                    break
                else:
                    return
        raise DiskIoError(action, self.label, self.device, offset_bytes, str(reason)) from reason

    def _run_once(self, commands: Sequence[Command]) -> None:
        if self._session is None:
            self._session = IscsiSession(self._login)
        pending = list(commands)
        for attempt in range(PASSING_MAX):
            if (
                attempt > 1
            ):  # News comes once and is over; what still passes by then is a busy unit.
                self._clock.sleep(min(BUSY_PAUSE_S * 2**attempt, BUSY_PAUSE_S_MAX))
            self._session.run(pending)
            refused = [command for command in pending if command.error is not None]
            pending = []
            for command in refused:
                error, command.error = command.error, None
                if error is not None and not error.is_passing:
                    raise error
                pending.append(command)
            if not pending:
                return
        raise ConnectionError("the unit stays busy")

    def _drop(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _whole_blocks(self, offset_bytes: int, length_bytes: int) -> tuple[int, int]:
        start = offset_bytes // self.block_bytes * self.block_bytes
        return start, -(-(offset_bytes + length_bytes) // self.block_bytes) * self.block_bytes

    def _require_inside(self, action: str, offset_bytes: int, length_bytes: int) -> None:
        if offset_bytes < 0 or offset_bytes + length_bytes > self.size_bytes:
            reason = f"the disk ends at {self.size_bytes}"
            raise DiskIoError(action, self.label, self.device, offset_bytes, reason)


def reach_portal(host: str, port: int) -> None:
    """Raise `TargetRefused` when nothing answers at a portal. Says nothing of who may log in."""
    try:
        socket.create_connection((host, port), timeout=REACH_TIMEOUT_S).close()
    except OSError as error:
        raise _unreachable(IscsiPortal(host, "", port), error) from error


@contextmanager
def open_iscsi_disks(
    portal: IscsiPortal, target_name: str, disks: Sequence[VolumeDisk]
) -> Iterator[dict[int, IscsiDisk]]:
    """The disks of a volume group attached to our initiator, open, by disk index.

    A group is one target, or one target for each disk with `-tgt` and a number behind its name
    (`nutanix-v4 §16`). Raises `TargetRefused`, `DiskIoError`, or `DeviceMismatch` when a disk cannot be
    told from the others for sure. All sessions are closed at the end of the `with`.
    """
    with ExitStack() as stack:
        units = [
            stack.enter_context(IscsiDisk(f"unit {lun}", portal.login(target), lun))
            for target in _targets(portal, target_name)
            for lun in _units(portal.login(target))
        ]
        found = {}
        for disk in disks:
            unit = _unit_of(disk, units, frozenset(each.id.lower() for each in disks))
            unit.label = f"{disk.index} ({disk.id})"
            found[disk.index] = unit
        yield found


def _targets(portal: IscsiPortal, target_name: str) -> list[str]:
    base = f"{IQN_PREFIX}{target_name}"
    ours = re.compile(re.escape(base) + r"(-tgt\d+)?")
    try:
        found = sorted(name for name in discover(portal.login(None)) if ours.fullmatch(name))
    except OSError as error:
        raise _unreachable(portal, error) from error
    if not found:
        reason = "the portal does not show it; is the volume group attached to this initiator?"
        raise TargetRefused(f"{portal.host}:{portal.port}", base, reason)
    return found


def _units(login: Login) -> list[int]:
    """The disk units of a target (REPORT LUNS), without those that hold no disk."""
    answer = bytearray(4096)
    cdb = bytes([0xA0, 0, 0, 0, 0, 0, *len(answer).to_bytes(4, "big"), 0, 0])
    command = Command(0, cdb, into=memoryview(answer))
    try:
        session = IscsiSession(login)
        try:
            for _ in range(PASSING_MAX):
                command.error = None
                session.run([command])
                if command.error is None:
                    break
            length = min(int.from_bytes(answer[:4], "big"), len(answer) - 8)
            numbers = [lun_number(bytes(answer[at : at + 8])) for at in range(8, 8 + length, 8)]
            return [number for number in numbers if _is_disk(session, number)]
        finally:
            session.close()
    except OSError as error:
        reason = f"it broke the connection ({error})"
        raise TargetRefused(f"{login.host}:{login.port}", str(login.target), reason) from error


def _is_disk(session: IscsiSession, lun: int) -> bool:
    """Whether the unit is a disk; some targets show a controller as unit 0 (INQUIRY, type 0)."""
    answer = bytearray(36)
    session.run([Command(lun, bytes([0x12, 0, 0, 0, 36, 0]), into=memoryview(answer))])
    return answer[0] == 0


def _unit_of(
    disk: VolumeDisk, units: Sequence[IscsiDisk], group_disk_ids: frozenset[str]
) -> IscsiDisk:
    """The one unit that is this disk: by serial, else by number and size, else by size alone."""
    fitting = [unit for unit in units if unit.size_bytes == disk.size_bytes]
    serials = {unit.device: unit.serial_ids() for unit in fitting}
    own = disk.id.lower()
    named = [unit for unit in fitting if own in serials[unit.device]]
    unnamed = [unit for unit in fitting if not serials[unit.device] & group_disk_ids]
    numbered = [unit for unit in unnamed if unit.device.endswith(f" unit {disk.index}")]
    for candidates in (named, numbered, unnamed):
        if len(candidates) == 1:
            return candidates[0]
    label = f"{disk.index} ({disk.id})"
    devices = [unit.device for unit in fitting] or [unit.device for unit in units]
    reason = (
        "several units fit, so none is sure" if fitting else f"none has {disk.size_bytes} bytes"
    )
    raise DeviceMismatch(label, devices, reason)


def _unreachable(portal: IscsiPortal, error: OSError) -> DiskError:
    where = f"{portal.host}:{portal.port}"
    return TargetRefused(where, "discovery", f"it cannot be reached ({error.strerror or error})")
