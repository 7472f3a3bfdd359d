"""Sending one call: credentials, request id, rate limit, retries, and typed errors.

What belongs here is true of every call whatever it asks for. What a call means lives above.
"""

from __future__ import annotations

import base64
import logging
import ssl
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx

from nutanix.answers import Answer, Refusal, Subject, read_answer, read_refusal
from nutanix.clock import Clock
from nutanix.connection import ClusterConnection
from nutanix.errors import (
    AnswerUnusable,
    CertificateUntrusted,
    ClusterUnreachable,
    NotPrism,
    NutanixError,
    RedirectedTooOften,
)
from nutanix.rate_limit import RateLimiter, endpoint_family
from nutanix.retries import RetryPolicy, retry_after_s

log = logging.getLogger(__name__)

REDIRECTS_MAX = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One HTTP call, complete but for the server. `path` starts after `/api`.

    `purpose` completes "could not ..."; `token` replaces the credentials (a Prism Element's JWT).
    """

    method: str
    path: str
    purpose: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: dict[str, Any] | None = field(default=None, repr=False)
    etag: str | None = None
    request_id: str | None = None
    subject: Subject | None = None
    token: str | None = field(default=None, repr=False)
    attempts_max: int | None = None
    """Fewer attempts than usual, for a call whose answer can be done without."""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server shows before anybody logs in. `None` for what it does not show."""

    clock_ahead_s: float | None
    """How far its clock is ahead of ours, to about a second."""
    certificate_expires_at: datetime | None


class Transport:
    """The pooled connection of one client to a Prism Central and its Prism Elements. Thread-safe."""

    def __init__(
        self,
        connection: ClusterConnection,
        *,
        clock: Clock,
        retries: RetryPolicy,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._connection, self._clock, self._retries = connection, clock, retries
        self._limiter = RateLimiter(clock)
        self._reached: set[str] = set()
        # Credentials go with every call; a server's session cookies would only compete with them.
        no_cookies = CookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))
        self._http = httpx.Client(
            transport=transport,
            verify=True if transport is not None else _tls(connection),
            cookies=no_cookies,
            timeout=httpx.Timeout(
                connection.read_timeout_s, connect=connection.connect_timeout_s, pool=None
            ),
            limits=httpx.Limits(
                max_connections=connection.connections_max,
                max_keepalive_connections=connection.connections_max,
            ),
            follow_redirects=False,
            trust_env=False,
        )

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def send(self, call: Call, *, base_url: str | None = None) -> Answer:
        """Send until answered, refused for good, or out of attempts; every attempt is the same call.

        Raises the typed error of the last attempt.
        """
        base_url = base_url or self._connection.url
        request = self._request(call, base_url)
        family = endpoint_family(call.method, call.path)
        attempt = 0
        while True:
            attempt += 1
            self._limiter.acquire(base_url, family)
            outcome = self._attempt(call, request, base_url, family, attempt)
            if isinstance(outcome, Answer):
                return outcome
            refusal, wanted_s = outcome
            if not self._may_retry(call, refusal, attempt):
                raise refusal.error
            delay_s = self._retries.delay_s(attempt, wanted_s)
            log.info(
                "Attempt %d to %s failed, next in %.1f s: %s",
                attempt,
                call.purpose,
                delay_s,
                refusal.error,
            )
            self._clock.sleep(delay_s)

    def look_at(self, base_url: str) -> ServerFacts:
        """Reach a server without logging in; raises what keeps us from it, such as its certificate."""
        request = self._http.build_request("GET", f"{base_url}/api/")
        try:
            with closing(self._http.send(request, stream=True)) as response:
                stream = response.extensions.get("network_stream")
                tls = stream.get_extra_info("ssl_object") if stream is not None else None
                return ServerFacts(
                    _seconds_ahead(response.headers.get("Date"), self._clock.now()),
                    _expiry(tls.getpeercert() if tls is not None else None),
                )
        except httpx.TransportError as error:
            raise _connection_error(error, base_url) from error

    def _may_retry(self, call: Call, refusal: Refusal, attempt: int) -> bool:
        if not refusal.is_retryable or attempt == call.attempts_max:
            return False
        return self._retries.may_retry(attempt, rate_limited=refusal.is_rate_limit)

    def _attempt(
        self, call: Call, request: httpx.Request, base_url: str, family: str, attempt: int
    ) -> Answer | tuple[Refusal, float | None]:
        try:
            response = self._exchange(request)
        except httpx.TransportError as error:
            return self._lost(error, base_url), None
        self._reached.add(base_url)
        self._limiter.learn(base_url, response.headers)
        if response.is_success:
            try:
                return read_answer(response, call.purpose)
            except AnswerUnusable as error:
                return _unreadable(error, response, base_url), None
        refusal = read_refusal(
            response,
            purpose=call.purpose,
            subject=call.subject,
            identity=self._connection.identity if call.token is None else "the cluster's own token",
            attempt=attempt,
        )
        wanted_s = retry_after_s(response.headers.get("Retry-After"))
        if refusal.is_rate_limit:
            self._limiter.turned_down(base_url, family, response.headers, wanted_s)
        return refusal, wanted_s

    def _exchange(self, request: httpx.Request) -> httpx.Response:
        """Send, and follow the one redirect that the API has: 302 within the same server (`§8`).

        The same call with its body goes to the new place, with the token that came along unless it has
        one of its own. Credentials never follow a redirect to another server; that answer is left for
        the caller to refuse. Raises RedirectedTooOften for a chain without end.
        """
        began_at = request.url
        for _ in range(1 + REDIRECTS_MAX):
            response = self._http.send(request)
            target = response.next_request
            if response.status_code != 302 or target is None:
                return response
            if _origin(target.url) != _origin(request.url):
                return response
            request = self._http.build_request(
                request.method, target.url, headers=request.headers, content=request.content
            )
            if token := response.headers.get("X-Redirect-Token"):
                request.headers.setdefault("Cookie", token)
        raise RedirectedTooOften(
            _place(began_at), ended_at=_place(request.url), redirects=1 + REDIRECTS_MAX
        )

    def _lost(self, error: httpx.TransportError, base_url: str) -> Refusal:
        """A call without an answer is sent again; a first call that reaches nobody is not.

        Nobody wants to wait for retries to hear that an address is wrong. A Prism Element's address
        comes from the cluster, so it is not wrong.
        """
        typed = _connection_error(error, base_url)
        reached_nobody = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
        first_try = base_url == self._connection.url and base_url not in self._reached
        return Refusal(typed, typed.is_transient and not (reached_nobody and first_try))

    def _request(self, call: Call, base_url: str) -> httpx.Request:
        headers = {
            "Accept": "application/json",
            "Content-Type": "application/json",
            "NTNX-Request-Id": call.request_id or str(uuid.uuid4()),
        }
        if call.etag is not None:
            headers["If-Match"] = call.etag
        headers.update(self._credentials(call))
        return self._http.build_request(
            call.method,
            f"{base_url}/api{call.path}",
            params=dict(call.query) or None,
            json=call.body,
            headers=headers,
        )

    def _credentials(self, call: Call) -> dict[str, str]:
        connection = self._connection
        if call.token is not None:
            return {"Cookie": f"NTNX_IGW_SESSION={call.token}"}
        if connection.api_key is not None:
            return {"X-ntnx-api-key": connection.api_key.get_secret_value()}
        secret = connection.password.get_secret_value() if connection.password else ""
        pair = f"{connection.username}:{secret}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}


def _seconds_ahead(date: str | None, now: datetime) -> float | None:
    try:
        return (parsedate_to_datetime(date) - now).total_seconds() if date else None
    except (TypeError, ValueError):
        return None


def _expiry(certificate: Mapping[str, Any] | None) -> datetime | None:
    """Python shows the certificate's fields only when it verified them."""
    until = certificate.get("notAfter") if certificate else None
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(until), UTC) if until else None


def _tls(connection: ClusterConnection) -> ssl.SSLContext | bool:
    if not connection.verify_tls:
        return False
    if connection.ca_file is None:
        return ssl.create_default_context()
    try:
        return ssl.create_default_context(cafile=str(connection.ca_file))
    except OSError as error:
        reason = f"the CA file {connection.ca_file} cannot be used ({error.strerror or error})"
        raise CertificateUntrusted(connection.url, reason) from error


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _place(url: httpx.URL) -> str:
    """The address alone: a query, or what follows a `;` in the path, may carry a session."""
    return f"{url.scheme}://{url.netloc.decode()}{url.path.partition(';')[0]}"


def _unreadable(error: AnswerUnusable, response: httpx.Response, base_url: str) -> Refusal:
    """A cut-off answer is asked for again; a server that does not speak JSON is not a Prism."""
    kind = response.headers.get("Content-Type", "application/json")
    if "json" in kind:
        return Refusal(error, is_retryable=True)
    return Refusal(NotPrism(base_url, f"it answers an API call with {kind}"), is_retryable=False)


def _connection_error(error: httpx.TransportError, url: str) -> NutanixError:
    """Say what is behind a transport error; httpx keeps the cause in the exception chain."""
    for cause in _chain(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return CertificateUntrusted(url, cause.verify_message or str(cause))
        if isinstance(cause, ssl.SSLError) and cause.reason in (
            "WRONG_VERSION_NUMBER",
            "HTTP_REQUEST",
        ):
            return NotPrism(url, "it does not speak TLS")
    if isinstance(error, httpx.TimeoutException):
        return ClusterUnreachable(url, "no answer in time")
    return ClusterUnreachable(url, str(error).rstrip(".") or type(error).__name__)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
