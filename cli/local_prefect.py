"""Running a flow from a terminal: Prefect's settings for it, made before Prefect is imported.

With `PREFECT_API_URL` set, runs are recorded by that server. Without it, Prefect's embedded server
runs for as long as the command does; its database lies in ahvault's own data directory, so that
the user's other Prefect work is left alone. Whatever the user set in the environment stays.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

from cli.config import user_data_dir
from cli.errors import PrefectUnavailable
from cli.output import say
from cli.prefect_server import bound_socket, spawn_server, stop_server, wait_until_healthy

_LOOPBACK = "127.0.0.1"

_early: tuple[subprocess.Popen[bytes], int] | None = None
"""A server that was spawned and that nobody asked for yet, and its port."""

PATIENCE_S = 2.0
"""How long a silent terminal is no cause for worry."""

_starting = threading.Lock()
"""Two threads that want a server at once get one."""

_SETTINGS = {
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
    # The first start creates the database, which alone may take longer than the default of 20 s.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # Worker slots are held under leases; in files, they outlive the server of the process that died.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
        "prefect.server.concurrency.lease_storage.filesystem"
    ),
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "repository,nutanix,jobs",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}

_EMBEDDED = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"}
"""What Prefect sets for a server that serves one process."""


def prepare_prefect(*, verbose: bool) -> None:
    """Set what is not set yet. Has an effect only before the first import of `prefect`.

    Raises OSError when there is no place for the embedded server's database.
    """
    home = Path(os.environ.get("PREFECT_HOME") or user_data_dir(os.environ) / "prefect")
    home.mkdir(parents=True, exist_ok=True)
    # Failures are told once, in our words; Prefect would print each with its traceback.
    console_level = "INFO" if verbose else "CRITICAL"
    quiet = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": console_level}
    for name, value in {**_SETTINGS, **quiet, "PREFECT_HOME": str(home)}.items():
        os.environ.setdefault(name, value)


@contextmanager
def flows_ready() -> Iterator[None]:
    """Inside the block a server answers and flows run quickly; raises `PrefectUnavailable`.

    A flow on the embedded server ends without the second that each spends on joining its
    heartbeat: that tells a server that a run is alive, and nobody watches this one. Where a server
    of the user's own watches, it stays on.
    """
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        temporary_settings,
    )

    server = start_server()
    try:
        server.result(PATIENCE_S)
    except TimeoutError:
        say("Waiting for the Prefect server (an embedded one takes a few seconds) ...")
        server.result()
    if PREFECT_API_URL.value():
        yield
        return
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


def start_server() -> Future[None]:
    """Begin to start the embedded server, or to reach the configured one, in a thread of its own.

    The future is done once it answers, or has `PrefectUnavailable`. A second call finds the first
    one's server. It ends with this process.
    """
    outcome: Future[None] = Future()

    def start() -> None:
        try:
            with _starting:
                _start()
        except BaseException as error:  # noqa: BLE001 - raised again where the future is asked
            outcome.set_exception(error)
        else:
            outcome.set_result(None)

    threading.Thread(target=start, name="prefect-start", daemon=True).start()
    return outcome


def spawn_early() -> None:
    """Let the embedded server begin to start, where `start_server` will want one, for all that is known.

    It takes seconds, most of them beside whatever this process does meanwhile. Nothing of Prefect is
    imported here: two threads that import it at once can meet in each other's locks.
    """
    global _early  # noqa: PLW0603 - one server per process, as Prefect has it
    if _early is None and "prefect" not in sys.modules and not os.environ.get("PREFECT_API_URL"):
        _early = spawn_embedded({})


def spawn_embedded(
    settings: Mapping[str, str], port: int = 0
) -> tuple[subprocess.Popen[bytes], int]:
    """The process of a server with these settings beside the environment's, and its port; any free one for 0."""
    with bound_socket(_LOOPBACK, port) as bound:
        child = spawn_server(bound, {**_EMBEDDED, **settings}, is_silent=False)
        return child, bound.getsockname()[1]


def _start() -> None:
    """Return once a server answers; raises `PrefectUnavailable`."""
    global _early
    early, _early = _early, None
    from httpx import HTTPError
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    try:
        if url is None:
            _run_embedded(early)
        elif early is not None:  # A file of Prefect's names a server.
            stop_server(early[0])
        with get_client(sync_client=True) as client:
            client.hello().raise_for_status()
    except (RuntimeError, HTTPError, OSError) as error:
        raise PrefectUnavailable(url, str(error)) from error


def _run_embedded(early: tuple[subprocess.Popen[bytes], int] | None) -> None:
    """Make a server the one that this process's Prefect clients use, unless they have one. Raises RuntimeError."""
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS

    server = SubprocessASGIServer()
    if server.running:
        return
    child, port = early or spawn_embedded({})
    try:
        limit_s = float(PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value())
        wait_until_healthy(child, f"http://{_LOOPBACK}:{port}/api", limit_s)
    except BaseException:
        stop_server(child)
        raise
    # Clients look for a server that runs before they start one.
    server.port, server.server_process, server.running = port, child, True
    atexit.register(server.stop)
