"""Engine speed beside zstd over the same bytes, in one run: `python -m tests.bench --help`."""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repository.options import RepositoryOptions
from tests.bench import collect_scale, index_scale, peers, steps
from tests.bench.image import change_disk, default_tree, make_disk, same_content, write_dense

MiB = 1024 * 1024
GiB = 1024 * MiB


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    work: str
    plain_bytes: int
    cost: dict[str, Any]

    def cells(self) -> list[str]:
        wall_s, cpu_s = self.cost["wall_s"], self.cost["cpu_s"]
        peak = f"{self.cost['peak_mib']:.0f}" if "peak_mib" in self.cost else "-"
        stored = f"{self.cost['stored_bytes'] / MiB:.0f}" if "stored_bytes" in self.cost else "-"
        return [
            self.work,
            f"{self.plain_bytes / MiB:.0f}",
            f"{wall_s:.2f}",
            f"{cpu_s:.2f}",
            f"{self.plain_bytes / MiB / wall_s:.0f}",
            f"{100 * cpu_s / wall_s / (os.cpu_count() or 1):.0f}",
            stored,
            peak,
            str(self.cost.get("requests", "-")),
        ]


def main() -> None:
    options = parse_arguments()
    if options.step:
        steps.main(options.step)
        return
    if options.index:
        chunk_count = options.index * index_scale.MILLION
        print_index(index_scale.measure_index(chunk_count))
        print_collection(collect_scale.measure_collection(chunk_count))
        return
    with tempfile.TemporaryDirectory(prefix="ahvault-bench-", dir=options.dir) as folder:
        run(Path(folder), options)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--size", type=float, default=4, help="size of the disk in GiB (default 4)")
    parser.add_argument("--tree", type=Path, default=default_tree(), help="files to fill it with")
    parser.add_argument("--level", type=int, default=RepositoryOptions().compression_level)
    parser.add_argument("--dir", type=Path, help="where to work (default: the temporary folder)")
    parser.add_argument(
        "--rounds", type=int, default=1, help="rounds beside restic and borg (default 1; 0: none)"
    )
    parser.add_argument(
        "--index", type=int, metavar="MILLIONS", help="measure an index of so many chunks instead"
    )
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


def run(folder: Path, options: argparse.Namespace) -> None:
    disk, changed, dense = folder / "disk", folder / "changed", folder / "dense"
    make_disk(disk, int(options.size * GiB), options.tree)
    extents = change_disk(disk, changed, share=0.01)
    (folder / "extents.json").write_text(
        json.dumps([[extent.start_bytes, extent.end_bytes] for extent in extents])
    )
    data_bytes = write_dense(disk, dense)
    changed_bytes = sum(extent.length_bytes for extent in extents)
    rows, ratios = measure(folder, options.level, data_bytes, changed_bytes)
    print_table(rows, options.level, disk.stat().st_size, data_bytes)
    for line in ratios:
        print(line)
    if options.rounds:
        compare(peers.Images(disk, changed, folder), options)


def compare(images: peers.Images, options: argparse.Namespace) -> None:
    """Ours, restic and borg in turns; whole processes, so ours with the start of Python."""
    programs = peers.installed()
    for missing in set(peers.PEERS) - set(programs):
        print(f"{missing} is not installed: left out")
    costs: peers.Costs = {"ahvault": {}, **{name: {} for name in programs}}
    for _ in range(options.rounds):
        for name, works in costs.items():
            done = peers.PEERS[name](images) if name in programs else ours(images, options.level)
            for work, cost in done.items():
                works.setdefault(work, []).append(cost)
    print(f"\nIn turns, {options.rounds} rounds; medians, and ratios per round (least to most):\n")
    print_lines(peers.tables(costs, "ahvault"), text_columns=2)
    for line in peers.verdicts(costs, "ahvault"):
        print(line)


def ours(images: peers.Images, level: int) -> dict[str, peers.Cost]:
    """The same four things done by this engine."""
    place = images.folder / "ours"
    url = str(place / "repository")

    def run(*arguments: str) -> peers.Cost:
        command = [sys.executable, "-m", "tests.bench", "--step", *arguments]
        before = peers.stored_bytes(place)
        cost = peers.run_program(command, {}, Path.cwd())
        return {**cost, "stored_bytes": peers.stored_bytes(place) - before}

    place.mkdir()
    run("create", url, str(level))
    disk, changed, target = str(images.disk), str(images.changed), images.folder / "restored-ours"
    costs = {
        peers.WORKS[0]: run("backup", url, disk, "-", "-", "full"),
        peers.WORKS[1]: run("backup", url, disk, "-", "full", "reread"),
        peers.WORKS[2]: run("backup", url, changed, "-", "full", "part"),
        "restore": run("restore", url, "newest", str(target)),
    }
    if not same_content(images.changed, target):
        raise SystemExit("the restored disk differs from its source")
    target.unlink()
    shutil.rmtree(place)
    return costs


def measure(
    folder: Path, level: int, data_bytes: int, changed_bytes: int
) -> tuple[list[Row], list[str]]:
    url, dense, packed = str(folder / "repository"), folder / "dense", folder / "dense.zst"
    level_flags = [f"-{level}", f"-T{os.cpu_count()}"]
    run_step("create", url, str(level))
    disk, changed = str(folder / "disk"), str(folder / "changed")
    zstd = run_zstd(*level_flags, "-f", str(dense), "-o", str(packed))
    full = run_step("backup", url, disk, "-", "-", "full")
    reread = run_step("backup", url, disk, "-", "full", "reread")
    bare = run_step("read", url, disk)
    clone = run_step("backup", url, disk, "-", "-", "clone")
    part = run_step("backup", url, changed, str(folder / "extents.json"), "full", "part")
    unzstd = run_zstd("-d", "-f", str(packed), "-o", str(folder / "unpacked"))
    (folder / "unpacked").unlink()
    restore = run_step("restore", url, part["point"], str(folder / "restored"))
    if not same_content(folder / "changed", folder / "restored"):
        raise SystemExit("the restored disk differs from its source")
    small = run_step("scale", url, str(16 * GiB))
    large = run_step("scale", url, str(1024 * GiB))
    packed_bytes = packed.stat().st_size
    rows = [
        Row(f"zstd -{level}, all cores", data_bytes, {**zstd, "stored_bytes": packed_bytes}),
        Row("full", data_bytes, full),
        Row("bare read and BLAKE3", data_bytes, bare),
        Row("re-read, nothing changed", data_bytes, reread),
        Row("second disk, all known", data_bytes, clone),
        Row("incremental, 1 % changed", changed_bytes, part),
        Row("zstd -d", data_bytes, unzstd),
        Row("restore to a sparse file", data_bytes, restore),
        Row("64 MiB changed of 16 GiB", 64 * MiB, small),
        Row("64 MiB changed of 1 TiB", 64 * MiB, large),
    ]
    cores = os.cpu_count() or 1
    ratios = [
        f"full: CPU {full['cpu_s'] / zstd['cpu_s']:.2f} x zstd",
        f"full: wall {full['wall_s'] / zstd['wall_s']:.2f} x zstd",
        f"full: stored {full['stored_bytes'] / packed_bytes:.2f} x zstd",
        f"full: {full['requests']} requests; the budget allows {full['stored_bytes'] / (32 * MiB) + 4:.0f}",
        f"re-read: {100 * bare['wall_s'] / reread['wall_s']:.0f} % of the bare rate",
        f"restore: wall {restore['wall_s'] / (unzstd['cpu_s'] / cores):.2f} x (CPU of zstd -d / cores)",
        f"64 MiB changed: 1 TiB takes {large['wall_s'] - small['wall_s']:.2f} s more than 16 GiB",
    ]
    return rows, ratios


def run_step(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bench", "--step", *arguments]
    result: dict[str, Any] = json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    )
    return result


def run_zstd(*arguments: str) -> dict[str, Any]:
    program = shutil.which("zstd")
    if program is None:
        raise SystemExit("the bench needs the zstd program to compare with")
    before, start_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([program, "-q", *arguments], check=True)
    os.sync()
    wall_s, after = time.perf_counter() - start_s, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": wall_s, "cpu_s": cpu_s}


def print_table(rows: list[Row], level: int, size_bytes: int, data_bytes: int) -> None:
    print(
        f"disk of {size_bytes / GiB:.0f} GiB, {data_bytes / MiB:.0f} MiB of it data; level {level}; {os.cpu_count()} cores\n"
    )
    head = [
        "work",
        "MiB",
        "wall s",
        "CPU s",
        "MiB/s",
        "cores %",
        "stored MiB",
        "peak MiB",
        "requests",
    ]
    print_lines([head, *(row.cells() for row in rows)], text_columns=1)


def print_index(cost: dict[str, Any]) -> None:
    head = ["chunks", "adding s", "100,000 lookups s", "own MiB", "mapped MiB", "peak MiB"]
    names = ["adding_s", "lookup_s", "own_mib", "mapped_mib", "peak_mib"]
    row = [f"{cost['chunks']:,}", *(f"{cost[name]:.2f}" for name in names)]
    print_lines([head, row], text_columns=0)


def print_collection(cost: dict[str, Any]) -> None:
    head = ["chunks", "packs", "open s", "plan s", "plan again s", "condemned", "peak MiB"]
    row = [f"{cost[name]:,}" for name in ("chunks", "packs")]
    row += [f"{cost[name]:.1f}" for name in ("open_s", "plan_s", "again_s")]
    print_lines([head, [*row, f"{cost['condemned']:,}", f"{cost['peak_mib']:.0f}"]], text_columns=0)


def print_lines(table: list[list[str]], text_columns: int) -> None:
    """A Markdown table; numbers are set flush right."""
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for number, line in enumerate(table):
        cells = [
            cell.ljust(width) if column < text_columns else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("| " + " | ".join(cells) + " |")
        if number == 0:
            print("| " + " | ".join("-" * width for width in widths) + " |")
    print()


if __name__ == "__main__":
    main()
