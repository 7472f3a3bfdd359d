"""iSCSI protocol data units: reading, writing, and the text in them (RFC 7143 §11)."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

HEADER_BYTES = 48
# What we let an initiator send in one unit; also what we send at most, whatever it allows.
SEGMENT_BYTES_MAX = 256 * 1024

NOP_OUT, SCSI_COMMAND, TASK_MANAGEMENT, LOGIN, TEXT, DATA_OUT, LOGOUT = 0, 1, 2, 3, 4, 5, 6
NOP_IN, SCSI_RESPONSE, TASK_RESPONSE, LOGIN_RESPONSE, TEXT_RESPONSE = 0x20, 0x21, 0x22, 0x23, 0x24
DATA_IN, LOGOUT_RESPONSE, READY_TO_TRANSFER, REJECT = 0x25, 0x26, 0x31, 0x3F
FINAL = 0x80


@dataclass(frozen=True, slots=True)
class Pdu:
    """One unit: its 48 bytes of header and its data."""

    header: bytes
    data: bytes

    @property
    def opcode(self) -> int:
        """What it is, without the "immediate" bit."""
        return self.header[0] & 0x3F

    @property
    def is_immediate(self) -> bool:
        """Whether it stands outside the numbering of commands."""
        return bool(self.header[0] & 0x40)

    @property
    def flags(self) -> int:
        """The byte whose first bit is "final"."""
        return self.header[1]

    @property
    def tag(self) -> bytes:
        """The initiator's task tag."""
        return self.header[16:20]

    def number(self, at: int) -> int:
        """Four bytes of the header as a number."""
        return int(struct.unpack_from(">I", self.header, at)[0])


class ClosedError(Exception):
    """The initiator hung up."""


def receive(connection: socket.socket) -> Pdu:
    """Read one unit. ClosedError at the end of the connection."""
    header = _exactly(connection, HEADER_BYTES)
    extra_bytes, length = header[4] * 4, int.from_bytes(header[5:8], "big")
    _exactly(connection, extra_bytes)
    data = _exactly(connection, length + -length % 4)[:length]
    return Pdu(header, data)


def _exactly(connection: socket.socket, length: int) -> bytes:
    buffer = bytearray(length)
    view, filled = memoryview(buffer), 0
    while filled < length:
        count = connection.recv_into(view[filled:])
        if count == 0:
            raise ClosedError
        filled += count
    return bytes(buffer)


def send(connection: socket.socket, header: bytearray, data: bytes = b"") -> None:
    """Write one unit; the length of its data is filled in here."""
    header[5:8] = len(data).to_bytes(3, "big")
    connection.sendall(bytes(header) + data + bytes(-len(data) % 4))


def blank(opcode: int, flags: int, tag: bytes) -> bytearray:
    """A header with its first fields."""
    header = bytearray(HEADER_BYTES)
    header[0], header[1], header[16:20] = opcode, flags, tag
    return header


def parse_text(data: bytes) -> dict[str, str]:
    """Key-value pairs as login and text requests carry them."""
    pairs = (row.partition("=") for row in data.decode().split("\0") if row)
    return {key: value for key, _mark, value in pairs}


def format_text(pairs: list[tuple[str, str]]) -> bytes:
    """The same the other way; keys may repeat."""
    return b"".join(f"{key}={value}\0".encode() for key, value in pairs)
