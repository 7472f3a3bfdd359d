"""What a session says of itself: the figures of M2 to M6, and a text that fits into a ticket."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from jobs import (
    DiskResult,
    RetentionResult,
    SessionResult,
    VmResult,
    session_markdown,
    session_text,
)

START = datetime(2026, 11, 27, 1, tzinfo=UTC)
MIB, GIB = 1024**2, 1024**3


def vm(name: str, *, started_s: float, transfer_s: float, read_mib: int, **more) -> VmResult:
    """A VM with one disk, whose data moved from `started_s` on."""
    disk = DiskResult(
        disk_id=f"disk-of-{name}",
        label="scsi.0",
        provisioned_bytes=GIB,
        read_bytes=read_mib * MIB,
        stored_bytes=read_mib * MIB // 2,
        read_method=more.pop("read_method", "changed"),
        read_reason=more.pop("read_reason", "changed regions since the last restore point"),
    )
    return VmResult(
        vm_id=f"id-{name}",
        vm_name=name,
        status=more.pop("status", "success"),
        kind="incremental",
        worker="ahvault-worker-1",
        started_at=START,
        duration_s=transfer_s + 5,
        transfer_s=transfer_s,
        transfer_started_at=START + timedelta(seconds=started_s),
        disks=(disk,),
        **more,
    )


def session(*vms: VmResult, **more) -> SessionResult:
    return SessionResult(
        session_id="3f2a9c1d-0000",
        job="nightly",
        started_at=START,
        duration_s=125,
        status=more.pop("status", "success"),
        vms=vms,
        **more,
    )


def test_the_rate_is_bytes_read_over_the_time_in_which_data_moved() -> None:
    """M2: two VMs at once count their shared seconds once, waiting between them not at all."""
    together = session(
        vm("a", started_s=10, transfer_s=20, read_mib=300),
        vm("b", started_s=20, transfer_s=20, read_mib=100),
        vm("c", started_s=90, transfer_s=10, read_mib=0),
    )
    assert together.transfer_s == 40
    assert together.read_bytes == 400 * MIB
    assert together.provisioned_bytes == 3 * GIB


def test_the_load_of_a_session_weighs_its_vms_by_their_transfer_time() -> None:
    """M5: the busiest stage over all VMs is the bottleneck, throttling included; an idle VM has no say."""
    slow = vm("a", started_s=0, transfer_s=30, read_mib=9, loads={"source": 20, "throttling": 90})
    fast = vm("b", started_s=0, transfer_s=10, read_mib=9, loads={"source": 100, "throttling": 10})
    idle = vm("c", started_s=0, transfer_s=99, read_mib=0)
    whole = session(slow, fast, idle)
    assert whole.loads == {"source": 40, "throttling": 70}
    assert "source 40 % > throttling 70 %; bottleneck: throttling" in session_text(whole)
    assert "bottleneck: throttling" in session_markdown(whole)


def test_the_text_fits_a_ticket_and_names_failures_first() -> None:
    """No line over 100 columns but what cannot be broken; cause before figures' remarks; all of M2 is there."""
    why = "the recovery point does not hold disk scsi.3 and " + "a long explanation " * 9
    result = session(
        vm(
            "files01",
            started_s=0,
            transfer_s=10,
            read_mib=400,
            status="warning",
            warnings=("the worker runs on another host",),
            read_method="allocated",
            read_reason="first run of this VM in this job",
        ),
        vm("web01", started_s=0, transfer_s=0, read_mib=0, status="failed", error=why),
        status="failed",
        retention=RetentionResult(job="nightly", judged=9),
        left_out=("test01: excluded by the job",),
    )
    text = session_text(result)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert all(line == line.rstrip() for line in lines)
    assert lines[0] == "Session 3f2a9c1d of job nightly: failed in 2 min 05 s"
    assert "VMs        2: 1 warning, 1 failed" in lines
    remarks = [line for line in lines if line.startswith("- ")]
    assert remarks[0].startswith("- web01: failed: the recovery point does not hold disk")
    assert remarks[1] == "- files01: warning: the worker runs on another host"
    assert "- left out: test01: excluded by the job" in remarks
    assert any("read allocated: first run of this VM in this job" in line for line in remarks)
    for said in ("Processed  2.0 GiB in 2 disks", "400.0 MiB at 40.0 MiB/s", "200.0 MiB (2.0x)"):
        assert said in text
    assert "0 of 9 restore points forgotten" in text


def test_disks_with_the_same_reason_stand_on_one_line() -> None:
    """Two hundred first runs are one line, not two hundred."""
    many = [
        vm(
            f"vm{n}",
            started_s=0,
            transfer_s=1,
            read_mib=1,
            read_method="all",
            read_reason="told to",
        )
        for n in range(20)
    ]
    assert "- 20 disks: read all: told to" in session_text(session(*many)).splitlines()
