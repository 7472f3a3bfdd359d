"""Keys: known answers, recovery keys, changing and taking away, forged wraps."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import resource
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from repository import (
    DamagedObject,
    InvalidInput,
    KeyFile,
    KeyProblem,
    Passphrase,
    Repository,
    StoreUnavailable,
    SystemClock,
    read_key_file,
    read_passphrase,
    recovery_key_text,
)
from repository.keys import RepositoryKeys
from repository.sealing import AesGcmSealer

MakeDisk = Callable[..., Any]
OLD, NEW = Passphrase("old", scrypt_n=2**4), Passphrase("new", scrypt_n=2**4)


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """RFC 5869 with SHA-256 for one block of output, from the standard library alone."""
    inside = hmac.new(salt, secret, hashlib.sha256).digest()
    return hmac.new(inside, info + b"\x01", hashlib.sha256).digest()


def test_our_second_derivation_is_that_of_the_rfc() -> None:
    """RFC 5869, test case 1 (its first 32 of 42 bytes): what the next test compares with is HKDF."""
    salt, info = bytes.fromhex("000102030405060708090a0b0c"), bytes(range(0xF0, 0xFA))
    assert hkdf(b"\x0b" * 22, salt, info).hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
    )


def test_known_answers_of_the_key_schedule() -> None:
    """Each derived key, and the id of a chunk, equals an independent computation from the format page."""
    master, repository_id = bytes(range(32)), uuid.UUID(int=7)
    keys = RepositoryKeys.from_master(master, repository_id)
    derived = {
        purpose: hkdf(master, repository_id.bytes, b"ahvault/1/" + purpose.encode())
        for purpose in ("chunk-id", "record", "meta", "data")
    }
    assert keys.chunk_id(b"abc") == blake3(b"abc", key=derived["chunk-id"]).digest()
    assert keys.record_mac(b"abc") == blake3(b"abc", key=derived["record"]).digest()
    assert keys.meta_key == derived["meta"]
    assert keys.data_key == derived["data"]


def test_known_answers_of_the_seals() -> None:
    """A sealed object and a sealed chunk open with AES-256-GCM and the page's keys, nonces and names."""
    master, repository_id = bytes(range(32)), uuid.UUID(int=7)
    keys = RepositoryKeys.from_master(master, repository_id)
    sealer = AesGcmSealer(keys)
    sealed = bytes(sealer.close_object("points/a/b.json", b"plain"))
    salt = sealed[8:24]
    meta = hkdf(master, repository_id.bytes, b"ahvault/1/meta")
    object_key = hkdf(meta, salt, b"ahvault/1/object")
    assert sealed[:8] == b"AHVSEAL1"
    assert AESGCM(object_key).decrypt(bytes(12), sealed[24:], b"points/a/b.json") == b"plain"
    pack_id = bytes(range(16))
    data = hkdf(master, repository_id.bytes, b"ahvault/1/data")
    pack_key = hkdf(data, pack_id, b"ahvault/1/pack")
    closed = sealer.for_pack(pack_id).close(5, b"header", b"payload")
    nonce = (5).to_bytes(12, "little")
    assert AESGCM(pack_key).decrypt(nonce, bytes(closed), b"header") == b"payload"


def test_a_recovery_key_survives_paper() -> None:
    """Its text reads back in any case, with any spacing, typed in or in a file; others stay themselves."""
    key = KeyFile.generate()
    text = recovery_key_text(key)
    assert text.startswith("AHVR-")
    for written in (text, text.lower(), text.replace("-", " "), f"  {text}\n"):
        assert read_passphrase(written) == key
        assert read_key_file(written.encode()) == key
    assert read_passphrase("AHVR-short") == Passphrase("AHVR-short")
    assert read_key_file(b"\xff" * 40) == KeyFile(b"\xff" * 40)
    assert text not in repr(key)


def test_a_typing_error_in_a_recovery_key_is_told() -> None:
    """Every single wrong character is noticed before the key is tried; the key is not in the message."""
    text = recovery_key_text(KeyFile(bytes(range(32))))
    for position in range(5, len(text)):
        if text[position] == "-":
            continue
        wrong = text[:position] + ("A" if text[position] != "A" else "B") + text[position + 1 :]
        with pytest.raises(InvalidInput, match="typing error") as caught:
            read_passphrase(wrong)
        assert wrong[5:9] not in str(caught.value)


@pytest.fixture
def sealed(tmp_path: Path) -> Repository:
    return Repository.create(str(tmp_path / "sealed"), secret=OLD)


def test_a_recovery_key_opens_what_it_was_added_to(sealed: Repository) -> None:
    """By its text alone, after the passphrase is gone."""
    text = recovery_key_text(key := KeyFile.generate())
    sealed.add_secret(key, "recovery key")
    (first,) = [wrap for wrap in sealed.secrets() if wrap.opened_by == "passphrase"]
    sealed.remove_secret(first.id)
    assert Repository.open(sealed.url, secret=read_passphrase(text)).id == sealed.id
    with pytest.raises(KeyProblem):
        Repository.open(sealed.url, secret=OLD)


def test_a_passphrase_is_changed_and_the_others_stay(sealed: Repository) -> None:
    """The new one opens, the old one does not, the label stays, another key is untouched."""
    other = KeyFile.generate()
    sealed.add_secret(other, "other")
    sealed.change_secret(OLD, NEW)
    assert {wrap.label for wrap in sealed.secrets()} == {"first", "other"}
    for secret in (NEW, other):
        assert Repository.open(sealed.url, secret=secret).id == sealed.id
    for call in (
        lambda: Repository.open(sealed.url, secret=OLD),
        lambda: sealed.change_secret(OLD, NEW),
    ):
        with pytest.raises(KeyProblem):
            call()


@pytest.fixture
def encrypted_faulty(tmp_path: Path, faulty: Any) -> Callable[[], tuple[Repository, Any]]:
    """Makes encrypted repositories whose stores do as they are told."""
    kind = type(faulty[1])

    def make() -> tuple[Repository, Any]:
        made = Repository.create(str(tmp_path / uuid.uuid4().hex), secret=OLD)
        store = kind(made._store)
        return Repository(store, made._description, made._master_key, SystemClock()), store

    return make


@pytest.mark.parametrize("lost_answer", [False, True])
def test_a_change_that_dies_anywhere_leaves_a_way_in(
    encrypted_faulty: Any, lost_answer: bool
) -> None:
    """Crash before or after each store operation of a key change: one of the two keys opens it."""
    deaths = 0
    for at in range(40):
        repository, store = encrypted_faulty()
        count = [0]

        def die(operation: str, key: str, count: list[int] = count, at: int = at) -> None:
            count[0] += 1
            if count[0] > at:
                raise StoreUnavailable(operation, key, "the process died here")

        setattr(store, "after" if lost_answer else "plan", die)
        try:
            repository.change_secret(OLD, NEW)
        except StoreUnavailable:
            deaths += 1
        else:
            break
        opened = []
        for secret in (OLD, NEW):
            try:
                opened.append(Repository.open(store.url, secret=secret))
            except KeyProblem:
                continue
        assert opened
        if opened[0].is_encrypted and len(opened) == 2:
            opened[0].change_secret(OLD, NEW)  # running it again completes it
            with pytest.raises(KeyProblem):
                Repository.open(store.url, secret=OLD)
    assert deaths >= 5


def test_two_removals_at_once_leave_a_key(encrypted_faulty: Any) -> None:
    """Each process takes the other's key away at the same moment: the later one puts its own back."""
    repository, store = encrypted_faulty()
    repository.add_secret(NEW, "second")
    first, second = repository.secrets()
    other = Repository.open(store.url, secret=NEW)

    def race(operation: str, key: str) -> None:
        if operation == "delete":
            store.plan = lambda _operation, _key: None
            other.remove_secret(second.id)

    store.plan = race
    with pytest.raises(InvalidInput, match="has become the only one"):
        repository.remove_secret(first.id)
    assert [wrap.id for wrap in repository.secrets()] == [first.id]
    assert Repository.open(store.url, secret=OLD).id == repository.id


@pytest.mark.parametrize(
    "forged",
    [
        {"n": 2**40},
        {"n": 2**22},
        {"r": 2**30},
        {"p": 2**30},
        {"n": 3},
        {"n": "many"},
        {"n": None},
        {"salt": "00" * 2**16},
        {"salt": "zz"},
        {"salt": 5},
        {"name": 7},
    ],
)
def test_a_forged_wrap_costs_nothing(sealed: Repository, forged: dict[str, Any]) -> None:
    """A wrap with a valid digest that asks for absurd work, or is nonsense, is refused by type, cheaply."""
    (path,) = (Path(sealed.url) / "keys").iterdir()
    record = json.loads(path.read_bytes())
    record["kdf"] |= forged
    del record["digest"]
    prefix = json.dumps(record, separators=(",", ":")).encode()[:-1]
    path.write_bytes(prefix + f',"digest":"{blake3(prefix).hexdigest()}"}}\n'.encode())
    before = resource.getrusage(resource.RUSAGE_SELF)
    with pytest.raises((DamagedObject, KeyProblem)):
        Repository.open(sealed.url, secret=OLD)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_utime - before.ru_utime < 1
    assert after.ru_maxrss - before.ru_maxrss < 64 * 1024


def test_secrets_are_in_no_log_and_no_repr(
    sealed: Repository, caplog: pytest.LogCaptureFixture, make_disk: MakeDisk
) -> None:
    """Opening, failing, adding, changing at the most talkative log level: no secret shows."""
    caplog.set_level(logging.DEBUG)
    speaking = Passphrase("open-sesame", scrypt_n=2**4)
    key = KeyFile(b"K" * 32)
    said = []
    with pytest.raises(KeyProblem) as caught:
        Repository.open(sealed.url, secret=speaking)
    said.append(str(caught.value))
    sealed.change_secret(OLD, speaking)
    sealed.add_secret(key, "key")
    said += [repr(sealed.secrets()), repr(sealed), repr(speaking), repr(key)]
    text = "".join([*said, caplog.text])
    for secret in ("open-sesame", "K" * 32, sealed._master_key.hex()):
        assert secret not in text
