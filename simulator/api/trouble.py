"""Doors with faults in front of them: the same `respond`, and what a plan of faults makes of it."""

from __future__ import annotations

import copy
import json
import random
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from simulator import tokens
from simulator.api.doors import Doors, Request, Response, Side
from simulator.cluster import Cluster
from simulator.documents import Document
from simulator.errors import RefusedError
from simulator.faults import (
    AnswerFault,
    Dropped,
    FaultPlayer,
    Half,
    Redirect,
    RequestFault,
    Slow,
    StaleTag,
    Status,
    WrongScope,
)

_BELOW_VERSION = re.compile(r"/api/\w+/v4\.\d+(?P<rest>/.*)$")
_STALE = '"YXBwbGljYXRpb24vanNvbg==:stale"'
_HTML = b"<html><body><h1>The service is unavailable</h1></body></html>"


class TroubledDoors:
    """Wraps one listener's doors. Thread-safe as they are."""

    def __init__(self, doors: Doors, side: Side, cluster: Cluster, player: FaultPlayer) -> None:
        self._doors, self._side, self._cluster, self._player = doors, side, cluster, player

    def respond(self, request: Request) -> Response:
        """Answer one request, honestly or as the plan says."""
        match = _BELOW_VERSION.match(request.path)
        path = match["rest"] if match else request.path
        faults = self._player.for_request(self._side, request.method, path)
        for fault in faults:
            if isinstance(fault, Slow):
                threading.Event().wait(fault.delay_s)
            elif (instead := self._instead(fault, request)) is not None:
                return instead
            elif isinstance(fault, StaleTag) and "if-match" in request.headers:
                request = replace(request, headers={**request.headers, "if-match": _STALE})
        response = self._doors.respond(request)
        for fault in faults:
            response = _cut(fault, response)
        if response.status == 200 and response.connection == "whole":
            response = self._player.for_answer(
                self._side, request.method, path, response, partial(self._falsified, path)
            )
        return response

    def _instead(self, fault: RequestFault, request: Request) -> Response | None:
        if isinstance(fault, Status):
            return self._status(fault, request)
        if isinstance(fault, Dropped) and not fault.is_done:
            return Response(500, connection="dropped")
        if isinstance(fault, Redirect):
            token = {"x-redirect-token": self._doors.session_cookie()}
            return Response(302, headers={"location": request.path, **token})
        return None

    def _status(self, fault: Status, request: Request) -> Response:
        wait = {"retry-after": str(fault.retry_after_s)} if fault.retry_after_s is not None else {}
        if fault.body == "error":
            refusal = RefusedError(
                "The service is in trouble.",
                status=fault.status,
                code=f"PLAT-20{fault.status}",
                group=fault.group,
            )
            answer = self._doors.refuse(refusal, request)
            return replace(answer, headers={**answer.headers, **wait})
        bare = json.dumps({"code": fault.status, "message": "upstream error"}).encode()
        kinds = {
            "empty": (b"", ""),
            "html": (_HTML, "text/html"),
            "bare": (bare, "application/json"),
        }
        body, media_type = kinds[fault.body]
        return Response(
            fault.status, body, {**wait, **({"content-type": media_type} if body else {})}
        )

    def _falsified(self, path: str, fault: AnswerFault, response: Response) -> Response:
        """What the fault makes of an answer; the same answer if it is of no kind that it falsifies."""
        action = "discover-cluster" if isinstance(fault, WrongScope) else "compute-changed-regions"
        if not path.endswith(f"/$actions/{action}"):
            return response
        honest = json.loads(response.body)
        body = copy.deepcopy(honest)
        if isinstance(fault, WrongScope):
            self._change_scope(body["data"], fault.minor)
        else:
            _spoil(body, fault.how)
        return response if body == honest else replace(response, body=json.dumps(body).encode())

    def _change_scope(self, data: Document, minor: int) -> None:
        secret = self._cluster.secret
        claims = tokens.verify(data["jwtToken"], secret, self._cluster.clock.now_s())
        scope = f"/api/dataprotection/v4.{minor}/content"
        data["jwtToken"] = tokens.sign({**claims, "scope": scope}, secret)


def _cut(fault: RequestFault, response: Response) -> Response:
    """As much of the answer as the fault lets arrive."""
    if isinstance(fault, Dropped):
        return replace(response, connection="dropped")
    return replace(response, connection="half") if isinstance(fault, Half) else response


def _spoil(body: Document, how: str) -> None:
    """Make a page of regions wrong in one of the ways that a client must notice."""
    regions: list[Document] = body.get("data") or []
    extra: list[Document] = body["metadata"].get("extraInfo") or []
    size = next((int(row["value"]) for row in extra if row["name"] == "fileSize"), 0)
    ways: dict[str, Callable[[], Any]] = {
        "truncated": lambda: _truncate(body, regions),
        "misordered": lambda: random.Random(len(regions)).shuffle(regions),
        "overlapping": lambda: regions.extend(dict(r) for r in regions[:1]),
        "beyond_end": lambda: regions.append(
            {**_region(), "offset": size + (1 << 30), "length": 1 << 20}
        ),
        "looping": lambda: _set_next(extra, "1"),
        "no_size": extra.clear,
    }
    ways[how]()
    if regions:
        body["data"] = regions


def _region() -> Document:
    return {"$objectType": "dataprotection.v4.content.ChangedRegion", "regionType": "REGULAR"}


def _truncate(body: Document, regions: list[Document]) -> None:
    """Half of the regions are missing, and the answer says so by its flag."""
    del regions[len(regions) // 2 :]
    for flag in body["metadata"]["flags"]:
        if flag["name"] == "isTruncated":
            flag["value"] = True
    if not regions:
        body.pop("data", None)


def _set_next(extra: list[Document], value: str) -> None:
    """A next offset that leads back to where the page began."""
    extra[:] = [row for row in extra if row["name"] != "nextOffset"]
    extra.append({"$objectType": "common.v1.config.KVPair", "name": "nextOffset", "value": value})
