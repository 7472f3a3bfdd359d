"""Routes and calls: what a handler is given, what it gives back, and how a path finds it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from simulator.cluster import Cluster, check_tag
from simulator.documents import Document
from simulator.errors import SchemaError
from simulator.filters import parse_filter, parse_order


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler answers. `tag` becomes the ETag; `raw` replaces the JSON body."""

    data: Any = None
    status: int = 200
    metadata: Document | None = None
    tag: str | None = None
    raw: bytes | None = None
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call:
    """One request that passed the doors. `body` is the parsed JSON, {} when there was none."""

    cluster: Cluster
    method: str
    path: str
    namespace: str
    minor: int
    params: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Document
    claims: Mapping[str, Any]
    urls: Mapping[str, str]

    def check_tag(self, current: str, *, is_required: bool = True) -> None:
        """PreconditionError unless `If-Match` fits (§10)."""
        given = self.headers.get("if-match")
        check_tag(given, current, is_required=is_required, settings=self.cluster.settings)

    def need(self, *names: str) -> None:
        """SchemaError if the body lacks one of these fields."""
        for name in names:
            if self.body.get(name) in (None, ""):
                raise SchemaError(f"The field {name} is required.", name)

    def task(
        self,
        operation: str,
        arguments: Document,
        *entities: tuple[str, str],
        duration_s: float | None = None,
    ) -> Answer:
        """Queue an operation and answer with its task; `entities` are (rel, id) pairs."""
        rows = [
            {"$objectType": "prism.v4.config.EntityReference", "rel": rel, "extId": ext_id}
            for rel, ext_id in entities
        ]
        ext_id = self.cluster.submit(operation, arguments, entities=rows, duration_s=duration_s)
        return Answer({"$objectType": "prism.v4.config.TaskReference", "extId": ext_id}, 202)

    def page(
        self,
        documents: list[Document],
        *,
        filters: Collection[str] = (),
        orders: Collection[str] = (),
    ) -> Answer:
        """One page of a list, filtered, ordered and cut as the query says (§4, §23 rules 16, 17)."""
        found = documents
        if text := self.query.get("$filter"):
            if not filters:
                raise SchemaError("This list takes no filter.", "$filter")
            test = parse_filter(text, filters)
            found = [d for d in found if test(d)]
        if text := self.query.get("$orderby"):
            found = parse_order(text, orders)(found)
        page, limit = self._number("$page", 0, 0, 10**9), self._number("$limit", 50, 1, 100)
        cut = found[page * limit : (page + 1) * limit]
        if names := self.query.get("$select"):
            kept = {*names.split(","), "$objectType", "extId"}
            cut = [{k: v for k, v in d.items() if k in kept} for d in cut]
        return Answer(cut, metadata={"totalAvailableResults": len(found)})

    def _number(self, name: str, default: int, low: int, high: int) -> int:
        text = self.query.get(name)
        if text is None:
            return default
        if not text.isdecimal() or not low <= int(text) <= high:
            raise SchemaError(f"{name} must be a number from {low} to {high}, not {text!r}.", name)
        return int(text)


Handler = Callable[[Call], Answer]


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the catalogue. `is_reading` routes change nothing, whatever their method."""

    method: str
    pattern: re.Pattern[str]
    handler: Handler
    since_minor: int
    is_reading: bool
    needs_request_id: bool
    object_type: str


class Catalogue:
    """The routes of one namespace, in the order they were declared."""

    def __init__(self, namespace: str, object_prefix: str) -> None:
        self.namespace, self._prefix = namespace, object_prefix
        self.routes: list[Route] = []

    def route(
        self,
        method: str,
        template: str,
        *,
        since_minor: int = 0,
        reads: bool | None = None,
        needs_request_id: bool = False,
    ) -> Callable[[Handler], Handler]:
        """Declare a handler; the name of its answer's type comes from its own name."""

        def declare(handler: Handler) -> Handler:
            name = "".join(word.capitalize() for word in handler.__name__.split("_"))
            pattern = re.compile(
                re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", template.replace("$", r"\$")) + "$"
            )
            is_reading = method == "GET" if reads is None else reads
            self.routes.append(
                Route(
                    method,
                    pattern,
                    handler,
                    since_minor,
                    is_reading,
                    needs_request_id,
                    f"{self._prefix}.{name}ApiResponse",
                )
            )
            return handler

        return declare

    def find(self, method: str, path: str) -> tuple[Route | None, Mapping[str, str]]:
        """The route for a path below `/api/{namespace}/{version}`, and its parameters."""
        for route in self.routes:
            if route.method == method and (match := route.pattern.match(path)):
                return route, match.groupdict()
        return None, {}
