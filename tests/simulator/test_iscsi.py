"""A volume group attached to an initiator is a target on the wire, for that initiator and with its secret."""

from __future__ import annotations

import hashlib
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from simulator.sparse import KiB, MiB

GROUPS = "/volumes/v4.3/config/volume-groups"
INITIATOR = "iqn.1993-08.org.debian:01:test"


class LoginRefusedError(Exception):
    """The target said no; its status, and where it sends us."""

    def __init__(self, status: str, place: str) -> None:
        super().__init__(f"{status} {place}".strip())


class Initiator:
    """Just enough of RFC 7143 to log in, read and write, one command at a time."""

    def __init__(self, portal: str) -> None:
        host, port = portal.split(":")
        self.socket = socket.create_connection((host, int(port)))
        self.number = 1

    def log_in(self, target: str, *, name: str = INITIATOR, secret: str = "") -> None:
        method = "CHAP,None" if secret else "None"
        answer = self._login(
            0x81 if not secret else 0x00,
            {"InitiatorName": name, "AuthMethod": method, "TargetName": target},
        )
        if answer.get("AuthMethod") == "CHAP":
            asked = self._login(0x00, {"CHAP_A": "5"})
            challenge = (
                bytes([int(asked["CHAP_I"])]) + secret.encode() + bytes.fromhex(asked["CHAP_C"][2:])
            )
            digest = hashlib.md5(challenge).hexdigest()
            self._login(0x81, {"CHAP_N": "user", "CHAP_R": f"0x{digest}"})
        elif secret:
            self._login(0x81, {})
        self._login(
            0x87, {"MaxRecvDataSegmentLength": "65536", "InitialR2T": "Yes", "ImmediateData": "No"}
        )

    def close(self) -> None:
        self.socket.close()

    def _login(self, flags: int, keys: dict[str, str]) -> dict[str, str]:
        data = b"".join(f"{k}={v}\0".encode() for k, v in keys.items())
        header = bytearray(48)
        header[0], header[1] = 0x43, flags
        self._send(header, data)
        answer, said = self._receive()
        status = struct.unpack_from(">H", answer, 36)[0]
        if status:
            raise LoginRefusedError(
                hex(status), said.decode().removeprefix("TargetAddress=").strip("\0")
            )
        return dict(row.split("=", 1) for row in said.decode().split("\0") if row)

    def _send(self, header: bytearray, data: bytes = b"") -> None:
        header[5:8] = len(data).to_bytes(3, "big")
        self.socket.sendall(bytes(header) + data + bytes(-len(data) % 4))

    def _receive(self) -> tuple[bytes, bytes]:
        header = self._exactly(48)
        length = int.from_bytes(header[5:8], "big")
        return header, self._exactly(length + -length % 4)[:length]

    def _exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = self.socket.recv(length - len(data))
            assert piece, "the target hung up"
            data += piece
        return data

    def command(
        self, cdb: bytes, *, expected: int = 0, data: bytes = b"", lun: int = 0
    ) -> tuple[int, bytes]:
        """Status and data (or sense) of one command; a unit attention is retried once."""
        for _ in range(2):
            status, found = self._command(cdb, expected, data, lun)
            if not (status == 2 and found[2] == 6):
                break
        return status, found

    def start(self, cdb: bytes, direction: int, length: int, lun: int = 0) -> None:
        header = bytearray(48)
        header[0], header[1] = 0x01, 0x80 | direction
        header[9] = lun
        struct.pack_into(">III", header, 16, self.number, length, self.number)
        header[32 : 32 + len(cdb)] = cdb
        self.number += 1
        self._send(header)

    def _command(self, cdb: bytes, expected: int, data: bytes, lun: int) -> tuple[int, bytes]:
        self.start(cdb, 0x20 if data else 0x40 if expected else 0, len(data) or expected, lun)
        found = b""
        while True:
            answer, piece = self._receive()
            opcode = answer[0] & 0x3F
            if opcode == 0x25:
                found += piece
            elif opcode == 0x31:
                offset, wanted = struct.unpack_from(">II", answer, 40)
                self._send_data(answer, data[offset : offset + wanted], offset)
            else:
                return answer[3], piece[2:] if piece else found

    def _send_data(self, ready: bytes, data: bytes, offset: int) -> None:
        header = bytearray(48)
        header[0], header[1] = 0x05, 0x80
        header[8:24] = ready[8:24]
        struct.pack_into(">I", header, 40, offset)
        self._send(header, data)

    def read(self, offset: int, length: int, lun: int = 0) -> bytes:
        cdb = struct.pack(">BBQIBB", 0x88, 0, offset // 512, length // 512, 0, 0)
        status, data = self.command(cdb, expected=length, lun=lun)
        assert status == 0, data
        return data

    def write(self, offset: int, data: bytes, lun: int = 0) -> None:
        cdb = struct.pack(">BBQIBB", 0x8A, 0, offset // 512, len(data) // 512, 0, 0)
        status, sense = self.command(cdb, data=data, lun=lun)
        assert status == 0, sense

    def size_bytes(self, lun: int = 0) -> int:
        cdb = struct.pack(">BBQIBB", 0x9E, 0x10, 0, 32, 0, 0)
        _status, data = self.command(cdb, expected=32, lun=lun)
        last, block = struct.unpack_from(">QI", data)
        return (int(last) + 1) * int(block)


@contextmanager
def _session(api: Any, group: str, **options: str) -> Iterator[Initiator]:
    target = f"iqn.2010-06.com.nutanix:{api.get(f'{GROUPS}/{group}')['targetName']}"
    initiator = Initiator(options.pop("portal", api.simulator.iscsi_portal))
    try:
        initiator.log_in(target, **options)
        yield initiator
    finally:
        initiator.close()


def _attached(api: Any, point: Any, **client: str) -> str:
    group = str(api.make_group(*api.clones_of(point), name="on the wire"))
    body = {"iscsiInitiatorName": INITIATOR, **client}
    api.do("POST", f"{GROUPS}/{group}/$actions/attach-iscsi-client", json=body)
    return group


def test_the_disks_of_a_recovery_point_are_read_over_the_wire(api: Any) -> None:
    """Every disk is a unit by its index, as long as and equal to what was frozen."""
    point = api.snapshot("db01")
    group = _attached(api, point)
    with _session(api, group) as initiator:
        for lun, disk_point in enumerate(point.disk_points):
            frozen = Path(api.simulator.story.frozen(disk_point)["path"]).read_bytes()
            assert initiator.size_bytes(lun) == len(frozen)
            read = b"".join(initiator.read(at, MiB, lun) for at in range(0, len(frozen), MiB))
            assert read == frozen


def test_writes_stay_and_the_recovery_point_does_not_change(api: Any) -> None:
    """A write larger than one burst arrives whole, a second session reads it, the frozen bytes are as before."""
    point = api.snapshot("web01")
    frozen = Path(api.simulator.story.frozen(point.disk_points[0])["path"])
    before = frozen.read_bytes()
    group = _attached(api, point)
    payload = bytes(range(256)) * (3 * 256 * KiB // 256)
    with _session(api, group) as initiator:
        initiator.write(20 * MiB, payload)
    with _session(api, group) as initiator:
        assert initiator.read(20 * MiB, len(payload)) == payload
    assert frozen.read_bytes() == before


def test_only_the_attached_initiator_sees_the_target(api: Any) -> None:
    """Another name is not found; after the detachment nobody is."""
    group = _attached(api, api.snapshot("web01"))
    with (
        pytest.raises(LoginRefusedError, match="0x203"),
        _session(api, group, name="iqn.2000-01.org:other"),
    ):
        pass
    client = api.get("/volumes/v4.3/config/iscsi-clients")[0]["extId"]
    api.do("POST", f"{GROUPS}/{group}/$actions/detach-iscsi-client", json={"extId": client})
    with pytest.raises(LoginRefusedError, match="0x203"), _session(api, group):
        pass


def test_chap_is_asked_for_and_checked(api: Any) -> None:
    """The right secret opens the target, a wrong one and none do not."""
    secret = "secretsecret12"
    group = _attached(
        api, api.snapshot("web01"), clientSecret=secret, enabledAuthentications="CHAP"
    )
    assert secret not in api.send("GET", "/volumes/v4.3/config/iscsi-clients").text
    with _session(api, group, secret=secret) as initiator:
        assert initiator.read(512, 512)[:8] == b"EFI PART"
    for wrong in ("wrongwrong1234", ""):
        with pytest.raises(LoginRefusedError, match="0x201"), _session(api, group, secret=wrong):
            pass


def test_a_bad_command_has_a_sense_and_the_session_goes_on(api: Any) -> None:
    """Reading past the end is out of range, an unknown command and a missing unit are refused."""
    group = _attached(api, api.snapshot("web01"))
    with _session(api, group) as initiator:
        past = struct.pack(">BBQIBB", 0x88, 0, 1 << 40, 8, 0, 0)
        assert initiator.command(past, expected=4096)[1][12] == 0x21
        assert initiator.command(bytes([0xC1] + [0] * 15))[1][12] == 0x20
        assert initiator.command(bytes(6), lun=7)[1][12] == 0x25
        assert initiator.read(512, 512)[:8] == b"EFI PART"


def test_a_detached_group_is_gone_from_open_sessions(api: Any) -> None:
    """After the detachment the next command of a session that was open finds the connection closed."""
    group = _attached(api, api.snapshot("web01"))
    with _session(api, group) as initiator:
        initiator.read(0, 512)
        client = api.get("/volumes/v4.3/config/iscsi-clients")[0]["extId"]
        api.do("POST", f"{GROUPS}/{group}/$actions/detach-iscsi-client", json={"extId": client})
        with pytest.raises((AssertionError, OSError)):
            initiator.read(0, 512)


def test_commands_sent_ahead_are_all_answered(api: Any) -> None:
    """Reads that arrive while a write is still asked for its data are done after it, in order."""
    group = _attached(api, api.snapshot("web01"))
    with _session(api, group) as initiator:
        initiator.read(0, 512)
        payload = bytes(range(256)) * 256
        write = struct.pack(">BBQIBB", 0x8A, 0, 20 * MiB // 512, len(payload) // 512, 0, 0)
        read = struct.pack(">BBQIBB", 0x88, 0, 20 * MiB // 512, 1, 0, 0)
        initiator.start(write, 0x20, len(payload))
        for _ in range(3):
            initiator.start(read, 0x40, 512)
        ready, _nothing = initiator._receive()
        assert ready[0] & 0x3F == 0x31
        initiator._send_data(ready, payload, 0)
        opcodes = [initiator._receive() for _ in range(7)]
        assert [header[0] & 0x3F for header, _data in opcodes] == [0x21] + [0x25, 0x21] * 3
        assert opcodes[1][1] == payload[:512]


def test_a_login_may_be_sent_to_another_portal(open_api: Any) -> None:
    """With redirection the first portal names the second, and the second lets in."""
    api = open_api(redirects_iscsi=True)
    group = _attached(api, api.snapshot("web01"))
    with (
        pytest.raises(LoginRefusedError, match=r"0x101 127\.0\.0\.1:") as refused,
        _session(api, group),
    ):
        pass
    portal = str(refused.value).split()[1].split(",")[0]
    assert portal != api.simulator.iscsi_portal
    with _session(api, group, portal=portal) as initiator:
        assert initiator.read(512, 512)[:8] == b"EFI PART"


@pytest.mark.parametrize(("how", "status"), [("medium_error", 2), ("busy", 8)])
def test_a_command_may_fail_once(api: Any, how: str, status: int) -> None:
    """A planned fault hits the command it says, and the next one succeeds."""
    group = _attached(api, api.snapshot("web01"))
    with _session(api, group) as initiator:
        initiator.read(0, 512)
        fault = {"kind": "iscsi", "how": how, "match": {"path": "*on-the-wire*"}, "times": 1}
        api.simulator.story.set_faults({"faults": [fault]})
        cdb = struct.pack(">BBQIBB", 0x88, 0, 1, 1, 0, 0)
        found, sense = initiator.command(cdb, expected=512)
        assert found == status
        assert how == "busy" or (sense[2], sense[12]) == (3, 0x11)
        assert initiator.read(512, 512)[:8] == b"EFI PART"


@pytest.mark.skipif(shutil.which("iscsi-ls") is None, reason="libiscsi-bin is not installed")
def test_libiscsi_finds_and_reads_the_target(api: Any) -> None:
    """An initiator that nobody here wrote discovers the target and identifies the disk."""
    group = _attached(api, api.snapshot("web01"))
    portal = api.simulator.iscsi_portal
    listed = subprocess.run(
        ["iscsi-ls", "-i", INITIATOR, "-s", f"iscsi://{portal}"],
        capture_output=True,
        text=True,
        check=True,
    )
    name = f"iqn.2010-06.com.nutanix:{api.get(f'{GROUPS}/{group}')['targetName']}"
    assert name in listed.stdout
    url = f"iscsi://{portal}/{name}/0"
    shown = subprocess.run(
        ["iscsi-inq", "-i", INITIATOR, url], capture_output=True, text=True, check=True
    )
    assert "Vendor:NUTANIX" in shown.stdout
