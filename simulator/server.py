"""Both listeners over TLS, in threads of this process, with a certificate authority of their own."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trustme
import uvicorn
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as WireRequest
from starlette.responses import Response as WireResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from simulator.api.doors import Request, Response

log = logging.getLogger(__name__)

_START_S_MAX = 10.0
_DRAIN_S = 0.5
Respond = Callable[[Request], Response]


def prepare_certificates(folder: Path) -> tuple[Path, Path]:
    """The CA file that clients trust, and the server's chain with its key; made once per folder."""
    ca_file, server_file = folder / "ca.pem", folder / "server.pem"
    if not (ca_file.exists() and server_file.exists()):
        authority = trustme.CA(organization_name="ahvault simulator")
        issued = authority.issue_cert("127.0.0.1", "127.0.0.2", "127.0.0.3", "localhost", "::1")
        server_file.touch(mode=0o600)
        issued.private_key_and_cert_chain_pem.write_to_path(server_file)
        authority.cert_pem.write_to_path(ca_file)
    return ca_file, server_file


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. OSError when the address is taken or not there."""
    # Named as TCP, so that asyncio switches Nagle off for the connections it accepts.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def bind_all(port: int) -> tuple[socket.socket, list[socket.socket]]:
    """Sockets for Prism Central and for the Prism Elements: of the first cluster, and of all others.

    The answer of discover-cluster names no port, so a Prism Element takes the same one on another
    loopback address where there is one; else the first takes any free port, and the others have none.
    """
    central = bind("127.0.0.1", port)
    port = central.getsockname()[1]
    try:
        return central, [bind("127.0.0.2", port), bind("127.0.0.3", port)]
    except OSError:
        return central, [bind("127.0.0.1", 0)]


def bind_data_services(port: int) -> socket.socket:
    """A socket for iSCSI: 3260, which clients expect, unless it is taken or free ports are asked for."""
    try:
        return bind("127.0.0.1", 3260 if port else 0)
    except OSError:
        return bind("127.0.0.1", 0)


def application(respond: Respond) -> ASGIApp:
    """An ASGI application that hands every request to `respond`, in a thread."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        wire = WireRequest(scope, receive)
        request = Request(
            method=wire.method,
            path=scope["path"],
            query=dict(wire.query_params),
            headers={name.lower(): value for name, value in wire.headers.items()},
            body=await wire.body(),
        )
        response = await run_in_threadpool(respond, request)
        if response.connection != "whole":
            await _break_off(response, send)
            return
        answer = WireResponse(response.body, response.status, dict(response.headers))
        await answer(scope, receive, send)

    return serve


async def _break_off(response: Response, send: Send) -> None:
    """Close the connection before an answer, or in the middle of one.

    ASGI has no word for this, so it takes the transport from the protocol object that `send` belongs to,
    and tells that object that the client is gone, lest it complain of an answer that was not given.
    """
    if response.connection == "half":
        headers = {**response.headers, "content-length": str(len(response.body))}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": response.status, "headers": raw})
        half = response.body[: len(response.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
    cycle: Any = getattr(send, "__self__", None)
    if cycle is not None:
        cycle.disconnected = True
        cycle.transport.close()


class Listener:
    """One HTTPS listener in a thread of its own."""

    def __init__(
        self, respond: Respond, listening: list[socket.socket], server_file: Path, name: str
    ) -> None:
        self._sockets = listening
        config = uvicorn.Config(
            application(respond),
            log_config=None,
            access_log=False,
            lifespan="off",
            ssl_certfile=str(server_file),
        )
        config.load()
        if config.ssl is not None:
            config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def urls(self) -> list[str]:
        """Where clients reach it."""
        names = [listening.getsockname() for listening in self._sockets]
        return [f"https://{host}:{port}" for host, port in names]

    def start(self) -> None:
        """Begin to answer; returns when it does. RuntimeError if it does not within seconds."""
        self._thread.start()
        waiter = threading.Event()
        for _ in range(int(_START_S_MAX / 0.01)):
            if self._server.started or not self._thread.is_alive():
                break
            waiter.wait(0.01)
        if not self._server.started:
            raise RuntimeError(f"The listener at {self.urls[0]} did not start.")

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        await self._server.serve(sockets=self._sockets)
        # Where it was forced to exit, connections are left open, for the garbage collector to find.
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0.01)

    def ask_to_stop(self) -> None:
        """Begin to stop, without waiting for it."""
        self._server.should_exit = True

    def stop(self) -> None:
        """Stop answering and close the socket."""
        self.ask_to_stop()
        if self._thread.is_alive():
            self._thread.join(_DRAIN_S)
            # Clients keep idle connections open for as long as they like.
            self._server.force_exit = True
            self._thread.join()
        for listening in self._sockets:
            listening.close()
