"""The listening side: sessions, logins with CHAP, and the way of commands to logical units."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from simulator.iscsi import pdu
from simulator.iscsi.pdu import FINAL, SEGMENT_BYTES_MAX, Pdu
from simulator.iscsi.unit import BUSY, MEDIUM_ERROR, NO_SUCH_UNIT, LogicalUnit, Result

log = logging.getLogger(__name__)

_WINDOW = 64
_PORTAL_GROUP = 1
_MOVED_TEMPORARILY, _AUTHENTICATION_FAILED, _NOT_FOUND = 0x0101, 0x0201, 0x0203
_OPERATIONAL = {
    "HeaderDigest": "None",
    "DataDigest": "None",
    "MaxRecvDataSegmentLength": str(SEGMENT_BYTES_MAX),
    "InitialR2T": "Yes",
    "ImmediateData": "Yes",
    "MaxBurstLength": str(SEGMENT_BYTES_MAX),
    "FirstBurstLength": "65536",
    "MaxOutstandingR2T": "1",
    "MaxConnections": "1",
    "DataPDUInOrder": "Yes",
    "DataSequenceInOrder": "Yes",
    "ErrorRecoveryLevel": "0",
    "DefaultTime2Wait": "2",
    "DefaultTime2Retain": "0",
}


Trouble = Literal["dropped", "medium_error", "busy"]


@dataclass(frozen=True, slots=True)
class Target:
    """What an initiator may log in to: units by number, and the CHAP secret if there is one.

    Before every command `is_offered` says whether the target is still there for this initiator, and
    `trouble` what happens instead of the command.
    """

    name: str
    open_units: Callable[[], Mapping[int, LogicalUnit]]
    chap_secret: str | None = None
    is_offered: Callable[[], bool] = lambda: True
    trouble: Callable[[], Trouble | None] = lambda: None


class Exports(Protocol):
    """Who sees which targets, asked at every discovery and login."""

    def targets_for(self, initiator: str) -> list[Target]:
        """Targets that this initiator may log in to."""
        ...


class Portal:
    """A listening iSCSI portal with a thread per connection.

    With `redirects_to`, the address of another portal, it answers logins to targets by sending the
    initiator there, as the data-services address of a cluster does.
    """

    def __init__(
        self, listening: socket.socket, exports: Exports, *, redirects_to: str | None = None
    ) -> None:
        self._socket, self._exports, self._redirects_to = listening, exports, redirects_to
        host, port = listening.getsockname()
        self.address = f"{host}:{port}"
        """`host:port` that initiators connect to."""
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, name="simulator-iscsi", daemon=True)

    def start(self) -> None:
        """Begin to accept."""
        self._socket.listen()
        self._thread.start()

    def stop(self) -> None:
        """Close the portal and every session."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()  # From here on no connection is added.
        self._socket.close()
        with self._lock:
            open_ones = list(self._connections)
        for connection in open_ones:
            _shut(connection)

    def _accept(self) -> None:
        while True:
            try:
                connection, _peer = self._socket.accept()
            except OSError:  # the portal was closed
                return
            with self._lock:
                self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        session = Session(connection, self._exports, self.address, self._redirects_to)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            session.run()
        except (pdu.ClosedError, OSError):
            log.debug("an initiator left without a logout")
        except (ValueError, LookupError, struct.error) as error:
            log.warning("an initiator sent what is no iSCSI: %r", error)
        finally:
            session.close()
            with self._lock:
                self._connections.discard(connection)
            connection.close()


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        log.debug("a connection was closed by its peer first")


class Session:
    """One connection from login to logout."""

    def __init__(
        self, connection: socket.socket, exports: Exports, address: str, redirects_to: str | None
    ) -> None:
        self._connection, self._exports, self._address = connection, exports, address
        self._redirects_to = redirects_to
        self._waiting: deque[Pdu] = deque()
        self._keys: dict[str, str] = {}
        self._target: Target | None = None
        self._units: Mapping[int, LogicalUnit] = {}
        self._challenge: tuple[int, bytes] | None = None
        self._is_trusted = False
        self._status_number = 1
        self._command_number = 1
        self._segment_bytes = 8192

    def close(self) -> None:
        """Let go of all units."""
        for unit in self._units.values():
            unit.close()

    def run(self) -> None:
        """Log in, then serve until logout."""
        if not self._log_in():
            return
        handlers = {
            pdu.NOP_OUT: self._ping,
            pdu.SCSI_COMMAND: self._command,
            pdu.TEXT: self._text,
            pdu.TASK_MANAGEMENT: self._manage,
        }
        while True:
            request = self._waiting.popleft() if self._waiting else pdu.receive(self._connection)
            self._count(request)
            if request.opcode == pdu.LOGOUT:
                self._reply(pdu.LOGOUT_RESPONSE, request)
                return
            handler = handlers.get(request.opcode)
            if handler is None:
                self._reply(pdu.REJECT, request, request.header)
            else:
                handler(request)

    # -- numbering -----------------------------------------------------------------------------

    def _count(self, request: Pdu) -> None:
        if not request.is_immediate and request.opcode != pdu.DATA_OUT:
            self._command_number = request.number(24) + 1

    def _number(self, header: bytearray, *, is_status: bool = True) -> None:
        window = (self._command_number, self._command_number + _WINDOW - 1)
        struct.pack_into(">III", header, 24, self._status_number, *window)
        if is_status:
            self._status_number += 1

    def _reply(self, opcode: int, request: Pdu, data: bytes = b"") -> None:
        header = pdu.blank(opcode, FINAL, request.tag)
        header[20:24] = b"\xff\xff\xff\xff"
        self._number(header)
        pdu.send(self._connection, header, data)

    # -- login ---------------------------------------------------------------------------------

    def _log_in(self) -> bool:
        """Negotiate until full feature; False after a refusal, which was sent."""
        while True:
            request = pdu.receive(self._connection)
            if request.opcode != pdu.LOGIN:
                return False
            self._command_number = request.number(24)
            keys = pdu.parse_text(request.data)
            self._keys |= keys
            refusal = self._admit(keys)
            if refusal:
                place = f"{self._redirects_to},{_PORTAL_GROUP}"
                said = [("TargetAddress", place)] if refusal == _MOVED_TEMPORARILY else []
                self._answer_login(request, 0, said, refusal)
                return False
            stage, following = (request.flags >> 2) & 3, request.flags & 3
            may_go_on = bool(request.flags & FINAL) and (stage == 1 or self._is_trusted)
            flags = (stage << 2) | ((FINAL | following) if may_go_on else 0)
            self._answer_login(request, flags, self._answers(keys, stage), 0)
            if may_go_on and following == 3:
                self._units = self._target.open_units() if self._target else {}
                return True

    def _admit(self, keys: Mapping[str, str]) -> int:
        """0, or the status of a refusal."""
        if self._target is None and self._keys.get("SessionType") != "Discovery":
            initiator = self._keys.get("InitiatorName", "")
            offered = {t.name: t for t in self._exports.targets_for(initiator)}
            self._target = offered.get(self._keys.get("TargetName", ""))
            if self._target is None:
                return _NOT_FOUND
            if self._redirects_to is not None:
                return _MOVED_TEMPORARILY
        secret = self._target.chap_secret if self._target else None
        if secret is None:
            self._is_trusted = True
        elif "CHAP_R" in keys:
            self._is_trusted = self._proves(secret, keys["CHAP_R"])
            return 0 if self._is_trusted else _AUTHENTICATION_FAILED
        elif "CHAP" not in self._keys.get("AuthMethod", "None").split(","):
            return _AUTHENTICATION_FAILED
        return 0

    def _proves(self, secret: str, response: str) -> bool:
        """Whether a CHAP response fits (RFC 1994: MD5 over id, secret and challenge)."""
        if self._challenge is None:
            return False
        identifier, challenge = self._challenge
        digest = hashlib.md5(
            bytes([identifier]) + secret.encode() + challenge, usedforsecurity=False
        )
        return hmac.compare_digest(response.lower(), f"0x{digest.hexdigest()}")

    def _answers(self, keys: Mapping[str, str], stage: int) -> list[tuple[str, str]]:
        """What we say to the keys of one login request."""
        said: list[tuple[str, str]] = []
        if self._target is not None and "TargetName" in keys:
            said.append(("TargetPortalGroupTag", str(_PORTAL_GROUP)))
        if stage == 0 and "AuthMethod" in keys:
            said.append(("AuthMethod", "None" if self._is_trusted else "CHAP"))
        if "CHAP_A" in keys:
            self._challenge = (secrets.randbelow(256), secrets.token_bytes(16))
            number, challenge = self._challenge
            said += [("CHAP_A", "5"), ("CHAP_I", str(number)), ("CHAP_C", f"0x{challenge.hex()}")]
        said += [(name, _OPERATIONAL[name]) for name in keys if name in _OPERATIONAL]
        offered = int(self._keys.get("MaxRecvDataSegmentLength", "8192"))
        self._segment_bytes = min(offered, SEGMENT_BYTES_MAX)
        return said

    def _answer_login(
        self, request: Pdu, flags: int, keys: list[tuple[str, str]], status: int
    ) -> None:
        header = pdu.blank(pdu.LOGIN_RESPONSE, flags, request.tag)
        header[8:14] = request.header[8:14]
        header[14:16] = b"\0\1"
        self._number(header)
        struct.pack_into(">H", header, 36, status)
        pdu.send(self._connection, header, pdu.format_text(keys))

    # -- full feature --------------------------------------------------------------------------

    def _ping(self, request: Pdu) -> None:
        if request.tag != b"\xff\xff\xff\xff":
            self._reply(pdu.NOP_IN, request, request.data)

    def _manage(self, request: Pdu) -> None:
        """Every command is done before the next is read, so there is never one to abort."""
        self._reply(pdu.TASK_RESPONSE, request)

    def _text(self, request: Pdu) -> None:
        wanted = pdu.parse_text(request.data).get("SendTargets")
        rows: list[tuple[str, str]] = []
        if wanted is not None:
            for target in self._exports.targets_for(self._keys.get("InitiatorName", "")):
                if wanted in ("All", "", target.name):
                    place = f"{self._address},{_PORTAL_GROUP}"
                    rows += [("TargetName", target.name), ("TargetAddress", place)]
        self._reply(pdu.TEXT_RESPONSE, request, pdu.format_text(rows))

    def _command(self, request: Pdu) -> None:
        expected = request.number(20)
        is_write = bool(request.flags & 0x20)
        data = self._gather(request, expected) if is_write else b""
        cdb = request.header[32:48]
        result = self._report_units(cdb) if cdb[0] == 0xA0 else self._execute(request, cdb, data)
        if result.data and result.status == 0:
            allocated = _allocation(cdb)
            self._send_data(request, result.data[:allocated], expected)
        self._respond(request, result, 0 if is_write else expected)

    def _execute(self, request: Pdu, cdb: bytes, data: bytes) -> Result:
        if self._target is None or not self._target.is_offered():
            raise pdu.ClosedError  # it was detached under the session
        trouble = self._target.trouble()
        if trouble == "dropped":
            raise pdu.ClosedError
        if trouble is not None:
            return MEDIUM_ERROR if trouble == "medium_error" else BUSY
        unit = self._units.get(request.header[9] | (request.header[8] & 0x3F) << 8)
        return NO_SUCH_UNIT if unit is None else unit.execute(cdb, data)

    def _report_units(self, _cdb: bytes) -> Result:
        rows = b"".join(bytes([n >> 8 & 0x3F, n & 0xFF]) + bytes(6) for n in sorted(self._units))
        return Result(struct.pack(">I4x", len(rows)) + rows)

    def _gather(self, request: Pdu, expected: int) -> bytes:
        """The data of a write: what came with the command, then what we ask for, piece by piece."""
        data = bytearray(request.data)
        number = 0
        while len(data) < expected:
            wanted = min(SEGMENT_BYTES_MAX, expected - len(data))
            header = pdu.blank(pdu.READY_TO_TRANSFER, FINAL, request.tag)
            header[8:16] = request.header[8:16]
            struct.pack_into(">I", header, 20, 1)
            self._number(header, is_status=False)
            struct.pack_into(">III", header, 36, number, len(data), wanted)
            pdu.send(self._connection, header)
            number += 1
            goal = len(data) + wanted
            while len(data) < goal:
                piece = pdu.receive(self._connection)
                if piece.opcode == pdu.DATA_OUT:
                    data += piece.data
                else:  # the initiator does not wait for one command before it sends the next
                    self._waiting.append(piece)
        return bytes(data)

    def _send_data(self, request: Pdu, data: bytes, expected: int) -> None:
        data = data[:expected]
        for number, at in enumerate(range(0, len(data), self._segment_bytes)):
            piece = data[at : at + self._segment_bytes]
            is_last = at + len(piece) == len(data)
            header = pdu.blank(pdu.DATA_IN, FINAL if is_last else 0, request.tag)
            header[20:24] = b"\xff\xff\xff\xff"
            self._number(header, is_status=False)
            struct.pack_into(">II", header, 36, number, at)
            pdu.send(self._connection, header, piece)

    def _respond(self, request: Pdu, result: Result, expected: int) -> None:
        sent = min(expected, len(result.data), _allocation(request.header[32:48]))
        header = pdu.blank(pdu.SCSI_RESPONSE, FINAL, request.tag)
        header[3] = result.status
        if result.status == 0 and expected > sent:
            header[1] |= 0x02
            struct.pack_into(">I", header, 44, expected - sent)
        self._number(header)
        pieces = -(-sent // self._segment_bytes) if result.status == 0 else 0
        struct.pack_into(">I", header, 36, pieces)
        sense = struct.pack(">H", len(result.sense)) + result.sense if result.sense else b""
        pdu.send(self._connection, header, sense)


def _allocation(cdb: bytes) -> int:
    """How many bytes the initiator has room for, where the command says so."""
    operation = cdb[0]
    if operation == 0x12:
        return int(struct.unpack_from(">H", cdb, 3)[0])
    if operation == 0x1A:
        return cdb[4]
    if operation == 0x5A:
        return int(struct.unpack_from(">H", cdb, 7)[0])
    if operation == 0xA0:
        return int(struct.unpack_from(">I", cdb, 6)[0])
    if operation == 0x9E:
        return int(struct.unpack_from(">I", cdb, 10)[0])
    return 1 << 31
