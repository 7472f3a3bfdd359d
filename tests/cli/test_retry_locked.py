"""A locked database is waited out by the server: a small application that refuses a few times, over real HTTP."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from cli import retry_locked
from cli.retry_locked import RetryLocked


class Locked(Exception):
    """What the database says."""


class Counting:
    """An application whose every first requests fail as Prefect's do on a locked database."""

    def __init__(self, refusals: int) -> None:
        self.refusals, self.seen = refusals, 0
        self.application = Starlette(
            routes=[
                Route("/echo", self.echo, methods=["POST"]),
                Route("/broken", self.broken),
                Route("/missing", lambda _: PlainTextResponse("no", 404)),
            ],
            exception_handlers={Exception: self.refuse},
        )

    async def echo(self, request: Request) -> Response:
        self.seen += 1
        body = await request.body()
        if self.seen <= self.refusals:
            raise Locked
        return Response(body)

    async def broken(self, _: Request) -> Response:
        self.seen += 1
        raise ValueError

    async def refuse(self, _: Request, error: Exception) -> Response:
        status = 503 if isinstance(error, Locked) else 500
        return JSONResponse({"exception_message": "refused"}, status_code=status)


@contextmanager
def served(counting: Counting) -> Iterator[httpx.Client]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(
            uvicorn.Config(RetryLocked(counting.application), log_level="critical")
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        try:
            with httpx.Client(base_url=url, timeout=30) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


def test_a_refused_request_is_done_again_with_its_body() -> None:
    """Three refusals, which end in an exception inside, are not seen outside; the body arrives each time."""
    counting = Counting(refusals=3)
    body = b"x" * 300_000
    with served(counting) as client:
        answer = client.post("/echo", content=body)
        assert (answer.status_code, answer.content) == (200, body)
        assert counting.seen == 4
        assert client.post("/echo", content=b"again").content == b"again"


def test_what_stays_locked_is_told_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last try the 503 passes."""
    monkeypatch.setattr(retry_locked, "TRIES_MAX", 5)
    counting = Counting(refusals=1_000)
    with served(counting) as client:
        assert client.post("/echo", content=b"x").status_code == 503
    assert counting.seen == 5


def test_other_answers_pass_at_once() -> None:
    """A mistake of the client's or the server's is no lock: one try, and the connection goes on."""
    counting = Counting(refusals=0)
    with served(counting) as client:
        assert client.get("/missing").status_code == 404
        assert client.get("/broken").status_code == 500
        assert counting.seen == 1
        assert client.post("/echo", content=b"").status_code == 200
