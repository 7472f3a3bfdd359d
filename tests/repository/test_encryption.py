"""An encrypted repository: nothing shows, every key opens, wrong keys are told apart from damage."""

from __future__ import annotations

import json
import random
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
    TransferCounters,
)

CHUNK = 64 * 1024
MARK = b"the very secret plans of the company. "
MakeDisk = Callable[..., Any]


def cheap(text: str) -> Passphrase:
    return Passphrase(text, scrypt_n=2**4)


def files(bench: Any, prefix: str = "") -> list[Path]:
    return sorted(path for path in (Path(bench.url) / prefix).rglob("*") if path.is_file())


@pytest.fixture
def filled(encrypted_bench: Any, make_disk: MakeDisk) -> tuple[Any, Any, bytes]:
    """An encrypted repository with a restore point, that point, and its disk's bytes."""
    noise = random.Random(1).randbytes(6 * CHUNK)
    data = noise[:CHUNK] + MARK * 2000 + noise[CHUNK:]
    record = encrypted_bench.write(make_disk(data))
    point = encrypted_bench.commit(record, vm_config={"owner": MARK.decode()})
    encrypted_bench.repository.save_report("session", {"text": MARK.decode()})
    encrypted_bench.repository.live.put("journal", "x", {"text": MARK.decode()})
    return encrypted_bench, point, data


def test_nothing_of_the_content_shows(filled: tuple[Any, Any, bytes]) -> None:
    """No stored object holds a piece of the disk, of the configuration, or of the master key."""
    bench, _, data = filled
    for path in files(bench):
        stored = path.read_bytes()
        assert MARK[:12] not in stored
        assert data[1000:1016] not in stored
        assert bench.repository._master_key not in stored
        assert bench.repository._master_key.hex().encode() not in stored
        if path.parts[-2] in {"reports", "journal", "index"} or "points" in path.parts:
            assert stored.startswith(b"AHVSEAL1")


def test_deduplication_keeps_working(filled: tuple[Any, Any, bytes], make_disk: MakeDisk) -> None:
    """The same content again, in a new process's session, stores nothing."""
    bench, _, data = filled
    bench.repository = bench.reopened()
    counters = TransferCounters()
    bench.write(make_disk(data), disk_id="other", counters=counters)
    assert counters.new_chunks == 0


def test_every_flipped_bit_is_found(filled: tuple[Any, Any, bytes]) -> None:
    """Sealed objects of every kind, and key wraps: a flipped bit is found under the object's name."""
    bench, _, _ = filled
    assert bench.repository.verify(remembers=False).is_clean
    chooser = random.Random(3)
    for path in files(bench):
        if path.name == "repo.json":
            continue
        sound = path.read_bytes()
        for _ in range(4):
            damaged = bytearray(sound)
            bit = chooser.randrange(len(sound) * 8)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            keys = {finding.key for finding in bench.repository.verify(remembers=False).findings}
            assert path.relative_to(bench.url).as_posix() in keys
        path.write_bytes(sound)


def test_several_secrets_open_it_and_can_be_taken_away(filled: tuple[Any, Any, bytes]) -> None:
    """Passphrases and key files are added, used, listed and removed; the last one stays."""
    bench, point, data = filled
    recovery = KeyFile.generate()
    recovery_id = bench.repository.add_secret(recovery, "recovery key")
    bench.repository.add_secret(cheap("second"), "operator")
    for secret in (bench.secret, recovery, cheap("second")):
        opened = Repository.open(bench.url, secret=secret)
        piece = memoryview(bytearray(len(data)))
        opened.open_disk(opened.point(point.id), "disk-1").read_into(0, piece)
        assert piece == data
    listed = bench.repository.secrets()
    assert {(wrap.label, wrap.opened_by) for wrap in listed} == {
        ("first", "passphrase"),
        ("recovery key", "key file"),
        ("operator", "passphrase"),
    }
    for wrap in listed:
        if wrap.id != recovery_id:
            bench.repository.remove_secret(wrap.id)
    with pytest.raises(KeyProblem):
        bench.reopened()
    assert Repository.open(bench.url, secret=recovery).is_encrypted
    with pytest.raises(InvalidInput, match="the only one"):
        bench.repository.remove_secret(recovery_id)
    with pytest.raises(InvalidInput, match="unknown"):
        bench.repository.remove_secret("0" * 32)


def test_a_wrong_key_is_no_damage(filled: tuple[Any, Any, bytes]) -> None:
    """No secret, a wrong passphrase, a wrong key file: KeyProblem; none of them in the message."""
    bench, _, _ = filled
    with pytest.raises(KeyProblem, match="give its passphrase"):
        Repository.open(bench.url)
    for wrong in (cheap("incorrect horse"), KeyFile.generate()):
        with pytest.raises(KeyProblem, match="does not open it") as caught:
            Repository.open(bench.url, secret=wrong)
        assert "incorrect" not in str(caught.value)


def test_damage_is_no_wrong_key(filled: tuple[Any, Any, bytes]) -> None:
    """A damaged wrap says so, by name; one sound wrap beside it is enough."""
    bench, _, _ = filled
    (path,) = files(bench, "keys")
    sound = path.read_bytes()
    path.write_bytes(sound.replace(b'"label":"first"', b'"label":"worst"'))
    with pytest.raises(DamagedObject, match="keys/"):
        bench.reopened()
    path.write_bytes(sound)
    bench.repository.add_secret(cheap("second"), "operator")
    path.write_bytes(sound[:-1])
    assert Repository.open(bench.url, secret=cheap("second")).is_encrypted
    with pytest.raises(KeyProblem, match="is damaged"):
        bench.reopened()


def test_an_exchanged_description_is_refused(filled: tuple[Any, Any, bytes]) -> None:
    """A `repo.json` with a valid digest but other members does not go with the wrapped key."""
    bench, _, _ = filled
    path = Path(bench.url) / "repo.json"
    prefix = path.read_bytes()[:-78].replace(b'"compression_level":3', b'"compression_level":9')
    path.write_bytes(prefix + f',"digest":"{blake3(prefix).hexdigest()}"}}\n'.encode())
    with pytest.raises(DamagedObject, match="not the one"):
        bench.reopened()


def test_secrets_do_not_show() -> None:
    """Reprs of secrets show none of them; empty ones and short key files are refused."""
    assert "horse" not in repr(Passphrase("correct horse"))
    key_file = KeyFile.generate()
    assert repr(key_file.content)[2:-1] not in repr(key_file)
    with pytest.raises(InvalidInput):
        Passphrase("")
    with pytest.raises(InvalidInput, match="32 bytes"):
        KeyFile(b"short")


def test_a_plain_repository_has_no_keys_to_manage(bench: Any) -> None:
    """Adding a secret to a repository that is not encrypted is refused, as it would protect nothing."""
    with pytest.raises(InvalidInput, match="not encrypted"):
        bench.repository.add_secret(KeyFile.generate(), "x")


def test_a_chunk_opens_by_the_format_page_alone(filled: tuple[Any, Any, bytes]) -> None:
    """Known construction: the standard library's HKDF and AES-GCM open what the engine sealed."""
    import hashlib
    import hmac

    def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
        return hmac.digest(
            hmac.digest(salt, secret, hashlib.sha256), info + b"\x01", hashlib.sha256
        )

    bench, point, data = filled
    salt = bytes.fromhex(bench.repository.id)
    place = bench.repository.open_disk(point, "disk-1")._window(0)[0]
    pack_id = place["pack"].tobytes()
    pack = (Path(bench.url) / "data" / pack_id.hex()[:2] / pack_id.hex()).read_bytes()
    stored = pack[int(place["offset"]) : int(place["offset"]) + int(place["length"])]
    header, payload = stored[:52], stored[52:]
    data_key = hkdf(bench.repository._master_key, salt, b"ahvault/1/data")
    key = hkdf(data_key, pack_id, b"ahvault/1/pack")
    nonce = header[4:8] + bytes(8)
    assert header[16] == 0  # stored raw: this chunk does not compress
    assert AESGCM(key).decrypt(nonce, payload, header) == data[:CHUNK]


def test_a_wrap_opens_by_the_format_page_alone(filled: tuple[Any, Any, bytes]) -> None:
    """Known construction: scrypt and AES-GCM of other makers open the wrap to the master key."""
    import hashlib

    bench, _, _ = filled
    (path,) = files(bench, "keys")
    wrap = json.loads(path.read_bytes())
    kdf = wrap["kdf"]
    key = hashlib.scrypt(
        b"correct horse",
        salt=bytes.fromhex(kdf["salt"]),
        n=kdf["n"],
        r=kdf["r"],
        p=kdf["p"],
        dklen=32,
    )
    bound_to = b"ahvault/1/wrap" + bytes.fromhex(bench.repository.id) + bytes.fromhex(wrap["id"])
    inside = AESGCM(key).decrypt(
        bytes.fromhex(wrap["nonce"]), bytes.fromhex(wrap["wrapped"]), bound_to
    )
    description = (Path(bench.url) / "repo.json").read_bytes()
    assert inside == bench.repository._master_key + blake3(description).digest()
