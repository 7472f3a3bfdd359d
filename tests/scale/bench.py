"""`make bench-session`: what a session costs beside its transfers, by the number of VMs.

For every size: a full session, 1 % of every disk written, an incremental session. The incremental is
measured, in a process of its own: calls to the cluster's API, calls to Prefect, seconds, memory. Then
the same steps without Prefect, so that the difference is Prefect's. The simulator shares the machine.

A cluster lets so many calls of one kind pass per second, and refuses the others; one of Prism Central
7.6 announces 1. `--calls-per-second` has the simulator enforce such a limit, as a session meets it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

SIZES = (25, 50, 100, 200)
PARALLEL_VMS = 16
DISK_BYTES = 16 << 20
CHANGED_BYTES = DISK_BYTES // 100


@dataclass
class Measured:
    """One incremental session."""

    vms: int
    way: str
    seconds: float
    api_calls: int
    prefect_calls: int
    memory_mib: float
    read_mib: float
    vm_seconds: float = 0.0
    """Of the slowest VM."""


class Calls:
    """Counts the HTTP requests of this process by whom they ask."""

    def __init__(self, prefect_url: str) -> None:
        self._prefect = urlsplit(prefect_url).port
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def watch(self) -> None:
        """From here on every request of httpx counts."""
        sync_send, async_send = httpx.Client.send, httpx.AsyncClient.send

        def send(client: Any, request: httpx.Request, **options: Any) -> httpx.Response:
            self._count(request)
            return sync_send(client, request, **options)

        async def asend(client: Any, request: httpx.Request, **options: Any) -> httpx.Response:
            self._count(request)
            return await async_send(client, request, **options)

        httpx.Client.send, httpx.AsyncClient.send = send, asend  # type: ignore[method-assign]

    def _count(self, request: httpx.Request) -> None:
        whom = "prefect" if request.url.port == self._prefect else "api"
        with self._lock:
            self.counts[whom] += 1


def one_session(facts: dict[str, Any], way: str) -> Measured:
    """In a child process: one session over every VM, by the flow or by its steps alone."""
    calls = Calls(os.environ["PREFECT_API_URL"])
    calls.watch()
    began_s = time.monotonic()
    read_bytes, vm_seconds = by_flow(facts) if way == "flow" else by_steps(facts)
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Measured(
        vms=facts["vms"],
        way=way,
        seconds=time.monotonic() - began_s,
        api_calls=calls.counts["api"],
        prefect_calls=calls.counts["prefect"],
        memory_mib=peak_kib / 1024,
        read_mib=read_bytes / (1 << 20),
        vm_seconds=vm_seconds,
    )


def by_flow(facts: dict[str, Any]) -> tuple[int, float]:
    from blocks import AhvCluster, BackupRepository, BackupWorkers
    from flows.backup import backup
    from jobs import BackupJob, Scope

    result = backup(
        AhvCluster.model_validate(facts["cluster"]),
        BackupRepository(url=facts["repository"]),
        BackupWorkers.model_validate({"workers": facts["workers"]}),
        BackupJob(
            name="bench",
            parallel_vms=PARALLEL_VMS,
            scope=Scope(vms=tuple(facts.get("scope", ()))),
        ),
    )
    assert result.status in ("success", "warning"), result.status
    return sum(vm.read_bytes for vm in result.vms), max(vm.duration_s for vm in result.vms)


def by_steps(facts: dict[str, Any]) -> tuple[int, float]:
    import jobs
    from blocks import AhvCluster
    from jobs import BackupJob, NullObserver, VmStory, WorkerSpec, open_backup_session
    from repository import Repository

    with (
        AhvCluster.model_validate(facts["cluster"]).client() as client,
        Repository.open(facts["repository"]) as repository,
        open_backup_session(
            client=client,
            repository=repository,
            workers=[WorkerSpec.model_validate(each) for each in facts["workers"]],
            job=BackupJob(name="bench", parallel_vms=PARALLEL_VMS),
            observer=NullObserver(),
        ) as session,
    ):
        never = session.workers.prepare()
        chosen = jobs.choose_vms(session.client, session.job.scope, never=never)

        def run(vm: Any) -> int:
            story = VmStory.begin(
                vm.vm_id, vm.vm_name, clock=session.clock, observer=NullObserver()
            )
            snapshot = jobs.take_snapshot(session, vm.vm_id)
            reference = jobs.find_reference(session, snapshot)
            plans = jobs.plan_reads(session, snapshot, reference)
            group = jobs.group_snapshot(session, snapshot)
            attachment = jobs.attach(session, group, {})
            records = [
                jobs.transfer_disk(
                    session,
                    story,
                    disk=disk,
                    index=index,
                    plan=plan,
                    base=reference.base(disk.disk_id),
                    attachment=attachment,
                )
                for index, (disk, plan) in enumerate(zip(snapshot.disks, plans, strict=True))
            ]
            jobs.detach(session, attachment)
            jobs.remove_group(session, group)
            point = jobs.commit_point(session, snapshot, reference, records)
            jobs.settle_snapshot(session, snapshot, reference)
            return point.read_bytes

        with ThreadPoolExecutor(PARALLEL_VMS) as threads:
            return sum(threads.map(run, chosen.targets)), 0.0


def measure(sizes: Sequence[int], calls_per_s: int) -> list[Measured]:
    """In the parent: the installation for each size, and its sessions in children. 0 calls for no limit."""
    from repository import Repository
    from simulator import Crowd, Settings, Simulator
    from tests.scale.processes import PrefectServer, postgres, postgres_programs

    found = []
    for vms in sizes:
        with tempfile.TemporaryDirectory(prefix="ahvault-bench-") as name:
            folder = Path(name)
            crowd = Crowd(vm_count=vms, disks_per_vm=2, disk_bytes=DISK_BYTES)
            database = postgres() if postgres_programs() else _no_database()
            settings = Settings(api_limit_per_s=calls_per_s)
            with (
                database as url,
                Simulator(size=0.02, crowd=crowd, settings=settings) as simulator,
            ):
                server = PrefectServer(folder, "127.0.0.1", url)
                server.start()
                try:
                    Repository.create(f"file://{folder}/repository").close()
                    facts = describe(simulator, folder, vms)
                    in_child(facts, "flow", server.url, folder)
                    for way in ("flow", "steps"):
                        change(simulator, vms)
                        found.append(in_child(facts, way, server.url, folder))
                        say(found[-1])
                finally:
                    server.child.end()
    return found


def measure_large_disk() -> str:
    """One VM with a disk of 1 TiB of which nothing changed: what the session itself takes."""
    from repository import Repository
    from simulator import Crowd, Simulator
    from tests.scale.processes import PrefectServer

    with tempfile.TemporaryDirectory(prefix="ahvault-bench-") as name:
        folder = Path(name)
        crowd = Crowd(vm_count=1, disks_per_vm=1, disk_bytes=1 << 40)
        with Simulator(size=0.02, crowd=crowd) as simulator:
            server = PrefectServer(folder, "127.0.0.1", None)
            server.start()
            try:
                Repository.create(f"file://{folder}/repository").close()
                facts = {**describe(simulator, folder, 1), "scope": ["vm-001"]}
                in_child(facts, "flow", server.url, folder)
                again = in_child(facts, "flow", server.url, folder)
            finally:
                server.child.end()
    return (
        f"1 TiB disk, nothing changed: {again.vm_seconds:.1f} s for the VM from snapshot to end, "
        f"{again.read_mib:.0f} MiB read, {again.memory_mib:.0f} MiB memory"
    )


def measure_one_vm() -> str:
    """Whole processes: the command with its embedded server, and the same steps without Prefect."""
    from repository import Repository
    from simulator import Crowd, Simulator

    with tempfile.TemporaryDirectory(prefix="ahvault-bench-") as name:
        folder = Path(name)
        crowd = Crowd(vm_count=1, disks_per_vm=2, disk_bytes=DISK_BYTES)
        with Simulator(size=0.02, crowd=crowd) as simulator:
            Repository.create(f"file://{folder}/repository").close()
            facts = {**describe(simulator, folder, 1), "scope": ["vm-001"]}
            took_s: dict[str, list[float]] = {"command": [], "steps": []}
            run_command(facts, folder)  # The first one makes the server's database.
            for _ in range(3):
                for way, seconds in took_s.items():
                    change(simulator, 1)
                    began_s = time.monotonic()
                    if way == "command":
                        run_command(facts, folder)
                    else:
                        in_child(facts, "steps", "http://127.0.0.1:9/api", folder)
                    seconds.append(time.monotonic() - began_s)
    command_s, steps_s = (sorted(each)[1] for each in took_s.values())
    return (
        f"one VM, embedded server, medians of three: the command {command_s:.1f} s, the same without "
        f"Prefect {steps_s:.1f} s, so Prefect's part {command_s - steps_s:.1f} s"
    )


def run_command(facts: dict[str, Any], folder: Path) -> None:
    """`ahvault backup vm-001`, as an operator has it who has set everything in the environment."""
    cluster = {
        f"AHVAULT_CLUSTER_{name.upper()}": str(each) for name, each in facts["cluster"].items()
    }
    workers = ",".join(f"{each['vm']}={each['device_root']}" for each in facts["workers"])
    subprocess.run(
        [sys.executable, "-c", "from cli.main import main; main()", "backup", "vm-001"],
        env={
            **{name: each for name, each in os.environ.items() if not name.startswith("PREFECT_")},
            **cluster,
            "AHVAULT_REPOSITORY_URL": facts["repository"],
            "AHVAULT_WORKERS": workers,
            "XDG_DATA_HOME": str(folder / "data-home"),
        },
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def describe(simulator: Any, folder: Path, vms: int) -> dict[str, Any]:
    """What a child needs to know."""
    return {
        "vms": vms,
        "cluster": {
            "url": simulator.pc_url,
            "username": simulator.username,
            "password": simulator.password,
            "ca_file": str(simulator.ca_file),
            "prism_element_port": urlsplit(simulator.pe_url).port,
        },
        "repository": f"file://{folder}/repository",
        "workers": [
            {"vm": each.name, "device_root": str(each.device_root)} for each in simulator.workers
        ],
    }


def change(simulator: Any, vms: int) -> None:
    """1 % of every disk of the crowd is written."""
    for number in range(1, vms + 1):
        for disk in (0, 1):
            simulator.story.write_raw(
                f"vm-{number:03d}", 4 << 20, os.urandom(CHANGED_BYTES), disk=disk
            )


def in_child(facts: dict[str, Any], way: str, prefect_url: str, folder: Path) -> Measured:
    """Run `one_session` in a process of its own."""
    from tests.scale.processes import CLIENT_SETTINGS

    done = subprocess.run(
        [sys.executable, "-m", "tests.scale.bench", "--session", way],
        input=json.dumps(facts),
        env={
            **os.environ,
            **CLIENT_SETTINGS,
            "PREFECT_API_URL": prefect_url,
            "PREFECT_HOME": str(folder / "home"),
            "PREFECT_LOGGING_LEVEL": "ERROR",
        },
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def _no_database() -> Any:
    from contextlib import nullcontext

    return nullcontext(None)


def say(text: object) -> None:
    """To the operator, beside the table."""
    sys.stderr.write(f"{text}\n")


def table(found: list[Measured]) -> str:
    """The table for docs/performance.md."""
    lines = [
        "| VMs | disks | API calls per VM | bound by 1 call/s | Prefect calls per VM | seconds per VM | the same without Prefect | Prefect's share | memory |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    plain = {each.vms: each for each in found if each.way == "steps"}
    for each in found:
        if each.way != "flow":
            continue
        other = plain[each.vms]
        share = (each.seconds - other.seconds) / each.seconds
        lines.append(
            f"| {each.vms} | {2 * each.vms} | {each.api_calls / each.vms:.1f} "
            f"| {each.api_calls / each.vms:.0f} s per VM "
            f"| {each.prefect_calls / each.vms:.1f} | {each.seconds / each.vms:.2f} "
            f"| {other.seconds / each.vms:.2f} | {share:.0%} | {each.memory_mib:.0f} MiB |"
        )
    return "\n".join(lines)


def main() -> None:
    """The table, or one session in a child."""
    if sys.argv[1:2] == ["--session"]:
        measured = one_session(json.load(sys.stdin), sys.argv[2])
        sys.stdout.write(json.dumps(asdict(measured)) + "\n")
        return
    parser = argparse.ArgumentParser(prog="make bench-session ARGS=...")
    parser.add_argument("vms", type=int, nargs="*", default=SIZES, help="sizes of the session")
    parser.add_argument(
        "--calls-per-second", type=int, default=0, help="of one kind, as the cluster allows them"
    )
    asked = parser.parse_args()
    sys.stdout.write(table(measure(asked.vms, asked.calls_per_second)) + "\n\n")
    sys.stdout.write(measure_large_disk() + "\n")
    sys.stdout.write(measure_one_vm() + "\n")


if __name__ == "__main__":
    main()
