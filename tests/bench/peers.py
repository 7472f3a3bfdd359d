"""The same work done by restic and borg, where they are installed, in turns with ours.

Each program gets a new repository per round and does the same four things with the same disk image:
back it up, back it up again without trusting any cache of unchanged files, back up a copy with 1 %
changed, and restore that. Rounds are interleaved, so that a busy machine is busy for all of them;
what counts is each round's ratio.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MiB = 1024 * 1024
WORKS = ("full", "re-read, nothing changed", "1 % changed, all read", "restore")

Cost = dict[str, Any]
Costs = dict[str, dict[str, list[Cost]]]
"""By program and work, one cost per round."""


@dataclass(frozen=True, slots=True)
class Images:
    """The disk, the same with 1 % of it changed, and where to work."""

    disk: Path
    changed: Path
    folder: Path


def run_program(command: list[str], environment: Mapping[str, str], folder: Path) -> Cost:
    """Run it to its end: wall and CPU seconds, peak memory."""
    start_s = time.perf_counter()
    child = subprocess.Popen(
        command, cwd=folder, env={**os.environ, **environment}, stdout=subprocess.DEVNULL
    )
    peak = _Peak(child.pid)
    _, status, usage = os.wait4(child.pid, 0)
    wall_s = time.perf_counter() - start_s
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {child.returncode}")
    return {"wall_s": wall_s, "cpu_s": usage.ru_utime + usage.ru_stime, "peak_mib": peak.mib}


class _Peak:
    """The high-water mark of a process, looked at ten times a second.

    What `wait4` tells is no use: it counts the memory that the child shared with us before exec.
    """

    def __init__(self, pid: int) -> None:
        self.mib = 0.0
        self._status = Path(f"/proc/{pid}/status")
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            try:
                lines = self._status.read_text().splitlines()
            except OSError:
                return
            marks = [line.split()[1] for line in lines if line.startswith("VmHWM")]
            if not marks:
                return
            self.mib = int(marks[0]) / 1024
            time.sleep(0.1)


def restic(images: Images) -> dict[str, Cost]:
    """restic with its defaults."""
    place = images.folder / "restic"
    environment = {"RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": str(images.folder / "cache")}
    base = ["restic", "-q", "-r", str(place)]

    def run(*arguments: str) -> Cost:
        return run_program([*base, *arguments], environment, images.folder)

    run("init")
    sparse = ["--sparse"] if "--sparse" in _help("restic", "restore") else []
    return _works(
        place,
        lambda: run("backup", "--force", str(images.disk)),
        lambda: run("backup", "--force", str(images.changed)),
        lambda target: run("restore", "latest", "--target", str(target), *sparse),
        images,
    )


def borg(images: Images) -> dict[str, Cost]:
    """borg as its manual advises for disk images: fixed chunks, zstd, no encryption."""
    place = images.folder / "borg"
    environment = {
        "BORG_BASE_DIR": str(images.folder / "borg-home"),
        "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
    }
    create = ["borg", "create", "-C", "zstd,3", "--chunker-params", "fixed,1048576", "--sparse"]
    names = iter(f"{place}::{number}" for number in range(9))

    def back_up(path: Path) -> Cost:
        command = [*create, "--files-cache", "disabled", next(names), path.name]
        return run_program(command, environment, path.parent)

    def extract(target: Path) -> Cost:
        return run_program(["borg", "extract", "--sparse", f"{place}::2"], environment, target)

    run_program(["borg", "init", "-e", "none", str(place)], environment, images.folder)
    return _works(
        place, lambda: back_up(images.disk), lambda: back_up(images.changed), extract, images
    )


PEERS: dict[str, Callable[[Images], dict[str, Cost]]] = {"restic": restic, "borg": borg}


def installed() -> list[str]:
    """Those of the peers that this machine has."""
    return [name for name in PEERS if shutil.which(name)]


def _works(
    place: Path,
    back_up: Callable[[], Cost],
    back_up_changed: Callable[[], Cost],
    restore: Callable[[Path], Cost],
    images: Images,
) -> dict[str, Cost]:
    costs = {}
    for work, run in zip(WORKS, (back_up, back_up, back_up_changed), strict=False):
        before = stored_bytes(place)
        costs[work] = run()
        costs[work]["stored_bytes"] = stored_bytes(place) - before
    target = images.folder / f"restored-{place.name}"
    target.mkdir()
    costs["restore"] = restore(target)
    start_s = time.perf_counter()
    (restored,) = (path for path in target.rglob("*") if path.is_file())
    with restored.open("rb") as file:
        os.fsync(file.fileno())  # ours does it too
    costs["restore"]["wall_s"] += time.perf_counter() - start_s
    compare = subprocess.run(["cmp", "-s", str(images.changed), str(restored)], check=False)
    if compare.returncode:
        raise SystemExit(f"what {place.name} restored differs from its source")
    shutil.rmtree(target)
    shutil.rmtree(place)
    return costs


def stored_bytes(place: Path) -> int:
    """Bytes of all files of a repository."""
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())


def _help(*command: str) -> str:
    return subprocess.run([*command, "--help"], check=True, capture_output=True, text=True).stdout


def tables(costs: Costs, ours: str) -> list[list[str]]:
    """One row per work and program: medians, and the spread of the rounds' ratios to ours."""
    rows = [
        ["work", "program", "wall s", "CPU s", "peak MiB", "stored MiB", "x our wall", "x our CPU"]
    ]
    for work in WORKS:
        for program, works in costs.items():
            rounds = works[work]
            stored = statistics.median(each.get("stored_bytes", 0) for each in rounds)
            rows.append(
                [
                    work,
                    program,
                    f"{statistics.median(each['wall_s'] for each in rounds):.2f}",
                    f"{statistics.median(each['cpu_s'] for each in rounds):.2f}",
                    f"{max(each['peak_mib'] for each in rounds):.0f}",
                    f"{stored / MiB:.1f}" if work != "restore" else "-",
                    _ratios(rounds, costs[ours][work], "wall_s"),
                    _ratios(rounds, costs[ours][work], "cpu_s"),
                ]
            )
    return rows


TARGETS = (
    ("full", "wall_s", {"restic": 3.5, "borg": 2.5}),
    ("restore", "wall_s", {"restic": 3.0, "borg": 3.0}),
    ("re-read, nothing changed", "wall_s", {"restic": 1.0, "borg": 1.0}),
    ("full", "stored_bytes", {"restic": 1.0, "borg": 1.0}),
)


def verdicts(costs: Costs, ours: str) -> list[str]:
    """Each target beside the median ratio of the rounds, and the same for CPU time, which a busy
    machine changes least."""
    lines = []
    for work, what, least in TARGETS:
        for program in (name for name in least if name in costs):
            ratio = _median_ratio(costs[program][work], costs[ours][work], what)
            verdict = "met" if ratio >= least[program] else "MISSED"
            cpu = _median_ratio(costs[program][work], costs[ours][work], "cpu_s")
            subject = f"{work}, {what.partition('_')[0]}, beside {program}"
            lines.append(
                f"{subject}: {ratio:.2f} x, target {least[program]:.1f}: {verdict} (CPU {cpu:.2f} x)"
            )
    return lines


def _median_ratio(theirs: list[Cost], ours: list[Cost], what: str) -> float:
    return statistics.median(
        their[what] / our[what] for their, our in zip(theirs, ours, strict=True)
    )


def _ratios(theirs: list[Cost], ours: list[Cost], what: str) -> str:
    ratios = [their[what] / our[what] for their, our in zip(theirs, ours, strict=True)]
    if all(ratio == 1 for ratio in ratios):
        return "1"
    return f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
