"""A scripted Prism Central behind httpx's mock transport, a clock that never sleeps, and a simulator."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from nutanix import AhvClient, ClusterConnection, RetryPolicy
from simulator import Simulator

Reply = Callable[[httpx.Request], httpx.Response]

URL = "https://pc.example:9440"
PASSWORD = "correct horse"


class FakeClock:
    """Time passes only by sleeping."""

    def __init__(self) -> None:
        self.elapsed_s = 0.0
        self.sleeps_s: list[float] = []
        self._lock = threading.Lock()

    def now(self) -> datetime:
        return datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=self.elapsed_s)

    def monotonic_s(self) -> float:
        return self.elapsed_s

    def sleep(self, duration_s: float) -> None:
        with self._lock:
            self.sleeps_s.append(duration_s)
            self.elapsed_s += duration_s


class ScriptedPrism:
    """Answers each route with its replies in order; the last one repeats. Unscripted calls get 404."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self._routes: list[tuple[str, re.Pattern[str], list[Reply]]] = []
        self._lock = threading.Lock()

    def on(self, method: str, path: str, *replies: Reply) -> None:
        """`path` is a regular expression for all that follows `/api/NAMESPACE/VERSION/`."""
        self._routes.insert(0, (method, re.compile(path), list(replies)))

    def reply(
        self, data: Any = None, *, status: int = 200, headers: Any = None, **envelope: Any
    ) -> Reply:
        """An answer in the API's envelope."""
        body = {"data": data, **envelope}
        return lambda request: httpx.Response(status, json=body, headers=headers)

    def refusal(
        self, status: int, *, code: str = "X-1", group: str = "SOME_ERROR", headers: Any = None
    ) -> Reply:
        """An error answer with one message."""
        message = {"message": "composed text", "code": code, "errorGroup": group}
        body = {"data": {"error": [message]}}
        return lambda request: httpx.Response(status, json=body, headers=headers)

    def lost(self, error: type[httpx.TransportError]) -> Reply:
        """No answer at all."""

        def fail(request: httpx.Request) -> httpx.Response:
            raise error("gone", request=request)

        return fail

    def task(self, *states: dict[str, Any], task_id: str = "ZXJnb24=:t1") -> Reply:
        """A 202 answer, and the states that polling its task shows one after another."""
        quoted = re.escape(task_id)
        documents = [{"extId": task_id, "status": "SUCCEEDED", **state} for state in states]
        self.on("GET", f"config/tasks/{quoted}$", *(self.reply(each) for each in documents))
        return self.reply({"extId": task_id}, status=202)

    def handle(self, request: httpx.Request) -> httpx.Response:
        with self._lock:
            self.requests.append(request)
            reply = self._next_reply(request)
        return reply(request)

    def _next_reply(self, request: httpx.Request) -> Reply:
        path = _route(request.url.path)
        for method, pattern, replies in self._routes:
            if method == request.method and pattern.search(path):
                return replies.pop(0) if len(replies) > 1 else replies[0]
        if request.method == "OPTIONS":
            return self.reply("v4.9")
        return self.refusal(404, group="ENTITY_NOT_FOUND")

    def sent(self, method: str, path: str = "") -> list[httpx.Request]:
        """What was asked of a route so far."""
        return [each for each in self.requests if each.method == method and path in each.url.path]

    def bodies(self, method: str, path: str = "") -> list[Any]:
        """The JSON bodies sent to a route so far."""
        return [json.loads(each.content) for each in self.sent(method, path)]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def prism() -> ScriptedPrism:
    return ScriptedPrism()


@pytest.fixture
def connection() -> ClusterConnection:
    return ClusterConnection(url=URL, username="backup", password=PASSWORD)


@pytest.fixture
def client(
    prism: ScriptedPrism, connection: ClusterConnection, clock: FakeClock
) -> Iterator[AhvClient]:
    opened = AhvClient(
        connection,
        transport=httpx.MockTransport(prism.handle),
        clock=clock,
        retries=RetryPolicy(jitter=lambda: 0.5),
    )
    with opened:
        yield opened


@pytest.fixture
def connect() -> Callable[..., AhvClient]:
    """A client for a running simulator; keyword arguments override its connection."""

    def open_client(
        sim: Simulator, *, retries: RetryPolicy | None = None, **overrides: Any
    ) -> AhvClient:
        facts = dict(sim.describe())
        settings: dict[str, Any] = {
            "url": facts["pc_url"],
            "username": facts["username"],
            "password": facts["password"],
            "ca_file": facts["ca_file"],
            "prism_element_port": httpx.URL(facts["pe_url"]).port,
        }
        return AhvClient(ClusterConnection(**{**settings, **overrides}), retries=retries)

    return open_client


def _route(path: str) -> str:
    """What follows namespace and version; the whole path when it has none."""
    parts = path.split("/", 4)
    return parts[4] if len(parts) == 5 else path
