"""One disk as SCSI block commands see it (SPC-4, SBC-3), over a sparse file.

512-byte logical and 4 KiB physical blocks, thin: UNMAP and WRITE SAME punch holes, GET LBA STATUS tells them.
Before the first other command a unit reports UNIT ATTENTION once, as real ones do after a login.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from simulator.sparse import data_extents, punch

BLOCK_BYTES = 512
_GOOD, _CHECK_CONDITION = 0x00, 0x02
# Writes reach the file before they are answered, so both bits are honoured by doing nothing.
_DPO_FUA = 0x10
_VENDOR, _PRODUCT = b"NUTANIX ", b"VDISK           "


@dataclass(frozen=True, slots=True)
class Result:
    """What a command gives: data for the initiator, or a status with its sense."""

    data: bytes = b""
    status: int = _GOOD
    sense: bytes = b""


def _sense(key: int, code: int, qualifier: int) -> Result:
    fixed = struct.pack(">BBBIBIBBBBH", 0x70, 0, key, 0, 10, 0, code, qualifier, 0, 0, 0)
    return Result(status=_CHECK_CONDITION, sense=fixed)


UNSUPPORTED_COMMAND = _sense(0x5, 0x20, 0x00)
OUT_OF_RANGE = _sense(0x5, 0x21, 0x00)
INVALID_FIELD = _sense(0x5, 0x24, 0x00)
NO_SUCH_UNIT = _sense(0x5, 0x25, 0x00)
MEDIUM_ERROR = _sense(0x3, 0x11, 0x00)
BUSY = Result(status=0x08)
ATTENTION_AFTER_LOGIN = _sense(0x6, 0x29, 0x00)


class LogicalUnit:
    """A disk behind one session. Not for several threads at once; units of other sessions share the file."""

    def __init__(self, path: Path, serial: str) -> None:
        self._path = path
        self._serial = serial.encode()
        self._file = path.open("r+b", buffering=0)
        self._is_new = True
        self._commands: dict[int, Callable[[bytes, bytes], Result]] = {
            0x00: lambda _cdb, _data: Result(),
            0x12: self._inquiry,
            0x1A: lambda _cdb, _data: Result(bytes([3, 0, _DPO_FUA, 0])),
            0x1B: lambda _cdb, _data: Result(),
            0x25: self._read_capacity_10,
            0x28: self._read,
            0x2A: self._write,
            0x35: self._synchronize,
            0x42: self._unmap,
            0x5A: lambda _cdb, _data: Result(bytes([0, 6, 0, _DPO_FUA, 0, 0, 0, 0])),
            0x88: self._read,
            0x8A: self._write,
            0x91: self._synchronize,
            0x93: self._write_same,
            0x9E: self._service_action,
        }

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    @property
    def block_count(self) -> int:
        """Length in logical blocks; a growing disk grows here too."""
        return os.fstat(self._file.fileno()).st_size // BLOCK_BYTES

    def execute(self, cdb: bytes, data: bytes) -> Result:
        """Do one command with the data that came with it."""
        operation = cdb[0]
        if self._is_new and operation != 0x12:
            self._is_new = False
            return ATTENTION_AFTER_LOGIN
        command = self._commands.get(operation)
        return UNSUPPORTED_COMMAND if command is None else command(cdb, data)

    # -- what the unit is ----------------------------------------------------------------------

    def _inquiry(self, cdb: bytes, _data: bytes) -> Result:
        if cdb[1] & 1:
            return self._vital_product_data(cdb[2])
        if cdb[2]:
            return INVALID_FIELD
        head = bytes([0x00, 0x00, 0x06, 0x12, 91, 0, 0, 0x02])
        claims = struct.pack(">HHH", 0x0460, 0x04C0, 0x0960)  # SPC-4, SBC-3, iSCSI
        return Result(
            (head + _VENDOR + _PRODUCT + b"1.0 ").ljust(58, b"\0") + claims.ljust(38, b"\0")
        )

    def _vital_product_data(self, page: int) -> Result:
        identifier = _VENDOR + self._serial
        pages = {
            0x00: bytes([0x00, 0x80, 0x83, 0xB0, 0xB2]),
            0x80: self._serial,
            0x83: bytes([0x02, 0x01, 0x00, len(identifier)]) + identifier,
            # Maximal transfer 8 MiB, unmap and write same as much as they like (SBC-3 §6.6.3).
            0xB0: struct.pack(
                ">xxHIIIIIIIQ", 8, 16384, 2048, 0, 0xFFFFFFFF, 256, 8, 0, 0xFFFFFFFF
            ).ljust(60, b"\0"),
            # UNMAP and both WRITE SAMEs work, and unmapped blocks read as zeros.
            0xB2: bytes([0, 0xE4, 2, 0]),
        }
        body = pages.get(page)
        if body is None:
            return INVALID_FIELD
        return Result(struct.pack(">BBH", 0, page, len(body)) + body)

    def _read_capacity_10(self, _cdb: bytes, _data: bytes) -> Result:
        last = min(self.block_count - 1, 0xFFFFFFFF)
        return Result(struct.pack(">II", last, BLOCK_BYTES))

    def _service_action(self, cdb: bytes, _data: bytes) -> Result:
        action = cdb[1] & 0x1F
        if action == 0x10:
            # Three logical blocks to the power of two per physical one; thin, and unmapped reads as zero.
            flags = struct.pack(">BBH", 0, 3, 0xC000)
            return Result(
                (struct.pack(">QI", self.block_count - 1, BLOCK_BYTES) + flags).ljust(32, b"\0")
            )
        if action == 0x12:
            return self._lba_status(struct.unpack_from(">Q", cdb, 2)[0])
        return UNSUPPORTED_COMMAND

    def _lba_status(self, first: int) -> Result:
        if first >= self.block_count:
            return OUT_OF_RANGE
        start, end = first * BLOCK_BYTES, self.block_count * BLOCK_BYTES
        data = next(data_extents(self._path, start, end), (end, end))
        is_hole = data[0] > start
        stop = data[0] if is_hole else data[1]
        count = max(1, min(0xFFFFFFFF, (stop - start) // BLOCK_BYTES))
        row = struct.pack(">QIBxxx", first, count, 1 if is_hole else 0)
        return Result(struct.pack(">I4x", 4 + len(row)) + row)

    # -- reading and writing -------------------------------------------------------------------

    def _range(self, cdb: bytes) -> tuple[int, int] | None:
        """Start and length in bytes, or None when it is not inside the disk."""
        if cdb[0] in (0x28, 0x2A):
            first, count = struct.unpack_from(">I", cdb, 2)[0], struct.unpack_from(">H", cdb, 7)[0]
        else:
            first, count = struct.unpack_from(">QI", cdb, 2)
        if first + count > self.block_count:
            return None
        return first * BLOCK_BYTES, count * BLOCK_BYTES

    def _read(self, cdb: bytes, _data: bytes) -> Result:
        if cdb[1] & 0xE0:
            return INVALID_FIELD
        place = self._range(cdb)
        if place is None:
            return OUT_OF_RANGE
        return Result(os.pread(self._file.fileno(), place[1], place[0]))

    def _write(self, cdb: bytes, data: bytes) -> Result:
        if cdb[1] & 0xE0:
            return INVALID_FIELD
        place = self._range(cdb)
        if place is None:
            return OUT_OF_RANGE
        if len(data) < place[1]:
            return INVALID_FIELD
        os.pwrite(self._file.fileno(), data[: place[1]], place[0])
        return Result()

    def _synchronize(self, _cdb: bytes, _data: bytes) -> Result:
        os.fdatasync(self._file.fileno())
        return Result()

    def _unmap(self, _cdb: bytes, data: bytes) -> Result:
        if len(data) < 8:
            return Result()
        length = struct.unpack_from(">H", data, 2)[0]
        for at in range(8, min(8 + length, len(data) - 15), 16):
            first, count = struct.unpack_from(">QI", data, at)
            if first + count > self.block_count:
                return OUT_OF_RANGE
            if count:
                punch(self._path, first * BLOCK_BYTES, (first + count) * BLOCK_BYTES)
        return Result()

    def _write_same(self, cdb: bytes, data: bytes) -> Result:
        place = self._range(cdb)
        wants_unmap, wants_anchor, has_no_data = cdb[1] & 0x08, cdb[1] & 0x10, cdb[1] & 0x01
        if cdb[1] & 0xE0 or wants_anchor or (not has_no_data and len(data) != BLOCK_BYTES):
            return INVALID_FIELD
        if place is None:
            return OUT_OF_RANGE
        start, length = place
        length = length or self.block_count * BLOCK_BYTES - start
        if wants_unmap or not any(data):
            punch(self._path, start, start + length)
        else:
            os.pwrite(self._file.fileno(), data * (length // BLOCK_BYTES), start)
        return Result()
