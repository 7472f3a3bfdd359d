"""A Prefect server on SQLite as a process of this command: the embedded one, and that of `serve`.

It has a session of its own. Ctrl-C, a service manager's stop, `timeout` and a closing terminal signal
the whole process group of a command, and a server in that group would be gone while the flows still
need it to clean up. It ends when the command stops it, or when the command is no more, however that
ended: the pipe that it watches is closed by the system then.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping

_POLL_S = 0.1
_STOP_S_MAX = 20.0
COLLECT_PERIOD_S = 2.0
"""How often garbage is collected."""


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket for `spawn_server` at this address, any free port for 0. Raises OSError if it is taken.

    Whoever connects before the server listens is refused instead of left waiting.
    """
    bound = socket.socket()
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except BaseException:
        bound.close()
        raise
    return bound


def spawn_server(
    bound: socket.socket, environment: Mapping[str, str], *, is_silent: bool
) -> subprocess.Popen[bytes]:
    """Start a server that listens on this socket, with this environment added to our own.

    Close the socket afterwards: the server has one of its own.
    """
    output = subprocess.DEVNULL if is_silent else None
    watched, _held = os.pipe()  # Nobody closes our side but the system, when this process is gone.
    child = subprocess.Popen(  # noqa: S603 - our own interpreter and our own module
        # -P: a directory of the user's that is called like a package of ours is not imported.
        [sys.executable, "-P", "-m", "cli.prefect_server", str(bound.fileno())],
        stdin=watched,
        stdout=output,
        stderr=output,
        pass_fds=(bound.fileno(),),
        start_new_session=True,
        env={**os.environ, "PREFECT__SERVER_FINAL": "1", **environment},
    )
    os.close(watched)
    return child


def wait_until_healthy(child: subprocess.Popen[bytes], url: str, limit_s: float) -> None:
    """Return once the server answers; raises RuntimeError when it ends, or not within the limit."""
    import httpx

    deadline_s = time.monotonic() + limit_s
    while time.monotonic() < deadline_s:
        if child.poll() is not None:
            raise RuntimeError(f"it ended with code {child.returncode} while starting")
        try:
            if httpx.get(f"{url}/health", timeout=2.0).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(_POLL_S)
    raise RuntimeError(f"it was not ready within {limit_s:.0f} s")


def stop_server(child: subprocess.Popen[bytes]) -> None:
    """End the server, by force if it takes too long."""
    child.terminate()
    try:
        child.wait(_STOP_S_MAX)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def main() -> None:
    """The server's process: serve Prefect on the socket that was handed down."""
    threading.Thread(target=_end_with_the_command, daemon=True).start()
    import uvicorn
    from prefect.server.api.server import create_app

    from cli.retry_locked import RetryLocked

    collect_garbage_apart()
    config = uvicorn.Config(RetryLocked(create_app()), log_level="error", lifespan="on")
    with socket.socket(fileno=int(sys.argv[1])) as bound:
        uvicorn.Server(config).run(sockets=[bound])


def collect_garbage_apart() -> None:
    """Collect garbage in a thread of its own from now on, and never where the program happens to be.

    A statement that was refused leaves its SQLite cursor in a traceback, which only the collector
    frees. To free it takes the lock of its connection. If that waits for the database by then, the
    collector waits with it, for up to a minute; in the thread of the event loop, the transaction that
    has the database would wait, too.
    """
    gc.disable()
    gc.freeze()  # What a server consists of is no garbage, and need not be looked at again.
    threading.Thread(target=_collect_for_ever, name="garbage", daemon=True).start()


def _collect_for_ever() -> None:
    while True:
        time.sleep(COLLECT_PERIOD_S)
        gc.collect()


def _end_with_the_command() -> None:
    """Wait for the end of stdin: the command holds its other side, and nobody writes there."""
    os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_STOP_S_MAX)
    os._exit(1)


if __name__ == "__main__":
    main()
