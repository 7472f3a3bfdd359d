"""The doors of both listeners: versions, credentials, limits, request ids, and the shape of answers.

`Doors.respond` takes a plain request and gives a plain response; sockets and threads are `server.py`'s.
Prism Central and Prism Element are the same state behind different doors (nutanix-v4 §1.2, §23).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from simulator import tokens
from simulator.api.envelope import envelope, error_body
from simulator.api.limits import Limiter
from simulator.api.routes import Answer, Call, Catalogue, Route
from simulator.clock import parse_stamp, stamp
from simulator.cluster import Cluster
from simulator.documents import Document
from simulator.errors import PreconditionError, RefusedError, SchemaError, UnauthorisedError
from simulator.roles import ADMIN, require_right
from simulator.settings import NEWEST_MINORS

ADMIN_PATH = "/simulator/v1"
USERNAME = "admin"
_VERSIONED = re.compile(r"/api/(?P<namespace>\w+)/v4\.(?P<minor>\d+)(?P<rest>/.*)$")
_PROBE = re.compile(r"/api/(?P<namespace>\w+)/unversioned/info$")
_SESSION_COOKIE = "NTNX_IGW_SESSION"
_REQUEST_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")

Side = Literal["central", "element"]


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came over the wire, path decoded, header names in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def cookies(self) -> dict[str, str]:
        """Cookies by name; the last of a name wins."""
        pairs = (part.strip().partition("=") for part in self.headers.get("cookie", "").split(";"))
        return {name: value for name, mark, value in pairs if mark}


@dataclass(frozen=True, slots=True)
class Response:
    """What goes back over the wire."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    connection: Literal["whole", "half", "dropped"] = "whole"


Admin = Callable[[str, Document], Any]


class Doors:
    """One listener's way into the cluster. Thread-safe."""

    def __init__(
        self,
        cluster: Cluster,
        side: Side,
        catalogues: list[Catalogue],
        admin: Admin,
        urls: Mapping[str, str],
    ) -> None:
        self._cluster, self._side, self._admin, self._urls = cluster, side, admin, urls
        self._catalogues: dict[str, list[Catalogue]] = {}
        for catalogue in catalogues:
            self._catalogues.setdefault(catalogue.namespace, []).append(catalogue)
        self._limiter = Limiter(cluster.settings, cluster.clock)

    # -- the way of a request ------------------------------------------------------------------

    def respond(self, request: Request) -> Response:
        """Answer one request. Never raises for what a client did."""
        try:
            return self._with_headers(request, self._pass(request))
        except RefusedError as refusal:
            return self.refuse(refusal, request)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            # A body of a shape that no handler expects, for example a text where an object belongs.
            return self.refuse(
                SchemaError(f"The request has an unexpected shape: {error!r}", "body"), request
            )

    def _address(self, path: str) -> tuple[str, int]:
        match = _VERSIONED.match(path)
        return (match["namespace"], int(match["minor"])) if match else ("prism", 0)

    def _pass(self, request: Request) -> Response:
        if request.path.startswith(ADMIN_PATH + "/"):
            return self._administrate(request)
        if (probe := _PROBE.match(request.path)) and request.method == "OPTIONS":
            return self._probe(probe["namespace"], request)
        match = _VERSIONED.match(request.path)
        if match is None or match["namespace"] not in self._catalogues:
            return Response(404)
        return self._enter(request, match["namespace"], int(match["minor"]), match["rest"])

    def _enter(self, request: Request, namespace: str, minor: int, rest: str) -> Response:
        if minor > self._cluster.settings.minor_of(namespace):
            return Response(404)
        if rest.startswith("/content/recovery-points") != (self._side == "element"):
            # Content lives on Prism Element only, and only content does (§1.2).
            return Response(501 if self._side == "central" else 404)
        claims = self._authenticate(request)
        if not self._limiter.take(f"{namespace}{_family(rest)}"):
            return self._too_many(request, namespace, minor)
        return self._call(request, namespace, minor, rest, claims)

    def _call(
        self, request: Request, namespace: str, minor: int, rest: str, claims: Mapping[str, Any]
    ) -> Response:
        route, params = self._route(request.method, namespace, rest, minor)
        call = Call(
            cluster=self._cluster,
            method=request.method,
            path=request.path,
            namespace=namespace,
            minor=minor,
            params=params,
            query=request.query,
            headers=request.headers,
            body=_parsed(request.body),
            claims=claims,
            urls=self._urls,
        )
        require_right(self._cluster, str(claims.get("user", ADMIN)), route.handler.__name__)
        if route.is_reading:
            return self._rendered(route, call, route.handler(call))
        return self._write(request, route, call)

    def _route(
        self, method: str, namespace: str, rest: str, minor: int
    ) -> tuple[Route, Mapping[str, str]]:
        for catalogue in self._catalogues[namespace]:
            route, params = catalogue.find(method, rest)
            if route is not None and route.since_minor <= minor:
                return route, params
        raise RefusedError(
            f"There is no {method} {rest} here.",
            status=404,
            code="PLAT-20404",
            group="RESOURCE_NOT_FOUND",
        )

    # -- writes --------------------------------------------------------------------------------

    def _write(self, request: Request, route: Route, call: Call) -> Response:
        """Do a write once per request id, however often it is asked (§10, §23 rule 8)."""
        request_id = request.headers.get("ntnx-request-id")
        self._check_request_id(request_id, route)
        documents = self._cluster.documents
        fingerprint = _fingerprint(request)
        with documents.change():
            known = documents.find("request", request_id) if request_id else None
            if known is not None:
                return self._replayed(known.private, fingerprint)
            try:
                answer = route.handler(call)
            except PreconditionError as refusal:
                if self._cluster.settings.stale_tag_as == "status" or refusal.code != "VMM-30303":
                    raise
                answer = self._failing_task(refusal)
            response = self._rendered(route, call, answer)
            if request_id:
                kept = {
                    "fingerprint": fingerprint,
                    "status": response.status,
                    "at_s": call.cluster.clock.now_s(),
                }
                kept["body"] = response.body.decode()
                documents.put("request", request_id, {}, kept)
            return response

    def _failing_task(self, refusal: RefusedError) -> Answer:
        """A stale ETag that only shows when the task runs, as some releases do it (§7)."""
        cause = {"message": refusal.message, "code": refusal.code, "group": refusal.group}
        ext_id = self._cluster.submit("StaleWrite", {}, private={"fails_with": cause})
        return Answer({"$objectType": "prism.v4.config.TaskReference", "extId": ext_id}, 202)

    def _check_request_id(self, request_id: str | None, route: Route) -> None:
        if request_id is None:
            if route.needs_request_id and self._cluster.settings.request_ids == "strict":
                raise RefusedError(
                    "The header NTNX-Request-Id is required.",
                    status=400,
                    code="VMM-30400",
                    group="VM_MISSING_REQUEST_ID_HEADER",
                )
        elif not _REQUEST_ID.match(request_id):
            raise RefusedError(
                "The header NTNX-Request-Id is not a UUID.",
                status=400,
                code="VMM-30401",
                group="VM_INVALID_REQUEST_ID_HEADER",
            )

    @staticmethod
    def _replayed(kept: Document, fingerprint: str) -> Response:
        if kept["fingerprint"] != fingerprint:
            raise RefusedError(
                "This NTNX-Request-Id was used for another request.",
                status=409,
                code="PLAT-30402",
                group="REQUEST_ID_CONFLICT",
            )
        return Response(kept["status"], kept["body"].encode(), {"content-type": "application/json"})

    # -- credentials ---------------------------------------------------------------------------

    def _authenticate(self, request: Request) -> Mapping[str, Any]:
        if self._side == "element":
            return self._token_claims(request)
        user = self._session_user(request) or self._key_user(request)
        if user is None and self._has_password(request):
            user = ADMIN
        if user is not None:
            return {"user": user}
        raise UnauthorisedError("User name and password, API key or session are missing or wrong.")

    def _token_claims(self, request: Request) -> Mapping[str, Any]:
        """Content is opened by the token in a cookie and by nothing else (§2, §23 rule 10)."""
        token = request.cookies.get(_SESSION_COOKIE)
        if token is None:
            if request.headers.get("authorization", "").startswith("Bearer "):
                raise UnauthorisedError("A bearer token is not taken here.", status=403)
            raise UnauthorisedError("The session cookie with the token is missing.")
        claims = tokens.verify(token, self._cluster.secret, self._cluster.clock.now_s())
        if "scope" not in claims:
            raise UnauthorisedError("That session is not one for content.")
        return claims

    def _session_user(self, request: Request) -> str | None:
        token = request.cookies.get(_SESSION_COOKIE)
        if token is None:
            return None
        try:
            claims = tokens.verify(token, self._cluster.secret, self._cluster.clock.now_s())
        except UnauthorisedError:
            return None
        return str(claims["user"]) if claims.get("kind") == "session" else None

    def _has_password(self, request: Request) -> bool:
        scheme, _space, value = request.headers.get("authorization", "").partition(" ")
        expected = base64.b64encode(f"{USERNAME}:{self._cluster.password}".encode()).decode()
        return scheme.lower() == "basic" and hmac.compare_digest(value.encode(), expected.encode())

    def _key_user(self, request: Request) -> str | None:
        value = request.headers.get("x-ntnx-api-key")
        if value is None:
            return None
        digest = hashlib.sha256(value.encode()).hexdigest()
        for key in self._cluster.documents.all("api_key"):
            if key.private["digest"] == digest and self._is_valid(key.document):
                return str(key.private["user"])
        return None

    def _is_valid(self, key: Document) -> bool:
        ends = key.get("expiryTime")
        is_over = ends is not None and parse_stamp(ends) <= self._cluster.clock.now()
        return bool(key["status"] == "VALID" and not is_over)

    # -- answers -------------------------------------------------------------------------------

    def _probe(self, namespace: str, request: Request) -> Response:
        settings = self._cluster.settings
        if namespace not in NEWEST_MINORS or not settings.answers_version_probe:
            return Response(404)
        if self._side == "central":
            self._authenticate(request)
        return _json(200, {"data": f"v4.{settings.minor_of(namespace)}"})

    def _administrate(self, request: Request) -> Response:
        if self._side == "element" or not self._has_password(request):
            raise UnauthorisedError("The simulator's own calls need user name and password.")
        action = request.path.removeprefix(ADMIN_PATH + "/")
        return _json(200, {"data": self._admin(action, _parsed(request.body))})

    def _rendered(self, route: Route, call: Call, answer: Answer) -> Response:
        headers = dict(answer.headers)
        if answer.tag:
            headers["etag"] = answer.tag
        if answer.raw is not None:
            return Response(
                answer.status, answer.raw, {**headers, "content-type": answer.media_type}
            )
        if answer.status == 204:
            return Response(204, b"", headers)
        host = self._urls["central" if self._side == "central" else "element"]
        self_url = f"{host}{call.path}"
        body = envelope(
            answer.data, route.object_type, call.minor, self_url=self_url, metadata=answer.metadata
        )
        return _json(answer.status, body, headers)

    def _refused(
        self, refusal: RefusedError, request: Request, namespace: str, minor: int
    ) -> Response:
        moment = stamp(self._cluster.clock.now())
        body = error_body(refusal, namespace, minor, path=request.path, moment=moment)
        return _json(refusal.status, body)

    def _too_many(self, request: Request, namespace: str, minor: int) -> Response:
        refusal = RefusedError(
            "Too many calls.", status=429, code="PLAT-20429", group="RATE_LIMIT_EXCEEDED"
        )
        response = self._refused(refusal, request, namespace, minor)
        wait = {"retry-after": "1"} if self._cluster.settings.tells_retry_after else {}
        return Response(response.status, response.body, {**response.headers, **wait})

    def _with_headers(self, request: Request, response: Response) -> Response:
        headers = {**self._limiter.headers(), **response.headers}
        gives_cookie = self._side == "central" and self._cluster.settings.gives_cookies
        if gives_cookie and response.status < 400 and self._session_user(request) is None:
            cookie = self.session_cookie(self._key_user(request) or ADMIN)
            headers["set-cookie"] = f"{cookie}; Path=/; Secure; HttpOnly"
        return Response(response.status, response.body, headers)

    def session_cookie(self, user: str = ADMIN) -> str:
        """A new session as `name=value`."""
        life_s = self._cluster.settings.cookie_life_s
        claims = {"kind": "session", "user": user, "exp": self._cluster.clock.now_s() + life_s}
        return f"{_SESSION_COOKIE}={tokens.sign(claims, self._cluster.secret)}"

    def refuse(self, refusal: RefusedError, request: Request) -> Response:
        """The answer that a refusal becomes."""
        namespace, minor = self._address(request.path)
        return self._with_headers(request, self._refused(refusal, request, namespace, minor))


def _family(rest: str) -> str:
    """What the per-API limit counts together: a path with its ids left out."""
    return re.sub(r"/[^/]*[0-9a-fA-F]{8}-[^/]+", "/{id}", rest)


def _parsed(body: bytes) -> Document:
    if not body.strip():
        return {}
    try:
        parsed = json.loads(body)
    except ValueError as error:
        raise SchemaError("The body is not JSON.", "body") from error
    if not isinstance(parsed, dict):
        raise SchemaError("The body is not a JSON object.", "body")
    return parsed


def _json(status: int, body: Any, headers: Mapping[str, str] | None = None) -> Response:
    sent = {"content-type": "application/json", **(headers or {})}
    return Response(status, json.dumps(body).encode(), sent)


def _fingerprint(request: Request) -> str:
    """What makes two requests the same: method, path without its version, query and body."""
    path = _VERSIONED.sub(r"/\g<namespace>\g<rest>", request.path)
    text = json.dumps([request.method, path, sorted(request.query.items())]).encode()
    return hashlib.sha256(text + request.body).hexdigest()
