"""Key wraps: the master key of an encrypted repository, once per passphrase or key file.

A wrap is a record that is read before there is a key. What it wraps is the master key and the
digest of `repo.json`, so that a repository whose description was exchanged does not open. A wrong
passphrase is told apart from damage: damage shows in the record's own digest first.
"""

from __future__ import annotations

import datetime as dt
import secrets
import unicodedata
import uuid
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from repository.errors import DamagedObject, InvalidInput, KeyProblem
from repository.keys import KEY_BYTES, derive_key
from repository.layout import KEYS, REPOSITORY_FILE, wrap_key
from repository.records import decode_open_record, encode_open_record
from repository.store import Store
from repository.units import Clock

_KIND = "key"
_SALT_BYTES = 16
_NONCE_BYTES = 12
_KEY_FILE_BYTES_MIN = 32
# What a wrap may ask of this machine at most: 4 GiB of memory at r = 8.
_SCRYPT_N_MAX = 2**22


@dataclass(frozen=True, slots=True)
class Passphrase:
    """Something a person remembers; the repr does not show it."""

    text: str = field(repr=False)
    scrypt_n: int = 2**17
    """Cost of wraps made with it: 128 MiB of memory and about half a second per try."""

    def __post_init__(self) -> None:
        if not self.text:
            raise InvalidInput("passphrase", "is empty")

    def new_kdf(self) -> dict[str, Any]:
        """The parameters of a new wrap."""
        salt = secrets.token_hex(_SALT_BYTES)
        return {"name": "scrypt", "n": self.scrypt_n, "r": 8, "p": 1, "salt": salt}

    def derive(self, kdf: dict[str, Any]) -> bytes | None:
        """The wrapping key by these parameters, or None if they are for another kind of secret."""
        if kdf["name"] != "scrypt":
            return None
        if not 2 <= kdf["n"] <= _SCRYPT_N_MAX:
            raise ValueError(f"scrypt cost {kdf['n']}")
        salt = bytes.fromhex(kdf["salt"])
        scrypt = Scrypt(salt=salt, length=KEY_BYTES, n=kdf["n"], r=kdf["r"], p=kdf["p"])
        return scrypt.derive(unicodedata.normalize("NFC", self.text).encode())


@dataclass(frozen=True, slots=True)
class KeyFile:
    """The bytes of a key file: a recovery key, or a machine's; the repr does not show them."""

    content: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.content) < _KEY_FILE_BYTES_MIN:
            raise InvalidInput("key file", f"has fewer than {_KEY_FILE_BYTES_MIN} bytes")

    @classmethod
    def generate(cls) -> KeyFile:
        """A new key file of 32 random bytes."""
        return cls(secrets.token_bytes(_KEY_FILE_BYTES_MIN))

    def new_kdf(self) -> dict[str, Any]:
        """The parameters of a new wrap."""
        return {"name": "hkdf-sha256", "salt": secrets.token_hex(_SALT_BYTES)}

    def derive(self, kdf: dict[str, Any]) -> bytes | None:
        """The wrapping key by these parameters, or None if they are for another kind of secret."""
        if kdf["name"] != "hkdf-sha256":
            return None
        return derive_key(self.content, bytes.fromhex(kdf["salt"]), "key-file")


Secret = Passphrase | KeyFile
"""What opens an encrypted repository."""


@dataclass(frozen=True, slots=True)
class KeyWrap:
    """One way to open the repository, as it is listed."""

    id: str
    label: str
    created_at: dt.datetime
    opened_by: str
    """`passphrase` or `key file`."""


class KeyRing:
    """The wraps of one encrypted repository."""

    def __init__(self, store: Store, repository_id: uuid.UUID, repository_file: bytes) -> None:
        self._store = store
        self._repository_id = repository_id
        self._description_digest = blake3(repository_file).digest()

    def unlock(self, secret: Secret | None) -> bytes:
        """The master key.

        Raises KeyProblem if the secret is missing or opens no wrap, DamagedObject if there is no
        sound wrap left, or if `repo.json` is not the one that the key was wrapped with.
        """
        if secret is None:
            raise KeyProblem(self._store.url, "give its passphrase or key file")
        damaged: DamagedObject | None = None
        sound = 0
        for info in self._store.list(KEYS):
            try:
                unwrapped = self._unwrapped(info.key, secret)
            except DamagedObject as error:
                damaged = error
                continue
            sound += 1
            if unwrapped is not None:
                return self._checked(unwrapped)
        if not sound:
            raise damaged or DamagedObject(KEYS, "an encrypted repository without any key wrap")
        hint = f" (and {damaged.key} is damaged)" if damaged else ""
        raise KeyProblem(
            self._store.url, f"the passphrase or key file given does not open it{hint}"
        )

    def add(self, master_key: bytes, secret: Secret, label: str, clock: Clock) -> str:
        """Make one more secret open the repository; returns the wrap's id. Durable on return."""
        wrap_id, nonce = uuid.uuid4(), secrets.token_bytes(_NONCE_BYTES)
        kdf = secret.new_kdf()
        key = secret.derive(kdf)
        if key is None:
            raise InvalidInput("secret", "does not fit its own parameters")
        inside = master_key + self._description_digest
        wrapped = AESGCM(key).encrypt(nonce, inside, self._bound_to(wrap_id))
        record = {
            "repository": self._repository_id.hex,
            "id": wrap_id.hex,
            "created_at": clock.now().astimezone(dt.UTC).isoformat(),
            "label": label,
            "kdf": kdf,
            "nonce": nonce.hex(),
            "wrapped": wrapped.hex(),
        }
        self._store.put_new(wrap_key(wrap_id), encode_open_record(_KIND, record))
        return wrap_id.hex

    def wraps(self) -> list[KeyWrap]:
        """All wraps, oldest first; raises DamagedObject for one that cannot be read."""
        found = []
        for info in self._store.list(KEYS):
            record = read_wrap(info.key, self._store.get(info.key))
            if record["repository"] != self._repository_id.hex:
                continue  # left by a creation that lost the race for the place
            opened_by = "passphrase" if record["kdf"]["name"] == "scrypt" else "key file"
            created_at = dt.datetime.fromisoformat(record["created_at"])
            found.append(KeyWrap(record["id"], record["label"], created_at, opened_by))
        return sorted(found, key=lambda wrap: (wrap.created_at, wrap.id))

    def remove(self, wrap_id: str) -> None:
        """Take one wrap away: its secret opens the repository no more.

        Raises InvalidInput for an unknown id and for the last wrap. Who has copied the wrap, or the
        master key, can still open what is stored.
        """
        known = [wrap.id for wrap in self.wraps()]
        if wrap_id not in known:
            raise InvalidInput(f"key {wrap_id}", f"is unknown; there are {', '.join(known)}")
        if len(known) == 1:
            raise InvalidInput(f"key {wrap_id}", "is the only one; add another first")
        self._store.delete(wrap_key(uuid.UUID(wrap_id)))

    def _unwrapped(self, name: str, secret: Secret) -> bytes | None:
        """What is inside the wrap, or None if this secret does not open it."""
        record = read_wrap(name, self._store.get(name))
        try:
            key = secret.derive(record["kdf"])
            if key is None:
                return None
            nonce, wrapped = bytes.fromhex(record["nonce"]), bytes.fromhex(record["wrapped"])
            return AESGCM(key).decrypt(nonce, wrapped, self._bound_to(uuid.UUID(record["id"])))
        except InvalidTag:
            return None
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedObject(name, f"its members cannot be ({error})") from error

    def _checked(self, unwrapped: bytes) -> bytes:
        master_key, digest = unwrapped[:KEY_BYTES], unwrapped[KEY_BYTES:]
        if digest != self._description_digest:
            raise DamagedObject(REPOSITORY_FILE, "it is not the one that this key was made for")
        return master_key

    def _bound_to(self, wrap_id: uuid.UUID) -> bytes:
        return b"ahvault/1/wrap" + self._repository_id.bytes + wrap_id.bytes


def read_wrap(name: str, data: bytes) -> dict[str, Any]:
    """The members of a key wrap; raises DamagedObject or UnsupportedFormat."""
    record = decode_open_record(name, _KIND, data)
    if wrap_key(uuid.UUID(str(record.get("id")))) != name:
        raise DamagedObject(name, "it is another key's wrap")
    return record
