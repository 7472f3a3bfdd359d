"""Volume groups over iSCSI, in user space: against the simulator's target, and against tgt where it is."""

from __future__ import annotations

import gc
import os
import random
import shutil
import socket
import subprocess
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from nutanix import (
    BlankDisk,
    DeviceMismatch,
    DiskFromRecoveryPoint,
    DiskIoError,
    IscsiDisk,
    IscsiPortal,
    TargetRefused,
    VolumeDisk,
    open_iscsi_disks,
)
from nutanix.iscsi_pdu import lun_field, lun_number, pack, pack_text, unpack, unpack_text
from nutanix.iscsi_session import Login, parse_portal
from simulator import Simulator

MiB = 1 << 20
IQN = "iqn.2024-01.io.ahvault:test"
SECRET = "secretsecret12"


@given(st.integers(0, 16383))
def test_unit_numbers_come_back(lun):
    """Every index that a volume disk can have survives its two ways of addressing."""
    assert lun_number(lun_field(lun)) == lun


def test_a_header_is_48_bytes_with_its_words_in_place():
    """Words sit at their offsets, lengths in three bytes, the immediate bit is taken off."""
    header = pack(0x43, 0x87, tag=7, words={24: 1, 28: 2, 44: 3}, data_length=70000)
    assert len(header) == 48
    pdu = unpack(header)
    assert (pdu.opcode, pdu.flags, pdu.tag, pdu.data_length) == (0x03, 0x87, 7, 70000)
    assert [pdu.word(offset) for offset in (20, 24, 28, 44)] == [0, 1, 2, 3]


def test_text_keys_come_back_in_order_and_may_repeat():
    """A list of targets repeats its key; values may hold an equals sign."""
    pairs = {"TargetName": "iqn.a:b", "X": "a=b"}
    assert unpack_text(pack_text(pairs) + b"TargetName=second\0") == [
        ("TargetName", "iqn.a:b"),
        ("X", "a=b"),
        ("TargetName", "second"),
    ]


@pytest.mark.parametrize(
    ("address", "portal"),
    [
        ("192.0.2.9:3261,1", ("192.0.2.9", 3261)),
        ("192.0.2.9", ("192.0.2.9", 3260)),
        ("[2001:db8::9]:3260,1", ("2001:db8::9", 3260)),
        ("[2001:db8::9]", ("2001:db8::9", 3260)),
    ],
)
def test_addresses_of_redirects(address, portal):
    """The address a target sends us to, in all its forms."""
    assert parse_portal(address) == portal


class Group:
    """A volume group of two disks on the simulator: one with content, one blank of another size."""

    def __init__(self, sim, client):
        self.sim, self.client = sim, client
        vm = client.find_vm("web01")
        self.point_id = client.create_recovery_point(
            name="t-iscsi",
            vm_ids=[vm.id],
            expires_at=datetime.now(UTC) + timedelta(days=1),
            request_id=str(uuid.uuid4()),
        )
        (member,) = client.recovery_point(self.point_id).vm_recovery_points
        (held,) = (
            each for each in client.disk_recovery_points(self.point_id, member.id) if each.disk_id
        )
        frozen = sim.story.frozen(held.ref.disk_recovery_point_id)
        self.truth = Path(frozen["path"]).read_bytes()
        container = client.storage_containers()[0].id
        sources = [
            DiskFromRecoveryPoint(0, held.ref.disk_recovery_point_id),
            BlankDisk(300, 8 * MiB, container),
        ]
        self.id = client.create_volume_group(
            name="t-iscsi", cluster_id=vm.cluster_id, disks=sources, request_id=str(uuid.uuid4())
        )
        self.disks = client.volume_disks(self.id)
        self.host, _, port = sim.describe()["iscsi_portal"].rpartition(":")
        self.port = int(port)

    def portal(self, initiator=IQN, secret=None):
        return IscsiPortal(self.host, initiator, self.port, secret)

    def open(self, **options):
        group = self.client.volume_group(self.id)
        return open_iscsi_disks(self.portal(**options), group.target_name, self.disks)


class Redirector:
    """Sends every login to `address`, or to itself when there is none (status 0x0101)."""

    def __init__(self, address):
        self.address = address

    def __enter__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        port = self.socket.getsockname()[1]
        self.address = self.address or f"127.0.0.1:{port},1"
        threading.Thread(target=self.serve, daemon=True).start()
        return port

    def serve(self):
        data = pack_text({"TargetAddress": self.address})
        answer = pack(0x23, 0, tag=1, words={36: 0x01010000}, data_length=len(data))
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(answer + data + bytes(-len(data) % 4))

    def __exit__(self, *error):
        self.socket.close()


@pytest.fixture(scope="module")
def sim():
    with Simulator(size=0.05) as running:
        yield running


@pytest.fixture
def group(sim, connect):
    with connect(sim) as client:
        made = Group(sim, client)
        yield made
        client.delete_volume_group(made.id)
        client.delete_recovery_point(made.point_id)


def test_a_group_is_read_over_the_wire(group):
    """Attached to an initiator, the disk's bytes are those of the recovery point, from any offset."""
    group.client.attach_iscsi_client(group.id, IQN)
    with group.open() as disks:
        assert set(disks) == {0, 300}
        buffer = bytearray(disks[0].size_bytes)
        disks[0].read_into(0, buffer)
        assert bytes(buffer) == group.truth
        for offset, length in ((1, 10), (511, 2), (512, 512), (3 * MiB - 7, 2 * MiB + 9), (5, 0)):
            buffer = bytearray(length)
            disks[0].read_into(offset, buffer)
            assert bytes(buffer) == group.truth[offset : offset + length]


def test_writes_and_zeros_over_the_wire(group):
    """A seeded story of writes and zeros, aligned or not, leaves exactly its bytes."""
    group.client.attach_iscsi_client(group.id, IQN)
    chance, expected = random.Random(7), bytearray(8 * MiB)
    with group.open() as disks:
        disk = disks[300]
        for _ in range(40):
            offset = chance.randrange(8 * MiB)
            length = min(chance.choice([1, 511, 512, 4096, 70_000, MiB]), 8 * MiB - offset)
            if chance.random() < 0.3:
                disk.write_zeros(offset, length)
                expected[offset : offset + length] = bytes(length)
            else:
                data = chance.randbytes(length)
                disk.write_at(offset, data)
                expected[offset : offset + length] = data
        disk.flush()
        found = bytearray(8 * MiB)
        disk.read_into(0, found)
        assert found == expected


def test_a_broken_connection_is_made_anew(group):
    """The connection dies between two reads and inside one; the bytes are right all the same."""
    group.client.attach_iscsi_client(group.id, IQN)
    with group.open() as disks:
        for _ in range(2):
            disks[0]._session._socket.shutdown(socket.SHUT_RDWR)
            buffer = bytearray(2 * MiB)
            disks[0].read_into(MiB, buffer)
            assert bytes(buffer) == group.truth[MiB : 3 * MiB]


def test_many_threads_read_one_disk(group):
    """One open disk serves many threads; no answer ends in another's buffer."""
    group.client.attach_iscsi_client(group.id, IQN)
    wrong = []
    with group.open() as disks:

        def read(start):
            buffer = bytearray(64 * 1024)
            for offset in range(start, 4 * MiB, 512 * 1024):
                disks[0].read_into(offset, buffer)
                if bytes(buffer) != group.truth[offset : offset + len(buffer)]:
                    wrong.append(offset)

        threads = [threading.Thread(target=read, args=(place * 65536,)) for place in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_what_was_announced_is_fetched_ahead(sim, group):
    """A range that was announced arrives while nobody waits; its trouble is told by its read; what nobody reads holds up nothing."""
    group.client.attach_iscsi_client(group.id, IQN)
    with group.open() as disks:
        disk = disks[0]
        places = [(MiB, MiB), (0, 4096), (2 * MiB + 512, 700)]
        for place in places:
            disk.read_ahead(*place)
        for future in disk._fetched.values():
            future.result()
        sim.story.set_faults({"faults": [{"kind": "iscsi", "how": "medium_error"}]})
        for offset, length in places:
            buffer = bytearray(length)
            disk.read_into(offset, buffer)  # Nothing is asked of the unit: it would fail.
            assert bytes(buffer) == group.truth[offset : offset + length]
        disk.read_ahead(3 * MiB, 512)
        with pytest.raises(DiskIoError, match=r"read disk 0 .* byte 3145728"):
            disk.read_into(3 * MiB, bytearray(512))
        sim.story.set_faults({})
        disk.read_ahead(0, MiB)


@pytest.mark.parametrize("fault", [{"how": "dropped", "every": 7}, {"how": "busy", "every": 3}])
def test_wire_trouble_is_survived(sim, group, fault):
    """Connections that break and units that are busy cost time, not bytes."""
    group.client.attach_iscsi_client(group.id, IQN)
    with group.open() as disks:
        sim.story.set_faults({"faults": [{"kind": "iscsi", **fault}]})
        try:
            content = random.Random(9).randbytes(3 * MiB)
            found = bytearray(3 * MiB)
            disks[300].write_at(1000, content)
            disks[300].read_into(1000, found)
        finally:
            struck = sim.story.struck_faults()
            sim.story.set_faults({})
    assert found == content
    assert sum(struck) > 0


def test_a_bad_medium_is_told(sim, group):
    """A medium error is no connection trouble: it is told at once, with disk, place and reason."""
    group.client.attach_iscsi_client(group.id, IQN)
    with group.open() as disks:
        sim.story.set_faults({"faults": [{"kind": "iscsi", "how": "medium_error"}]})
        with pytest.raises(
            DiskIoError, match=r"read disk 0 .* byte 4096: the medium cannot be read"
        ):
            disks[0].read_into(4096, bytearray(512))
        sim.story.set_faults({})


def test_a_disk_that_cannot_be_measured_leaves_no_connection(sim, group):
    """Opening fails at the first command: the connection made for it is closed, not left to the collector."""
    group.client.attach_iscsi_client(group.id, IQN)
    sim.story.set_faults({"faults": [{"kind": "iscsi", "how": "medium_error"}]})
    name = group.client.volume_group(group.id).target_name
    login = Login(group.host, group.port, IQN, f"iqn.2010-06.com.nutanix:{name}")
    with pytest.raises(DiskIoError, match="measure"):
        IscsiDisk("0", login, 0)
    sim.story.set_faults({})
    gc.collect()  # An open socket would be a warning here, and warnings are errors.


def test_nothing_beyond_the_disk(group):
    """Reads and writes past the end are refused with disk, unit and offset."""
    group.client.attach_iscsi_client(group.id, IQN)
    with group.open() as disks:
        size = disks[300].size_bytes
        for act in (
            lambda: disks[300].read_into(size - 1, bytearray(2)),
            lambda: disks[300].write_at(size, b"x"),
            lambda: disks[300].write_zeros(-1, 1),
        ):
            with pytest.raises(DiskIoError, match=r"disk 300 .* unit 300"):
                act()


def test_chap(group):
    """The right secret is let in; a wrong one or none is told as that, and never repeated."""
    group.client.attach_iscsi_client(group.id, f"{IQN}-chap", chap_secret=SecretStr(SECRET))
    with group.open(initiator=f"{IQN}-chap", secret=SECRET) as disks:
        disks[0].read_into(0, bytearray(512))
    for secret in ("wrongwrong12", None):
        opening = group.open(initiator=f"{IQN}-chap", secret=secret)
        with pytest.raises(TargetRefused) as caught, opening:
            pass
        assert "wrongwrong12" not in str(caught.value)
    assert SECRET not in repr(group.portal(secret=SECRET))
    assert SECRET not in repr(group.portal(secret=SECRET).login("t"))


def test_an_initiator_that_is_not_attached(group):
    """Without the attachment the portal shows nothing, and the error says what is missing."""
    with pytest.raises(TargetRefused, match="attached to this initiator"), group.open():
        pass


def test_attach_and_detach_can_be_repeated(group):
    """Both are successes when it is already so; the client's id stays the same."""
    client_id, target_name = group.client.attach_iscsi_client(group.id, IQN)
    assert target_name == group.client.volume_group(group.id).target_name
    assert group.client.attach_iscsi_client(group.id, IQN) == (client_id, target_name)
    group.client.detach_iscsi_client(group.id, client_id)
    group.client.detach_iscsi_client(group.id, client_id)
    assert group.client.volume_group(group.id).iscsi_client_ids == ()


def test_deleting_a_group_detaches_its_initiators(group):
    """A group that somebody left attached over iSCSI can be removed (§24.2)."""
    group.client.attach_iscsi_client(group.id, IQN)
    group.client.delete_volume_group(group.id)
    assert group.client.volume_groups(name_prefix="t-iscsi") == []


def test_a_login_is_sent_elsewhere(group):
    """The data services address redirects to another portal, as clusters do; a circle ends."""
    group.client.attach_iscsi_client(group.id, IQN)
    name = f"iqn.2010-06.com.nutanix:{group.client.volume_group(group.id).target_name}"
    for address, is_reached in ((f"{group.host}:{group.port},1", True), (None, False)):
        with Redirector(address) as port:
            login = Login("127.0.0.1", port, IQN, name)
            if is_reached:
                with IscsiDisk("0", login, 0) as disk:
                    assert disk.size_bytes == len(group.truth)
            else:
                with pytest.raises(TargetRefused, match="in a circle"):
                    IscsiDisk("0", login, 0)


def test_a_disk_that_no_unit_is(group):
    """A size that no unit has is refused; nothing is read."""
    group.client.attach_iscsi_client(group.id, IQN)
    group.disks = [VolumeDisk(id=str(uuid.uuid4()), index=0, size_bytes=12345 * 512)]
    with pytest.raises(DeviceMismatch, match="none has"), group.open():
        pass


def test_nobody_listens():
    """A closed port names the portal."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    opening = open_iscsi_disks(IscsiPortal("127.0.0.1", IQN, port), "x", [])
    with pytest.raises(TargetRefused, match=f"127.0.0.1:{port}"), opening:
        pass


@pytest.fixture
def tgt(tmp_path):
    """A tgt daemon over one disk, with a plain target and one that asks for CHAP."""
    if shutil.which("tgtd") is None:
        pytest.skip("tgt is not installed (apt install tgt)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "TGT_IPC_SOCKET": str(tmp_path / "ipc")}
    daemon = subprocess.Popen(
        ["tgtd", "-f", "-C", "9", "--iscsi", f"portal=127.0.0.1:{port}"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def admin(*words):
        arguments = ["tgtadm", "-C", "9", "--lld", "iscsi", *words]
        return subprocess.run(
            arguments, env=environment, check=False, capture_output=True
        ).returncode

    try:
        for _ in range(100):
            if admin("--mode", "sys", "--op", "show") == 0:
                break
            time.sleep(0.05)
        disk = tmp_path / "disk.raw"
        disk.write_bytes(random.Random(3).randbytes(40 * MiB))
        for tid, name in (
            ("1", "iqn.2010-06.com.nutanix:plain"),
            ("2", "iqn.2010-06.com.nutanix:chap"),
        ):
            admin("--mode", "target", "--op", "new", "--tid", tid, "-T", name)
            admin(
                "--mode", "logicalunit", "--op", "new", "--tid", tid, "--lun", "1", "-b", str(disk)
            )
            admin("--mode", "target", "--op", "bind", "--tid", tid, "-I", "ALL")
        admin("--mode", "account", "--op", "new", "--user", IQN, "--password", SECRET)
        admin("--mode", "account", "--op", "bind", "--tid", "2", "--user", IQN)
        yield port, disk
    finally:
        daemon.kill()  # It ignores SIGTERM while it has targets.
        daemon.wait()


def test_another_vendors_target_agrees(tgt):
    """tgt's controller unit, UNIT ATTENTION, pipelined reads and writes, zeros: all as with ours."""
    port, path = tgt
    size = 40 * MiB
    disks = [VolumeDisk(id=str(uuid.uuid4()), index=1, size_bytes=size)]
    with open_iscsi_disks(IscsiPortal("127.0.0.1", IQN, port), "plain", disks) as opened:
        found = bytearray(size)
        opened[1].read_into(0, found)
        expected = bytearray(path.read_bytes())
        assert found == expected
        expected[MiB + 5 : 31 * MiB + 5] = random.Random(4).randbytes(30 * MiB)
        opened[1].write_at(MiB + 5, expected[MiB + 5 : 31 * MiB + 5])
        opened[1].write_zeros(33 * MiB + 3, 5 * MiB)
        expected[33 * MiB + 3 : 38 * MiB + 3] = bytes(5 * MiB)
        opened[1].flush()
        opened[1].read_into(0, found)
        assert found == expected
    assert path.read_bytes() == bytes(expected)


def test_another_vendors_chap_agrees(tgt):
    """The CHAP answer is right for somebody else's target too, and a wrong one is refused."""
    port, _ = tgt
    name = "iqn.2010-06.com.nutanix:chap"
    with IscsiDisk("1", Login("127.0.0.1", port, IQN, name, SECRET), 1) as disk:
        assert disk.size_bytes == 40 * MiB
    with pytest.raises(TargetRefused, match="CHAP secret"):
        IscsiDisk("1", Login("127.0.0.1", port, IQN, name, "wrongwrong12"), 1)
