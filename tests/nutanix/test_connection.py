"""What an operator may give as a connection, and what is refused with which words."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from nutanix import ClusterConnection

LOGIN = {"username": "u", "password": "hush hush"}


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("pc.example", "https://pc.example:9440"),
        ("pc.example:443", "https://pc.example:443"),
        ("https://pc.example/", "https://pc.example:9440"),
        (" https://192.0.2.1:9440 ", "https://192.0.2.1:9440"),
        ("https://[2001:db8::1]", "https://[2001:db8::1]:9440"),
    ],
)
def test_addresses_in_all_their_forms(given, url):
    """A bare name, a name with a port and a URL mean what they look like."""
    assert ClusterConnection(url=given, **LOGIN).url == url


@pytest.mark.parametrize(
    "given",
    ["http://pc.example", "https://pc.example/console", "https://u:p@pc.example", "https://", ""],
)
def test_addresses_that_are_refused(given):
    """Clear text, a path into the web console, or credentials inside the address."""
    with pytest.raises(ValidationError, match="https://HOST"):
        ClusterConnection(url=given, **LOGIN)


@pytest.mark.parametrize(
    "login",
    [
        {},
        {"username": "u"},
        {"password": "p"},
        {**LOGIN, "api_key": "k"},
        {"username": "u", "api_key": "k"},
    ],
)
def test_exactly_one_way_to_log_in(login):
    """User and password, or an API key; never half of one or both."""
    with pytest.raises(ValidationError, match="either username and password, or api_key"):
        ClusterConnection(url="pc.example", **login)


def test_secrets_do_not_show():
    """Neither str nor repr nor a dump to JSON holds the password."""
    connection = ClusterConnection(url="pc.example", **LOGIN)
    for told in (str(connection), repr(connection), connection.model_dump_json()):
        assert "hush" not in told
    assert connection.identity == "user u"


def test_a_refused_connection_does_not_echo_the_password():
    """A validation error shows what is wrong, not what was typed into the password field."""
    with pytest.raises(ValidationError) as caught:
        ClusterConnection(url="ftp://pc.example", **LOGIN)
    assert "hush" not in str(caught.value)
