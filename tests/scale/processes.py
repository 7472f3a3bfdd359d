"""The processes of an installation over many machines, each startable, stoppable and breakable.

A worker VM is a network namespace of its own behind a bridge, where this runs as root; else it is
just a process. Everything listens on the bridge or on loopback, and ends with the block that made it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from jobs.leases import process_token

START_S_MAX = 180.0
Environment = Mapping[str, str]


def wait_until(
    what: str, is_so: Callable[[], Any], *, within_s: float, every_s: float = 0.2
) -> Any:
    """Wait for a condition and return its value; AssertionError names what did not happen."""
    deadline_s = time.monotonic() + within_s
    while True:
        value = is_so()
        if value:
            return value
        assert time.monotonic() < deadline_s, f"not within {within_s:.0f} s: {what}"
        time.sleep(every_s)


def free_port(host: str) -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


@dataclass
class Child:
    """One process of ours, in a session of its own, with its output in a file."""

    command: list[str]
    environment: Environment
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or start it again."""
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self.command,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process is not None
        return self.process.pid

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.process is not None and self.process.poll() is None

    def end(self, number: signal.Signals = signal.SIGTERM, *, within_s: float = 20.0) -> None:
        """End it with all its descendants: first asked, then killed."""
        if self.process is None:
            return
        # By their start, too: an id may belong to somebody else by the time it is used again.
        family = {pid: process_token(pid) for pid in (self.pid, *descendants(self.pid))}
        if self.process.poll() is None:
            self.process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(within_s)
        send(
            [pid for pid, token in family.items() if token and process_token(pid) == token],
            signal.SIGKILL,
        )
        self.process.wait()


def send(pids: list[int], number: signal.Signals) -> None:
    """Send a signal to processes; those that are gone are passed over."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def descendants(pid: int) -> list[int]:
    """Every process below this one, children first."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, level = [], [pid]
    while level:
        level = [child for parent in level for child in children.get(parent, [])]
        found += level
    return found


# -- networks ---------------------------------------------------------------------------------------


def ip(*words: str) -> str:
    """Run iproute2's `ip`."""
    done = subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
    return done.stdout


def can_make_networks() -> bool:
    """Whether network namespaces can be made here: root, iproute2, and a kernel that lets us."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"ahvprobe{os.getpid() % 10000}"
    try:
        ip("netns", "add", name)
        ip("netns", "delete", name)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


@dataclass
class Network:
    """A bridge with one namespace per worker. `host` is the address that all of them reach."""

    host: str
    bridge: str | None = None
    namespaces: list[str] = field(default_factory=list)

    def add(self, number: int) -> str | None:
        """A namespace for one worker; `None` where there are none."""
        if self.bridge is None:
            return None
        name, outer, inner = (
            f"{self.bridge}-w{number}",
            f"{self.bridge}o{number}",
            f"{self.bridge}i{number}",
        )
        ip("netns", "add", name)
        self.namespaces.append(name)
        ip("link", "add", outer, "type", "veth", "peer", "name", inner)
        ip("link", "set", inner, "netns", name)
        ip("link", "set", outer, "master", self.bridge, "up")
        prefix = self.host.rpartition(".")[0]
        ip("-n", name, "address", "add", f"{prefix}.{number + 1}/24", "dev", inner)
        ip("-n", name, "link", "set", inner, "up")
        ip("-n", name, "link", "set", "lo", "up")
        return name

    def cut(self, number: int) -> None:
        """Pull the cable of one worker."""
        ip("link", "set", f"{self.bridge}o{number}", "down")

    def mend(self, number: int) -> None:
        """Plug it in again."""
        ip("link", "set", f"{self.bridge}o{number}", "up")

    def processes(self, number: int) -> list[int]:
        """Every process inside one worker's namespace."""
        return [int(pid) for pid in ip("netns", "pids", f"{self.bridge}-w{number}").split()]

    def remove(self) -> None:
        """Take all of it away."""
        for name in self.namespaces:
            with suppress(subprocess.CalledProcessError):
                send([int(pid) for pid in ip("netns", "pids", name).split()], signal.SIGKILL)
                ip("netns", "delete", name)
        if self.bridge is not None:
            with suppress(subprocess.CalledProcessError):
                ip("link", "delete", self.bridge)


@contextmanager
def network() -> Iterator[Network]:
    """A network of namespaces, or plain loopback where they cannot be made."""
    if not can_make_networks():
        yield Network("127.0.0.1")
        return
    number = os.getpid() % 200 + 20
    made = Network(f"10.213.{number}.1", f"ahv{number}")
    try:
        ip("link", "add", "name", f"ahv{number}", "type", "bridge")
        ip("address", "add", f"{made.host}/24", "dev", f"ahv{number}")
        ip("link", "set", f"ahv{number}", "up")
        yield made
    finally:
        made.remove()


# -- servers ----------------------------------------------------------------------------------------


def postgres_programs() -> Path | None:
    """Where PostgreSQL's programs lie, the newest release first; `None` where it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    return found[0].parent if found else None


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL server on loopback with an empty database; yields Prefect's URL for it.

    It refuses to run as root, so it runs as an unprivileged user there, in a folder of that user's:
    into the folders of a test run no other user may look.
    """
    with tempfile.TemporaryDirectory(prefix="ahvault-postgres-") as folder:
        lower: list[str] = []
        if os.geteuid() == 0:
            user = "postgres" if _has_user("postgres") else "nobody"
            shutil.chown(folder, user)
            lower = ["runuser", "-u", user, "--"]
        with _postgres_in(Path(folder) / "data", lower) as url:
            yield url


@contextmanager
def _postgres_in(data: Path, lower: list[str]) -> Iterator[str]:
    programs, port = postgres_programs(), free_port("127.0.0.1")
    assert programs is not None, "PostgreSQL is not installed"
    run = lambda *words: subprocess.run(  # noqa: E731 - a name for a call
        [*lower, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/"
    )
    run(str(programs / "initdb"), "-D", str(data), "-A", "trust", "-U", "prefect", "-E", "UTF8")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
    run(
        str(programs / "pg_ctl"),
        "-D",
        str(data),
        "-o",
        options,
        "-w",
        "-l",
        str(data.with_name("log")),
        "start",
    )
    try:
        run(
            str(programs / "createdb"),
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
            "-U",
            "prefect",
            "prefect",
        )
        yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/prefect"
    finally:
        run(str(programs / "pg_ctl"), "-D", str(data), "-m", "immediate", "-w", "stop")


def _has_user(name: str) -> bool:
    return any(line.startswith(f"{name}:") for line in Path("/etc/passwd").read_text().splitlines())


SERVER_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "100",
}
CLIENT_SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLIENT_MAX_RETRIES": "20",
    "PREFECT_WORKER_QUERY_SECONDS": "2",
}


class PrefectServer:
    """A Prefect server that can be stopped and started again on the same database."""

    def __init__(self, folder: Path, host: str, database_url: str | None) -> None:
        self.port = free_port(host)
        self.url = f"http://{host}:{self.port}/api"
        self.home = folder / "server-home"
        environment = {
            **CLIENT_SETTINGS,
            **SERVER_SETTINGS,
            "PREFECT_HOME": str(self.home),
            "PREFECT_SERVER_API_HOST": host,
            "PREFECT_SERVER_API_PORT": str(self.port),
            "PREFECT_API_URL": self.url,
        }
        if database_url is not None:
            environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = database_url
        self.child = Child(
            [sys.executable, "-m", "prefect", "server", "start"],
            environment,
            folder / "prefect-server.log",
        )

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.child.start()
        wait_until("the Prefect server answers", self.is_healthy, within_s=START_S_MAX)

    def is_healthy(self) -> bool:
        """Whether it answers."""
        assert self.child.is_running(), f"the Prefect server ended; see {self.child.log}"
        try:
            return httpx.get(f"{self.url}/health", timeout=5.0).is_success
        except httpx.HTTPError:
            return False


def prefect_worker(
    *,
    name: str,
    pool: str,
    queue: str | None,
    limit: int,
    environment: Environment,
    log: Path,
    namespace: str | None = None,
) -> Child:
    """A Prefect worker as a process, in a namespace if one is given. Not started."""
    prefix = [] if namespace is None else ["ip", "netns", "exec", namespace]
    queues = [] if queue is None else ["--work-queue", queue]
    command = [sys.executable, "-m", "prefect", "worker", "start", "--type", "process"]
    return Child(
        [*prefix, *command, "--pool", pool, *queues, "--name", name, "--limit", str(limit)],
        environment,
        log,
    )


@contextmanager
def ended(*children: Child) -> Iterator[None]:
    """Ends the processes at the end of the block, whatever happens."""
    with ExitStack() as stack:
        for child in children:
            stack.callback(child.end)
        yield
