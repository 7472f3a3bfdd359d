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

from repository.errors import DamagedObject, InvalidInput, KeyProblem, ObjectNotFound
from repository.keys import KEY_BYTES, derive_key
from repository.layout import KEYS, REPOSITORY_FILE, wrap_key
from repository.records import decode_open_record, encode_open_record
from repository.store import Store
from repository.units import Clock

_KIND = "key"
_SALT_BYTES = 16
_NONCE_BYTES = 12
_KEY_FILE_BYTES_MIN = 32
# What a wrap may ask of this machine at most, so that a forged one cannot exhaust it.
_SCRYPT_MEMORY_BYTES_MAX = 2**30
_SCRYPT_R_MAX = 32
_SCRYPT_P_MAX = 4
_SALT_HEX_MAX = 128


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
        n, r, p = int(kdf["n"]), int(kdf["r"]), int(kdf["p"])
        if not (1 <= r <= _SCRYPT_R_MAX and 1 <= p <= _SCRYPT_P_MAX and n >= 2):
            raise ValueError(f"scrypt cost n={n}, r={r}, p={p}")
        if 128 * n * r > _SCRYPT_MEMORY_BYTES_MAX:
            raise ValueError(f"scrypt asks for {128 * n * r} bytes of memory")
        scrypt = Scrypt(salt=_salt(kdf), length=KEY_BYTES, n=n, r=r, p=p)
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
        return derive_key(self.content, _salt(kdf), "key-file")


def _salt(kdf: dict[str, Any]) -> bytes:
    text = kdf["salt"]
    if not isinstance(text, str) or len(text) > _SALT_HEX_MAX:
        raise ValueError("its salt cannot be")
    return bytes.fromhex(text)


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
                unwrapped = self._unwrapped(read_wrap(info.key, self._store.get(info.key)), secret)
            except ObjectNotFound:
                continue  # removed since it was listed
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
        for info in list(self._store.list(KEYS)):
            try:
                record = read_wrap(info.key, self._store.get(info.key))
            except ObjectNotFound:
                continue  # removed since it was listed
            if record.get("repository") != self._repository_id.hex:
                continue  # left by a creation that lost the race for the place
            found.append(_described(info.key, record))
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
        name = wrap_key(uuid.UUID(wrap_id))
        stored = self._store.get(name)
        self._store.delete(name)
        if not self.wraps():  # another process took the other one away at the same moment
            self._store.put_new(name, stored)
            raise InvalidInput(f"key {wrap_id}", "has become the only one; add another first")

    def change(self, master_key: bytes, old: Secret, new: Secret, clock: Clock) -> str:
        """Let the new secret open the repository instead of the old one; returns the new wrap's id.

        The new wrap is durable before an old one goes, so a crash in between leaves both. Raises
        KeyProblem if the old secret opens nothing.
        """
        replaced = [wrap for wrap in self.wraps() if self._opens(wrap.id, old)]
        if not replaced:
            raise KeyProblem(self._store.url, "the secret to change does not open it")
        wrap_id = self.add(master_key, new, replaced[0].label, clock)
        for wrap in replaced:
            self.remove(wrap.id)
        return wrap_id

    def _opens(self, wrap_id: str, secret: Secret) -> bool:
        name = wrap_key(uuid.UUID(wrap_id))
        return self._unwrapped(read_wrap(name, self._store.get(name)), secret) is not None

    def _unwrapped(self, record: dict[str, Any], secret: Secret) -> bytes | None:
        """What is inside the wrap, or None if this secret does not open it."""
        name = wrap_key(uuid.UUID(record["id"]))
        try:
            key = secret.derive(record["kdf"])
            if key is None:
                return None
            nonce, wrapped = bytes.fromhex(record["nonce"]), bytes.fromhex(record["wrapped"])
            return AESGCM(key).decrypt(nonce, wrapped, self._bound_to(uuid.UUID(record["id"])))
        except InvalidTag:
            return None
        except (KeyError, TypeError, ValueError, OverflowError, MemoryError) as error:
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
    try:
        is_its_own = wrap_key(uuid.UUID(str(record.get("id")))) == name
    except ValueError:
        is_its_own = False
    if not is_its_own:
        raise DamagedObject(name, "it is another key's wrap")
    return record


def _described(name: str, record: dict[str, Any]) -> KeyWrap:
    try:
        created_at = dt.datetime.fromisoformat(record["created_at"]).astimezone(dt.UTC)
        opened_by = "passphrase" if record["kdf"]["name"] == "scrypt" else "key file"
        return KeyWrap(record["id"], str(record["label"]), created_at, opened_by)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DamagedObject(name, f"its members cannot be ({error})") from error
