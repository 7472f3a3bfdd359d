"""The two things a client proves itself with after its password: session cookies and the PE token.

Both are signed JSON web tokens (HS256). What a real token claims is not published; ours names the
content base path as its scope (nutanix-v4 §15.1) and the one disk pair that it was made for.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

from simulator.errors import UnauthorisedError


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def sign(claims: dict[str, Any], secret: bytes) -> str:
    """A token that says `claims`, which anybody may read and nobody may change."""
    head = _encode(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    body = _encode(json.dumps(claims).encode())
    signature = hmac.new(secret, f"{head}.{body}".encode(), hashlib.sha256).digest()
    return f"{head}.{body}.{_encode(signature)}"


def verify(token: str, secret: bytes, now_s: float) -> dict[str, Any]:
    """The claims of a token of ours that has not expired. UnauthorisedError otherwise."""
    try:
        head, body, signature = token.split(".")
        expected = hmac.new(secret, f"{head}.{body}".encode(), hashlib.sha256).digest()
        is_ours = hmac.compare_digest(_decode(signature), expected)
        claims: dict[str, Any] = json.loads(_decode(body)) if is_ours else {}
    except ValueError as error:
        raise UnauthorisedError("The token is not one.") from error
    if not claims:
        raise UnauthorisedError("The signature of the token is not ours.")
    if claims["exp"] <= now_s:
        raise UnauthorisedError("The token has expired.")
    return claims
