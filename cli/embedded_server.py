"""Prefect's embedded server as a process of this command that outlives every signal the command gets.

Prefect would start it in the command's own process group. Ctrl-C, a service manager's stop and
`timeout` signal that whole group, and the server would be gone while the flows still need it to
clean up. Here it has a session of its own; it ends when the command stops it, or when the command
is no more, however that ended: the pipe that it watches is closed by the system then.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time

_LOOPBACK = "127.0.0.1"
_POLL_S = 0.1
_STOP_S_MAX = 10.0
_ENVIRONMENT = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}
"""What Prefect sets for a server that serves one process."""


def start_embedded_server() -> None:
    """Start the server that this process's Prefect clients use, and return once it answers.

    A second call returns at once. Raises RuntimeError when the server ends, or does not answer
    within Prefect's own limit for it.
    """
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS

    server = SubprocessASGIServer()
    if server.running:
        return
    with socket.create_server((_LOOPBACK, 0)) as listening:
        port = listening.getsockname()[1]
        child = _spawn(listening.fileno())
    try:
        limit_s = float(PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value())
        _wait_until_healthy(child, f"http://{_LOOPBACK}:{port}/api", limit_s)
    except BaseException:
        child.kill()
        child.wait()
        raise
    # Clients look for a server that runs before they start one.
    server.port, server.server_process, server.running = port, child, True
    atexit.register(server.stop)


def _spawn(listening_fd: int) -> subprocess.Popen[bytes]:
    from prefect.settings import get_current_settings

    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    return subprocess.Popen(  # noqa: S603 - our own interpreter and our own module
        # -P: a directory of the user's that is called like a package of ours is not imported.
        [sys.executable, "-P", "-m", "cli.embedded_server", str(listening_fd)],
        stdin=subprocess.PIPE,
        pass_fds=(listening_fd,),
        start_new_session=True,
        env={**os.environ, **_ENVIRONMENT, **settings},
    )


def _wait_until_healthy(child: subprocess.Popen[bytes], url: str, limit_s: float) -> None:
    import httpx

    deadline_s = time.monotonic() + limit_s
    while time.monotonic() < deadline_s:
        if child.poll() is not None:
            raise RuntimeError(f"it ended with code {child.returncode} while starting")
        try:
            # The socket takes connections before the server does, which answers when it is ready.
            if httpx.get(f"{url}/health", timeout=deadline_s - time.monotonic()).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(_POLL_S)
    raise RuntimeError(f"it was not ready within {limit_s:.0f} s")


def main() -> None:
    """The server's process: serve Prefect's API on the socket that was handed down."""
    import uvicorn

    threading.Thread(target=_end_with_the_command, daemon=True).start()
    config = uvicorn.Config(
        "prefect.server.api.server:create_app", factory=True, log_level="error", lifespan="on"
    )
    with socket.socket(fileno=int(sys.argv[1])) as listening:
        uvicorn.Server(config).run(sockets=[listening])


def _end_with_the_command() -> None:
    """Wait for the end of stdin: the command holds its other side, and nobody writes there."""
    os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_STOP_S_MAX)
    os._exit(1)


if __name__ == "__main__":
    main()
