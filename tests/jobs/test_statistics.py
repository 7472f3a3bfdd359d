"""Stage loads and the bottleneck (M5, Q11)."""

from jobs.statistics import bottleneck, stage_loads
from repository import TransferFigures


def test_loads_are_shares_of_the_transfer_time() -> None:
    """Waiting counts by the clock, computing by the cores; two disks at once add up, never above 100."""
    disks = [
        TransferFigures(read_bytes=1, read_s=4.0, compute_s=10.0, upload_s=1.0),
        TransferFigures(read_bytes=1, read_s=4.5, compute_s=6.0, upload_s=20.0),
    ]
    loads = stage_loads(disks, transfer_s=10.0, core_count=2)
    assert loads == {"source": 85, "worker": 80, "target": 100, "throttling": 0}
    assert bottleneck(loads) == "target"


def test_a_limit_that_holds_is_the_bottleneck() -> None:
    """When a throttle and its neighbour are equally busy, the limit is what slows the pipeline."""
    held = [TransferFigures(read_bytes=1, read_s=9.0, throttled_s=9.0)]
    assert bottleneck(stage_loads(held, transfer_s=10.0, core_count=2)) == "throttling"


def test_nothing_transferred_has_no_bottleneck() -> None:
    """An incremental without changes read nothing: no stage is to blame."""
    assert stage_loads([TransferFigures()], transfer_s=1.0, core_count=2) == {}
    assert bottleneck({}) is None
