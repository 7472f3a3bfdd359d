"""A request that found Prefect's SQLite database locked is done again, by the server itself.

Two writers at one moment are normal where several VMs are backed up: one of them is rolled back at
once, and the server answers 503. Prefect's client then waits two seconds, four, eight, for a lock
that lasted a few milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any, TypeAlias

TRIES_MAX = 100
PAUSE_S = 0.05

_Message: TypeAlias = MutableMapping[str, Any]
_Receive: TypeAlias = Callable[[], Awaitable[_Message]]
_Send: TypeAlias = Callable[[_Message], Awaitable[None]]
Application: TypeAlias = Callable[[_Message, _Receive, _Send], Awaitable[None]]
"""An ASGI application."""


class RetryLocked:
    """An ASGI application around Prefect's that never shows a 503 before it was tried again and again.

    The client would send the same request again; here that costs no round trip and no long pause.
    """

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        body = await _whole_body(receive)
        for _ in range(TRIES_MAX - 1):
            attempt = _Attempt(body, receive, send)
            try:
                await self._application(dict(scope), attempt.receive, attempt.send)
            except Exception:
                if not attempt.was_refused:
                    raise
            if not attempt.was_refused:
                return
            await asyncio.sleep(PAUSE_S)
        await self._application(scope, _Attempt(body, receive, send).receive, send)


class _Attempt:
    """One try: the body that was received once, and an answer that passes unless it is a 503."""

    def __init__(self, body: list[_Message], receive: _Receive, send: _Send) -> None:
        self._body, self._receive, self._send = iter(body), receive, send
        self.was_refused = False

    async def receive(self) -> _Message:
        for message in self._body:
            return message
        return await self._receive()

    async def send(self, message: _Message) -> None:
        if message["type"] == "http.response.start":
            self.was_refused = message["status"] == HTTPStatus.SERVICE_UNAVAILABLE
        if not self.was_refused:
            await self._send(message)


async def _whole_body(receive: _Receive) -> list[_Message]:
    messages = [await receive()]
    while messages[-1].get("more_body"):
        messages.append(await receive())
    return messages
