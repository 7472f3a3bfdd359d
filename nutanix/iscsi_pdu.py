"""The bytes of iSCSI (RFC 7143) that a reader and writer of disks needs. Pure: nothing here does I/O.

A PDU is a header of 48 bytes and a data segment padded to four. Fields that only some kinds have
share the same places; `Pdu` names them for the kinds we use.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

HEADER_BYTES = 48
NO_TAG = 0xFFFFFFFF
IMMEDIATE = 0x40
FINAL = 0x80
"""The last PDU of a sequence; in a login: ready for the next stage."""

# opcode, flags, two bytes by kind, AHS length, data length (3 bytes), eight bytes by kind (LUN or ISID
# and TSIH), initiator task tag, then 28 bytes by kind.
_HEADER = struct.Struct(">BB2sB3s8sI28s")


class Opcode(IntEnum):
    """Kinds of PDU, without the immediate bit."""

    NOP_OUT = 0x00
    COMMAND = 0x01
    LOGIN = 0x03
    TEXT = 0x04
    DATA_OUT = 0x05
    LOGOUT = 0x06
    NOP_IN = 0x20
    RESPONSE = 0x21
    LOGIN_RESPONSE = 0x23
    TEXT_RESPONSE = 0x24
    DATA_IN = 0x25
    LOGOUT_RESPONSE = 0x26
    READY_TO_TRANSFER = 0x31
    ASYNC = 0x32
    REJECT = 0x3F


@dataclass(frozen=True, slots=True)
class Pdu:
    """One PDU. `places` are the 28 bytes from offset 20 on, whose meaning depends on the kind."""

    opcode: int
    flags: int
    extra: bytes
    """Bytes 2 and 3: versions in a login, response and status in an answer."""
    lun: bytes
    tag: int
    places: bytes
    data_length: int

    @property
    def status(self) -> int:
        """The SCSI status of a response, or of data that carries one."""
        return self.extra[1]

    def word(self, offset: int) -> int:
        """The 32-bit word at an offset of the whole header, from 20 on."""
        return int.from_bytes(self.places[offset - 20 : offset - 16], "big")


def pack(
    opcode: int,
    flags: int,
    *,
    extra: bytes = b"\0\0",
    lun: bytes = bytes(8),
    tag: int = 0,
    words: Mapping[int, int] | None = None,
    tail: bytes = b"",
    data_length: int = 0,
) -> bytes:
    """A header. `words` are 32-bit values by header offset (20 to 44); `tail` starts at offset 32."""
    places = bytearray(28)
    places[12 : 12 + len(tail)] = tail
    for offset, value in (words or {}).items():
        places[offset - 20 : offset - 16] = (value & 0xFFFFFFFF).to_bytes(4, "big")
    length = data_length.to_bytes(3, "big")
    return _HEADER.pack(opcode, flags, extra, 0, length, lun, tag, bytes(places))


def unpack(header: bytes) -> Pdu:
    """A header as it came; `ValueError` for one with an additional header segment, which we never ask for."""
    opcode, flags, extra, ahs, length, lun, tag, places = _HEADER.unpack(header)
    if ahs:
        raise ValueError("an additional header segment was not agreed on")
    return Pdu(opcode & 0x3F, flags, extra, lun, tag, places, int.from_bytes(length, "big"))


def padding(length: int) -> bytes:
    """The zeros that fill a data segment up to a multiple of four."""
    return bytes(-length % 4)


def lun_field(lun: int) -> bytes:
    """A unit number as the header writes it: peripheral addressing below 256, flat above (SAM-4 §4.6)."""
    return (lun if lun < 256 else 0x4000 | lun).to_bytes(2, "big") + bytes(6)


def lun_number(field: bytes) -> int:
    """The unit number of a LUN field as REPORT LUNS lists it."""
    return int.from_bytes(field[:2], "big") & 0x3FFF


def pack_text(pairs: Mapping[str, str]) -> bytes:
    """Keys and values of a login or text request."""
    return b"".join(f"{key}={value}\0".encode() for key, value in pairs.items())


def unpack_text(data: bytes) -> list[tuple[str, str]]:
    """Keys and values in order; a key may repeat, as in the list of targets."""
    lines = data.decode("utf-8", "replace").split("\0")
    return [(key, value) for key, found, value in (line.partition("=") for line in lines) if found]
