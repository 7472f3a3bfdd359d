"""One iSCSI session with one target: log in, run SCSI commands, several at a time, log out.

In user space, so that a worker needs neither open-iscsi nor a kernel module nor root. What goes wrong
below SCSI is a `ConnectionError`, and the session is dead then; what the target's disk refuses is a
`ScsiError`. Not thread-safe: the owner serialises.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from nutanix.errors import TargetRefused
from nutanix.iscsi_pdu import (
    FINAL,
    HEADER_BYTES,
    IMMEDIATE,
    NO_TAG,
    Opcode,
    Pdu,
    lun_field,
    pack,
    pack_text,
    padding,
    unpack,
    unpack_text,
)

SEGMENT_BYTES_MAX: Final = 1 << 20
LOGIN_ROUNDS_MAX = 10
REDIRECTS_MAX = 4
TIMEOUT_S = 60.0
FIRST_COMMAND = 1
"""Any number will do; the login and the first command after it carry the same."""
GOOD, BUSY, TASK_SET_FULL = 0x00, 0x08, 0x28
_READ, _WRITE, _SIMPLE = 0x40, 0x20, 0x01
_OPERATIONAL = {
    "HeaderDigest": "None",
    "DataDigest": "None",
    "MaxConnections": "1",
    "InitialR2T": "Yes",
    "ImmediateData": "No",
    "MaxRecvDataSegmentLength": str(SEGMENT_BYTES_MAX),
    "MaxBurstLength": str(SEGMENT_BYTES_MAX),
    "FirstBurstLength": "65536",
    "MaxOutstandingR2T": "1",
    "DataPDUInOrder": "Yes",
    "DataSequenceInOrder": "Yes",
    "ErrorRecoveryLevel": "0",
    "DefaultTime2Wait": "2",
    "DefaultTime2Retain": "0",
}


SENSE_WORDS = {
    0x02: "it is not ready",
    0x03: "the medium cannot be read or written there",
    0x04: "its hardware failed",
    0x05: "it does not know the command",
    0x07: "it is write-protected",
    0x0B: "it aborted the command",
}


class ScsiError(Exception):
    """A command that the disk refused, with its sense data (SPC-4 §4.5)."""

    def __init__(self, status: int, sense: bytes) -> None:
        self.status = status
        self.sense_key = sense[2] & 0x0F if len(sense) > 2 else 0
        self.code = (sense[12], sense[13]) if len(sense) > 13 else (0, 0)
        words = SENSE_WORDS.get(self.sense_key, "it refused the command")
        sense_text = f"sense {self.sense_key:x}/{self.code[0]:02x}/{self.code[1]:02x}"
        super().__init__(f"{words} (SCSI status {status:#04x}, {sense_text})")

    @property
    def is_passing(self) -> bool:
        """News after a login (UNIT ATTENTION), or too much to do just now: the same command again."""
        return self.status in (BUSY, TASK_SET_FULL) or self.sense_key == 0x06

    @property
    def is_unsupported(self) -> bool:
        """The disk does not know this command or these fields of it."""
        return self.sense_key == 0x05


@dataclass(frozen=True, slots=True)
class Login:
    """Who logs in where. `chap_secret` is asked for only if the target wants CHAP."""

    host: str
    port: int
    initiator: str
    target: str | None
    """`None`: a discovery session."""
    chap_secret: str | None = field(default=None, repr=False)

    def refused(self, reason: str) -> TargetRefused:
        """The typed refusal of this login."""
        return TargetRefused(f"{self.host}:{self.port}", self.target or "discovery", reason)


@dataclass(slots=True)
class Command:
    """One SCSI command. Data goes into `into` or comes from `data_out`; neither may be resized."""

    lun: int
    cdb: bytes
    into: memoryview | None = None
    data_out: memoryview | None = None
    error: ScsiError | None = None

    @property
    def length(self) -> int:
        """Bytes that the command transfers."""
        view = self.into if self.into is not None else self.data_out
        return 0 if view is None else len(view)


class IscsiSession:
    """An open session. `close` logs out; a session that broke is only closed."""

    def __init__(self, login: Login) -> None:
        agreed = _log_in(login)
        self._socket = agreed.connection
        self._send_segment_bytes = agreed.send_segment_bytes
        self._expected_status = agreed.expected_status
        self._commands_until = agreed.commands_until
        self._command_number = FIRST_COMMAND
        self._next_tag = 1

    def close(self) -> None:
        """Log out as far as that still works, and close the connection."""
        header = pack(Opcode.LOGOUT | IMMEDIATE, FINAL, tag=0x7FFFFFFF, words=self._numbers())
        with suppress(OSError):  # The target ends sessions of closed connections by itself.
            self._socket.sendall(header)
        self._socket.close()

    def run(self, commands: Sequence[Command]) -> None:
        """Run commands, as many at a time as the target takes; a refused one keeps its `error`.

        `ConnectionError` when the session breaks; which commands were done is unknown then.
        """
        waiting = list(reversed(commands))
        running: dict[int, Command] = {}
        try:
            while waiting or running:
                while waiting and self._may_send():
                    command = waiting.pop()
                    running[self._send(command)] = command
                self._receive(running)
        except (OSError, ValueError) as error:
            raise ConnectionError(str(error) or type(error).__name__) from error

    def text(self, pairs: dict[str, str]) -> list[tuple[str, str]]:
        """A text request, such as SendTargets, and its answer over as many parts as it takes."""
        found, target_tag, data = b"", NO_TAG, pack_text(pairs)
        while True:
            words = {20: target_tag, **self._numbers()}
            self._command_number = (self._command_number + 1) & 0xFFFFFFFF
            header = pack(Opcode.TEXT, FINAL, tag=1, words=words, data_length=len(data))
            self._socket.sendall(header + data + padding(len(data)))
            pdu, part = read_pdu(self._socket)
            self._note_numbers(pdu)
            if pdu.opcode != Opcode.TEXT_RESPONSE:
                raise ConnectionError(f"unexpected answer {pdu.opcode:#04x} to a text request")
            found, target_tag, data = found + part, pdu.word(20), b""
            if pdu.flags & FINAL:
                return unpack_text(found)

    def _may_send(self) -> bool:
        """Whether the target's command window is open; numbers wrap at 2^32."""
        return (self._commands_until - self._command_number) & 0xFFFFFFFF < 0x80000000

    def _send(self, command: Command) -> int:
        tag, self._next_tag = self._next_tag, self._next_tag % 0x7FFFFFF0 + 1
        flags = FINAL | _SIMPLE
        if command.into is not None:
            flags |= _READ
        elif command.data_out is not None:
            flags |= _WRITE
        header = pack(
            Opcode.COMMAND,
            flags,
            lun=lun_field(command.lun),
            tag=tag,
            words={20: command.length, **self._numbers()},
            tail=command.cdb.ljust(16, b"\0"),
        )
        self._socket.sendall(header)
        self._command_number = (self._command_number + 1) & 0xFFFFFFFF
        return tag

    def _receive(self, running: dict[int, Command]) -> None:
        """Take one PDU: data goes straight to its place, an end ends its command."""
        pdu = unpack(_read_exactly(self._socket, HEADER_BYTES))
        if pdu.opcode == Opcode.DATA_IN:
            self._take_data(pdu, running)
            return
        data = _read_exactly(self._socket, pdu.data_length + len(padding(pdu.data_length)))
        if pdu.opcode == Opcode.RESPONSE:
            self._note_numbers(pdu)
            self._end(pdu, data, running)
        elif pdu.opcode == Opcode.READY_TO_TRANSFER:
            self._send_data(pdu, running[pdu.tag])
        elif pdu.opcode == Opcode.NOP_IN:
            self._answer_ping(pdu)
        else:
            raise ConnectionError(f"the target ended the session (PDU {pdu.opcode:#04x})")

    def _take_data(self, pdu: Pdu, running: dict[int, Command]) -> None:
        command, offset = running[pdu.tag], pdu.word(40)
        if command.into is None or offset + pdu.data_length > len(command.into):
            raise ConnectionError("the target sent more data than was asked for")
        _read_into(self._socket, command.into[offset : offset + pdu.data_length])
        _read_exactly(self._socket, len(padding(pdu.data_length)))
        if pdu.flags & 0x01:
            self._note_numbers(pdu)
            self._end(pdu, b"", running)

    def _end(self, pdu: Pdu, data: bytes, running: dict[int, Command]) -> None:
        command = running.pop(pdu.tag)
        if pdu.opcode == Opcode.RESPONSE and pdu.extra[0] != 0:
            raise ConnectionError(f"the target failed a command (response {pdu.extra[0]:#04x})")
        if pdu.status != GOOD:
            command.error = ScsiError(pdu.status, data[2:])

    def _send_data(self, ready: Pdu, command: Command) -> None:
        if command.data_out is None:
            raise ConnectionError("the target asked for data of a command that has none")
        start, wanted = ready.word(40), ready.word(44)
        for number, at in enumerate(range(start, start + wanted, self._send_segment_bytes)):
            part = command.data_out[at : min(at + self._send_segment_bytes, start + wanted)]
            is_last = at + len(part) == start + wanted
            words = {20: ready.word(20), 28: self._expected_status, 36: number, 40: at}
            header = pack(
                Opcode.DATA_OUT,
                FINAL if is_last else 0,
                lun=ready.lun,
                tag=ready.tag,
                words=words,
                data_length=len(part),
            )
            self._socket.sendall(header)
            self._socket.sendall(part)
            self._socket.sendall(padding(len(part)))

    def _answer_ping(self, ping: Pdu) -> None:
        self._note_numbers(ping)
        if ping.word(20) == NO_TAG:
            return
        words = {20: ping.word(20), **self._numbers()}
        header = pack(Opcode.NOP_OUT | IMMEDIATE, FINAL, lun=ping.lun, tag=NO_TAG, words=words)
        self._socket.sendall(header)

    def _numbers(self) -> dict[int, int]:
        return {24: self._command_number, 28: self._expected_status}

    def _note_numbers(self, pdu: Pdu) -> None:
        """Take over the target's counters; a ping without a tag does not use up a status number."""
        uses_number = pdu.opcode != Opcode.NOP_IN or pdu.tag != NO_TAG
        self._expected_status = (pdu.word(24) + (1 if uses_number else 0)) & 0xFFFFFFFF
        self._commands_until = pdu.word(32)


@dataclass(frozen=True, slots=True)
class _Agreed:
    """A connection after its login, with what the two sides agreed on."""

    connection: socket.socket
    send_segment_bytes: int
    expected_status: int
    commands_until: int


def _log_in(login: Login) -> _Agreed:
    """Log in, following redirects to other portals; `TargetRefused` or `OSError`."""
    host, port = login.host, login.port
    for _ in range(REDIRECTS_MAX):
        connection = socket.create_connection((host, port), timeout=TIMEOUT_S)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            negotiation = _Negotiation(login, connection)
            elsewhere = negotiation.run()
        except BaseException:
            connection.close()
            raise
        if elsewhere is None:
            return negotiation.agreed()
        connection.close()
        host, port = parse_portal(elsewhere)
    raise login.refused("it redirects in a circle")


class _Negotiation:
    """One login on one connection: security, then parameters (RFC 7143 §6.3)."""

    def __init__(self, login: Login, connection: socket.socket) -> None:
        self._login, self._connection = login, connection
        self._isid = b"\x80" + os.urandom(5)
        self._answer: dict[str, str] = {}
        self._expected_status = 0
        self._commands_until = 0

    def run(self) -> str | None:
        """Go through both stages; the address to go to instead, when the target sends us elsewhere."""
        names = {"InitiatorName": self._login.initiator, "SessionType": "Normal"}
        if self._login.target is None:
            names["SessionType"] = "Discovery"
        else:
            names["TargetName"] = self._login.target
        has_secret = self._login.chap_secret is not None
        keys = {**names, "AuthMethod": "CHAP,None" if has_secret else "None"}
        stage = self._ask(keys, stage=0, next_stage=1, is_ready=not has_secret)
        if "TargetAddress" in self._answer:
            return self._answer["TargetAddress"]
        if stage == 0:
            self._authenticate()
        keys = dict(_OPERATIONAL)
        for _ in range(LOGIN_ROUNDS_MAX):
            if self._ask(keys, stage=1, next_stage=3, is_ready=True) == 3:
                return None
            keys = {}
        raise self._login.refused("the negotiation does not end")

    def agreed(self) -> _Agreed:
        """The open connection and its numbers, after `run`."""
        segment_bytes = int(self._answer.get("MaxRecvDataSegmentLength", "8192"))
        return _Agreed(
            self._connection,
            min(segment_bytes, SEGMENT_BYTES_MAX),
            self._expected_status,
            self._commands_until,
        )

    def _authenticate(self) -> None:
        """CHAP with MD5, the one algorithm that every target has (RFC 7143 §12.1)."""
        if self._answer.get("AuthMethod") != "CHAP":
            if self._ask({}, stage=0, next_stage=1, is_ready=True) != 1:
                raise self._login.refused("it asks for an unknown way to authenticate")
            return
        self._ask({"CHAP_A": "5"}, stage=0, next_stage=1, is_ready=False)
        try:
            number = int(self._answer["CHAP_I"])
            challenge = bytes.fromhex(self._answer["CHAP_C"].removeprefix("0x"))
        except (KeyError, ValueError) as error:
            raise self._login.refused("it gives no CHAP challenge") from error
        secret = (self._login.chap_secret or "").encode()
        digest = hashlib.md5(bytes([number]) + secret + challenge, usedforsecurity=False)
        answer = {"CHAP_N": self._login.initiator, "CHAP_R": f"0x{digest.hexdigest()}"}
        if self._ask(answer, stage=0, next_stage=1, is_ready=True) != 1:
            raise self._login.refused("it does not accept the CHAP answer")

    def _ask(self, keys: dict[str, str], *, stage: int, next_stage: int, is_ready: bool) -> int:
        """One request and its answer; the stage the login is in afterwards."""
        data = pack_text(keys)
        flags = stage << 2 | ((FINAL | next_stage) if is_ready else 0)
        words = {20: 0, 24: FIRST_COMMAND, 28: self._expected_status}
        header = pack(
            Opcode.LOGIN | IMMEDIATE,
            flags,
            lun=self._isid + b"\0\0",
            tag=1,
            words=words,
            data_length=len(data),
        )
        self._connection.sendall(header + data + padding(len(data)))
        pdu, answer = read_pdu(self._connection)
        if pdu.opcode != Opcode.LOGIN_RESPONSE:
            raise self._login.refused(f"it answers a login with PDU {pdu.opcode:#04x}")
        self._expected_status = (pdu.word(24) + 1) & 0xFFFFFFFF
        self._commands_until = pdu.word(32)
        self._answer.update(unpack_text(answer))
        status = pdu.word(36) >> 16
        if status >> 8 == 1:
            return 1
        if status:
            raise self._login.refused(REFUSALS.get(status, f"login status {status:#06x}"))
        return pdu.flags & 0x03 if pdu.flags & FINAL else stage


REFUSALS = {
    0x0201: "the CHAP secret is wrong or missing",
    0x0202: "this initiator is not attached to the volume group",
    0x0203: "there is no such target; is the volume group attached to this initiator?",
    0x0301: "it is not available now",
    0x0302: "it is out of resources",
}


def discover(login: Login) -> list[str]:
    """The names of the targets that a portal shows this initiator."""
    session = IscsiSession(login)
    try:
        return [value for key, value in session.text({"SendTargets": "All"}) if key == "TargetName"]
    finally:
        session.close()


def parse_portal(address: str) -> tuple[str, int]:
    """`host:port,tag` or `[v6]:port,tag` as host and port; 3260 where none is given."""
    place = address.partition(",")[0]
    host, found, port = place.rpartition(":")
    if not found or place.endswith("]"):
        host, port = place, "3260"
    return host.strip("[]"), int(port)


def read_pdu(connection: socket.socket) -> tuple[Pdu, bytes]:
    """One PDU with its data, which is taken whole; `ConnectionError` when the connection ends."""
    try:
        pdu = unpack(_read_exactly(connection, HEADER_BYTES))
    except ValueError as error:
        raise ConnectionError(str(error)) from error
    data = _read_exactly(connection, pdu.data_length + len(padding(pdu.data_length)))
    return pdu, data[: pdu.data_length]


def _read_exactly(connection: socket.socket, length: int) -> bytes:
    data = bytearray(length)
    _read_into(connection, memoryview(data))
    return bytes(data)


def _read_into(connection: socket.socket, view: memoryview) -> None:
    receive: Callable[..., int] = connection.recv_into
    while len(view):
        count = receive(view, len(view), socket.MSG_WAITALL)
        if count == 0:
            raise ConnectionError("the target closed the connection")
        view = view[count:]
