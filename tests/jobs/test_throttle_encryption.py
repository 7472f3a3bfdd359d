"""Nothing goes in the clear to a public address, unless the built-in rule is adjusted (Q8)."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from jobs import (
    BackupJob,
    NullObserver,
    RuleBook,
    RuleBuiltIn,
    Scope,
    ThrottleInvalid,
    TransferUnencrypted,
    WorkerSpec,
    open_backup_session,
    open_throttle,
    parse_rule,
)
from jobs.throttle_book import ThrottleSettings
from jobs.throttle_encryption import require_encryption
from jobs.throttle_place import _mount_of, addresses_elsewhere
from jobs.throttle_rules import PUBLIC_RULE
from nutanix import AhvClient
from repository import Passphrase, Repository
from repository.stores import open_store
from tests.repository.stores.conftest import s3_place, s3_server  # noqa: F401 - fixtures

PUBLIC = "8.8.8.8"
PRIVATE = (
    *("10.0.0.1", "172.16.0.1", "192.168.1.1", "127.0.0.1", "169.254.1.1", "100.64.0.1"),
    *("::1", "fd00::1", "fe80::1", "::ffff:10.0.0.1", None, "no-such-host.invalid"),
)
BUILT_IN = ThrottleSettings()


def adjusted(**fields: Any) -> ThrottleSettings:
    return ThrottleSettings(rules=(parse_rule({"name": PUBLIC_RULE, **fields}),))


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[Repository]:
    with Repository.create(str(tmp_path / "e"), secret=Passphrase("x", scrypt_n=16)) as created:
        yield created


@pytest.mark.parametrize("host", PRIVATE)
def test_private_addresses_are_exempt(repository: Repository, host: str | None) -> None:
    """Private, loopback, link-local, and what is no address at all; also private IPv4 as IPv6."""
    require_encryption(repository, BUILT_IN, host)


@pytest.mark.parametrize("host", [PUBLIC, "172.32.0.1", "2001:4860:4860::8888", "::ffff:8.8.8.8"])
def test_what_would_go_in_the_clear_to_a_public_address_is_refused(
    repository: Repository, encrypted: Repository, host: str
) -> None:
    """The error names address, rule and the ways out; each way is one."""
    with pytest.raises(TransferUnencrypted) as caught:
        require_encryption(repository, BUILT_IN, host)
    said = str(caught.value)
    for part in (repository.url, host.removeprefix("::ffff:"), "https://", "repo init --encrypt"):
        assert part in said
    assert f"throttle set {PUBLIC_RULE} --no-encrypt" in said
    require_encryption(encrypted, BUILT_IN, host)
    require_encryption(repository, adjusted(encrypt=False), host)
    with pytest.raises(TransferUnencrypted):
        require_encryption(repository, adjusted(limit="8 Mbit/s"), host)


def test_a_name_is_public_if_any_of_its_addresses_is(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows which one is taken; the name is said with the address that is public."""

    def both(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, 2, 17, "", (each, 0)) for each in ("10.0.0.1", PUBLIC)]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    assert addresses_elsewhere("store.example.com") == [ip_address("10.0.0.1"), ip_address(PUBLIC)]
    with pytest.raises(TransferUnencrypted, match=r"store\.example\.com \(8\.8\.8\.8\)"):
        require_encryption(repository, BUILT_IN, "store.example.com")


@pytest.mark.parametrize(
    ("url", "options", "encrypts"),
    [
        ("s3://bucket/x", {}, True),
        ("s3://bucket/x", {"endpoint": "https://8.8.8.8"}, True),
        ("s3://bucket/x", {"endpoint": "http://8.8.8.8:9000"}, False),
        ("s3://bucket/x", {"AWS_ENDPOINT_URL": "http://8.8.8.8:9000"}, False),
        ("sftp://b@8.8.8.8/x", {}, True),
        ("memory://x", {}, False),
        ("/srv/x", {}, False),
    ],
)
def test_stores_know_whether_their_transport_encrypts(
    url: str, options: dict[str, Any], encrypts: bool
) -> None:
    """By the endpoint of S3, always with SFTP; unknown is no."""
    with closing(open_store(url, options)) as store:
        assert store.encrypts_transport is encrypts


def test_an_endpoint_of_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 settings may come from variables; the options go before them, Amazon is the default."""
    with closing(open_store("s3://bucket/x")) as store:
        assert store.host == "s3.amazonaws.com"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio.example.com:9000")
    with closing(open_store("s3://bucket/x")) as store:
        assert (store.host, store.encrypts_transport) == ("minio.example.com", False)
    with closing(open_store("s3://bucket/x", {"endpoint": "https://10.0.0.1"})) as store:
        assert (store.host, store.encrypts_transport) == ("10.0.0.1", True)


@pytest.mark.parametrize(
    ("mounted", "encrypts"),
    [
        ("nfs4 nas:/export rw,sec=krb5p,addr=8.8.8.8", True),
        ("nfs4 nas:/export rw,sec=krb5i,addr=8.8.8.8", False),
        ("cifs //nas/share rw,vers=3.1.1,seal", True),
        ("cifs //nas/share rw,vers=3.1.1,sealed", False),
        ("fuse.sshfs b@nas:/x rw", True),
    ],
)
def test_a_mounted_file_system_may_encrypt(tmp_path: Path, mounted: str, encrypts: bool) -> None:
    """NFS, SMB and CephFS by an option of the mount, SSHFS always."""
    table = tmp_path / "mountinfo"
    table.write_text(f"41 22 0:51 / /mnt/share rw - {mounted}\n")
    mount = _mount_of(Path("/mnt/share/ahvault"), table)
    assert mount is not None
    assert mount.encrypts is encrypts


def test_the_built_in_rule_is_always_there_and_stays(repository: Repository) -> None:
    """Listed from the start; adjusted like any rule; never removed, not even once adjusted."""
    book = RuleBook(repository.live)
    (built_in,) = book.read().all_rules
    assert (built_in.name, built_in.encrypt, built_in.limit) == (PUBLIC_RULE, True, None)
    assert built_in.subject == "any <-> public"
    for fields in ({"encrypt": False}, {"limit": "8 Mbit/s"}):
        book.put(parse_rule({"name": PUBLIC_RULE, **fields}))
        with pytest.raises(RuleBuiltIn, match="cannot be removed, only adjusted"):
            book.remove(PUBLIC_RULE)
    (found,) = book.read().all_rules
    assert found.encrypt
    assert str(found.limit) == "8 Mbit/s"
    book.put(parse_rule({"name": "wan", "limit": "1 MiB/s"}))
    assert [each.name for each in book.read().all_rules] == [PUBLIC_RULE, "wan"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": PUBLIC_RULE, "between": ("any", "any")}, "is the built-in rule"),
        ({"name": PUBLIC_RULE, "job": "nightly"}, "is the built-in rule"),
        ({"name": PUBLIC_RULE, "limit": "1 MiB/s"}, "a network is limited in bits"),
        ({"name": "wan", "limit": "1 MiB/s", "encrypt": True}, "encrypt: is what the built-in"),
    ],
)
def test_the_built_in_rule_keeps_its_subject(fields: dict[str, object], said: str) -> None:
    """It is about public addresses, and no other rule asks for encryption."""
    with pytest.raises(ThrottleInvalid, match=said):
        parse_rule(fields)


def test_no_transfer_gets_a_throttle_to_move_in_the_clear(repository: Repository) -> None:
    """Whoever moves data asks the engine first, in either direction; adjusting the rule lets it."""
    book = RuleBook(repository.live)
    book.place_at(ip_address(PUBLIC))
    with open_throttle(repository) as engine:
        for direction, purpose in (("write", "backup"), ("read", "restore"), ("read", "copy")):
            with pytest.raises(TransferUnencrypted):
                engine.transfer(direction=direction, purpose=purpose)  # type: ignore[arg-type]
    book.put(parse_rule({"name": PUBLIC_RULE, "encrypt": False}))
    with open_throttle(repository) as engine:
        engine.transfer(direction="write", purpose="backup").acquire(1)


def test_a_session_is_refused_before_it_does_anything(
    client: AhvClient, repository: Repository, workers: list[WorkerSpec]
) -> None:
    """No lease stays, no snapshot is made, no pack or index is written."""
    RuleBook(repository.live).place_at(ip_address(PUBLIC))
    before = {each.key for each in repository._store.list("")}
    snapshots = client.recovery_points()
    with (
        pytest.raises(TransferUnencrypted),
        open_backup_session(
            client=client,
            repository=repository,
            workers=workers,
            job=BackupJob(name="nightly", scope=Scope(vms=("web01",))),
            observer=NullObserver(),
        ),
    ):
        raise AssertionError("the session was opened")
    assert {each.key for each in repository._store.list("")} == before
    assert client.recovery_points() == snapshots


def test_plain_http_serves_a_private_address_and_no_public_one(
    request: pytest.FixtureRequest,
) -> None:
    """A real S3 server without TLS: a loopback address is exempt until it is said to be public."""
    url, options = request.getfixturevalue("s3_place")
    with Repository.create(url, storage_options=options) as repository:
        with open_throttle(repository) as engine:
            engine.transfer(direction="write", purpose="backup")
        RuleBook(repository.live).place_at(ip_address(PUBLIC))
        with open_throttle(repository) as engine, pytest.raises(TransferUnencrypted, match=url):
            engine.transfer(direction="write", purpose="backup")
