"""Many clients at once: nothing deadlocks, nothing is lost, nothing is left."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

WORKERS = ("ahvault-worker-1", "ahvault-worker-2")
GROUPS = "/volumes/v4.3/config/volume-groups"


def _session(api: Any, vm: str, worker: str, number: int) -> None:
    """One backup session: freeze, clone, attach, read, detach, delete."""
    point = api.snapshot(vm, f"bk-{number}")
    regions = api.regions(point, None)
    group = api.make_group(*api.clones_of(point), name=f"bk-{number}")
    worker_id = api.vm(worker)["extId"]
    index = 10 + number
    api.do(
        "POST", f"{GROUPS}/{group}/$actions/attach-vm", json={"extId": worker_id, "index": index}
    )
    root = next(Path(w.device_root) for w in api.simulator.workers if w.name == worker)
    device = root / f"disk/by-path/pci-0000:00:05.0-scsi-0:0:{index}:0"
    frozen = Path(api.simulator.story.frozen(point.disk_points[0])["path"])
    _appears(device)
    with device.open("rb") as shown, frozen.open("rb") as truth:
        for start, end, kind in regions:
            shown.seek(start)
            truth.seek(start)
            content = shown.read(end - start)
            assert content == truth.read(end - start)
            assert kind == "REGULAR" or not any(content)
    api.do("POST", f"{GROUPS}/{group}/$actions/detach-vm", json={"extId": worker_id})
    api.do("DELETE", f"{GROUPS}/{group}")
    api.do("DELETE", f"/dataprotection/v4.4/config/recovery-points/{point.ext_id}")


def _appears(device: Path) -> None:
    wait = threading.Event()
    for _ in range(400):
        if device.exists():
            return
        wait.wait(0.005)
    raise AssertionError(f"{device.name} did not appear")


def test_sessions_side_by_side_with_busy_guests(open_api: Callable[..., Any]) -> None:
    """Twelve sessions in six threads over two workers, guests writing all the while, end without a trace."""
    api = open_api()
    for worker in WORKERS:
        api.set_power(worker, "power-on")
    documents = api.simulator.cluster.documents
    before = {
        kind: len(documents.all(kind)) for kind in ("recovery_point", "volume_group", "vdisk")
    }
    is_done = threading.Event()

    def scribble() -> None:
        number = 0
        while not is_done.is_set():
            for vm in ("web01", "db01", "files01"):
                api.simulator.story.write_file(
                    vm, f"/busy/{number % 5}", size_bytes=20_000, seed=str(number)
                )
            number += 1

    guest = threading.Thread(target=scribble)
    guest.start()
    try:
        with ThreadPoolExecutor(6) as pool:
            vms = ("web01", "db01", "files01")
            jobs = [pool.submit(_session, api, vms[n % 3], WORKERS[n % 2], n) for n in range(12)]
            for job in jobs:
                job.result(timeout=60)
    finally:
        is_done.set()
        guest.join()
    # Disks and devices go a moment after the task that removes them says so.
    left = [w.device_root for w in api.simulator.workers]
    for _ in range(200):
        counts = {kind: len(documents.all(kind)) for kind in before}
        devices = [sorted(p.name for p in root.iterdir()) for root in left]
        if counts == before and devices == [["disk", "sda"]] * 2:
            return
        threading.Event().wait(0.01)
    raise AssertionError((counts, before, devices))
