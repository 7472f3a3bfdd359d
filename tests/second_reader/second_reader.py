"""A reader of ahvault repositories that shares no line with ahvault.

Written from docs/repository-format.md alone, on the standard library, pyarrow, zstandard, blake3
and, for encrypted repositories, cryptography. It exists to prove that the page suffices:

    python second_reader.py REPOSITORY                                lists restore points and disks
    python second_reader.py REPOSITORY POINT DISK FILE [PASSPHRASE]   restores one disk to a file
"""

import hashlib
import io
import json
import struct
import sys
import unicodedata
from pathlib import Path

import pyarrow.parquet as pq
import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

WINDOW = 65_536
TAIL = 78  # the digest at the end of a record
CHUNK_HEADER = struct.Struct("<4sIIIBBH32s")
KNOWN_ABILITIES = frozenset()


class Unreadable(Exception):
    """The repository is not what the page says, or the key is not the right one."""


def check(holds, what):
    if not holds:
        raise Unreadable(what)


def hkdf(key, salt, purpose):
    info = b"ahvault/1/" + purpose.encode()
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(key)


def open_record(data, kind, key=None):
    """The members of a record (page: Records); `key` is None for those without key."""
    front = data[:-TAIL]
    digest = (blake3(front, key=key) if key else blake3(front)).hexdigest()
    check(data[-TAIL:] == b',"digest":"' + digest.encode() + b'"}\n', f"digest of a {kind}")
    record = json.loads(data)
    check((record["ahvault"], record["format"]) == (kind, 1), f"{kind} of format 1")
    return record


class SecondReader:
    """One repository in a directory."""

    def __init__(self, root, passphrase=None, key_file=None):
        self.root = Path(root)
        described = (self.root / "repo.json").read_bytes()
        self.about = open_record(described, "repository")
        self.refuse_unknown_features()
        algorithms = {"chunk_id": "blake3-keyed", "compression": "zstd"}
        check(self.about["algorithms"] == algorithms, "algorithms")
        self.id = bytes.fromhex(self.about["repository"])
        self.sealed = self.about["encryption"]["mode"] == "aes-256-gcm"
        if self.sealed:
            master = self.unwrap(described, passphrase, key_file)
        else:
            master = bytes.fromhex(self.about["encryption"]["master_key"])
        purposes = ("chunk-id", "record", "meta", "data")
        self.chunk_id_key, self.record_key, self.meta_key, self.data_key = (
            hkdf(master, self.id, purpose) for purpose in purposes
        )
        self.moved = None

    def refuse_unknown_features(self):
        needed = set(self.about["features"]["read"])
        for path in self.root.glob("features/*.json"):
            feature = open_record(path.read_bytes(), "feature")
            if "read" in feature["operations"]:
                needed.add(feature["name"])
        check(needed <= KNOWN_ABILITIES, f"abilities to read: {sorted(needed)}")

    def unwrap(self, described, passphrase, key_file):
        """The master key out of any wrap that the secret opens (page: Keys)."""
        for path in sorted(self.root.glob("keys/*.json")):
            wrap = open_record(path.read_bytes(), "key")
            kdf = wrap["kdf"]
            salt = bytes.fromhex(kdf["salt"])
            if kdf["name"] == "scrypt" and passphrase is not None:
                secret = unicodedata.normalize("NFC", passphrase).encode()
                cost = {"n": kdf["n"], "r": kdf["r"], "p": kdf["p"], "dklen": 32}
                key = hashlib.scrypt(secret, salt=salt, maxmem=2**30, **cost)
            elif kdf["name"] == "hkdf-sha256" and key_file is not None:
                key = hkdf(key_file, salt, "key-file")
            else:
                continue
            names = b"ahvault/1/wrap" + self.id + bytes.fromhex(wrap["id"])
            nonce, wrapped = bytes.fromhex(wrap["nonce"]), bytes.fromhex(wrap["wrapped"])
            try:
                inside = AESGCM(key).decrypt(nonce, wrapped, names)
            except InvalidTag:
                continue
            check(inside[32:] == blake3(described).digest(), "repo.json that was not exchanged")
            return inside[:32]
        raise Unreadable("no key wrap opens with this secret")

    def open_object(self, name, stored):
        """A whole object as it was before sealing (page: Sealing)."""
        if not self.sealed:
            return stored
        check(stored[:8] == b"AHVSEAL1", f"seal of {name}")
        cipher = AESGCM(hkdf(self.meta_key, stored[8:24], "object"))
        return cipher.decrypt(bytes(12), stored[24:], name.encode())

    def record(self, name, kind):
        """The body of a record that is keyed."""
        plain = self.open_object(name, (self.root / name).read_bytes())
        record = open_record(plain, kind, self.record_key)
        check(record["repository"] == self.about["repository"], f"repository of {name}")
        return record["body"]

    def table(self, reference, kind):
        """A Parquet object that something refers to by its digest."""
        stored = (self.root / reference["key"]).read_bytes()
        check(len(stored) == reference["size_bytes"], f"size of {reference['key']}")
        check(hashlib.sha256(stored).hexdigest() == reference["sha256"], reference["key"])
        return self.opened_table(reference["key"], stored, kind)

    def opened_table(self, name, stored, kind):
        file = pq.ParquetFile(io.BytesIO(self.open_object(name, stored)))
        document = json.loads(file.metadata.metadata[b"ahvault"])
        check((document["format"], document["kind"]) == (1, kind), f"{kind} of format 1")
        return file, document

    def points(self):
        """The commit records, oldest first within each VM, forgotten ones left out."""
        found = []
        for path in sorted(self.root.glob("points/*/*.json")):
            if path.name.startswith(".") or self.is_forgotten(path):
                continue
            name = path.relative_to(self.root).as_posix()
            body = self.record(name, "point")
            check(path.stem.rpartition("-")[2] == body["id"], f"id of {name}")
            found.append(body)
        return found

    def is_forgotten(self, path):
        """The mark with the highest number holds; of equals `restored` wins."""
        folder = self.root / "tomb" / path.parent.name / path.stem.rpartition("-")[2]
        marks = [mark.name.split("-")[:2] for mark in folder.glob("[0-9]*.json")]
        ranked = [(int(number), state == "restored", state) for number, state in marks]
        return bool(ranked) and max(ranked)[2] in ("forgotten", "lost")

    def gone(self):
        """Packs that collection has deleted, or has decided to (page: Reading a disk)."""
        plans = sorted(self.root.glob("gc/*/plan.json"))
        if not plans:
            return set()
        folder = f"gc/{plans[-1].parent.name}"
        lists = [self.record(f"{folder}/plan.json", "gc-plan")["gone"]]
        if (self.root / folder / "outcome.json").exists():
            lists.append(self.record(f"{folder}/outcome.json", "gc-outcome")["swept"])
        names = []
        for reference in filter(None, lists):
            table, _ = self.table(reference, "list")
            names += table.read(use_threads=False)["name"].to_pylist()
        return {bytes.fromhex(name[8:]) for name in names if name.startswith("data/")}

    def move(self, place):
        """Where a chunk lies now: the segments say it for packs that are gone or bad."""
        if self.moved is None:
            bad = {path.stem for path in self.root.glob("quarantine/*.json")}
            self.avoided = self.gone() | {bytes.fromhex(name) for name in bad if len(name) == 32}
            self.moved = {}
            for path in self.root.glob("index/*.parquet") if self.avoided else ():
                segment, _, digest = path.stem.partition("-")
                if segment not in bad:
                    stored = path.read_bytes()
                    check(hashlib.sha256(stored).hexdigest() == digest, path.name)
                    table, _ = self.opened_table(f"index/{segment}-.parquet", stored, "segment")
                    for row in table.read(use_threads=False).to_pylist():
                        if row["pack"] not in self.avoided:
                            found = (row["id"], row["pack"], row["offset"], row["length"])
                            self.moved[row["id"]] = found
        return self.moved.get(place[0], place) if place[1] in self.avoided else place

    def windows(self, disk):
        """Per window a list of (id, pack, offset, length), proven against digests and root."""
        layers = [self.table(reference, "map") for reference in disk["maps"]]
        chunks = -(-disk["size_bytes"] // disk["chunk_size_bytes"])
        digests = [bytes.fromhex(digest) for digest in layers[-1][1]["windows"]]
        check(len(digests) == -(-chunks // WINDOW), "number of windows")
        sizes = struct.pack("<QI", disk["size_bytes"], disk["chunk_size_bytes"])
        root = blake3(b"ahvault disk 1\0\0" + sizes + b"".join(digests)).hexdigest()
        check(root == disk["root"], f"root hash of disk {disk['disk_id']}")
        for number, digest in enumerate(digests):
            start = number * WINDOW
            rows = [None] * min(WINDOW, chunks - start)
            for table, _ in layers:
                self.overlay(table, start, rows)
            check(None not in rows, f"a layer for every chunk of window {number}")
            check(blake3(b"".join(row[0] for row in rows)).digest() == digest, f"window {number}")
            yield [self.move(row) for row in rows]

    def overlay(self, table, start, rows):
        """Put a layer's rows of one window over those below; a row group is one window."""
        # Without threads: one of Arrow's may still hold our bytes when the interpreter ends, and aborts.
        for group in range(table.metadata.num_row_groups):
            least = table.metadata.row_group(group).column(0).statistics.min
            if not start <= least < start + WINDOW:
                continue
            for row in table.read_row_group(group, use_threads=False).to_pylist():
                place = (row["id"], row["pack"], row["offset"], row["length"])
                for chunk in range(row["first"] - start, row["first"] - start + row["count"]):
                    if chunk < len(rows):
                        rows[chunk] = place

    def chunk(self, place, plain_bytes):
        """The plain bytes of one chunk, proven against its id (page: Packs)."""
        chunk_id, pack, offset, length = place
        if length == 0:
            return bytes(plain_bytes)
        name = pack.hex()
        with (self.root / "data" / name[:2] / name).open("rb") as file:
            file.seek(offset)
            stored = file.read(length)
        header, payload = stored[: CHUNK_HEADER.size], stored[CHUNK_HEADER.size :]
        magic, ordinal, plain, payload_bytes, codec, seal, _, found = CHUNK_HEADER.unpack(header)
        check((magic, found, payload_bytes) == (b"AHVC", chunk_id, len(payload)), "chunk header")
        check(seal == int(self.sealed), f"seal {seal}")
        if seal:
            cipher = AESGCM(hkdf(self.data_key, pack, "pack"))
            payload = cipher.decrypt(ordinal.to_bytes(12, "little"), payload, header)
        check(codec in (0, 1), f"codec {codec}")
        if codec == 1:
            payload = zstandard.ZstdDecompressor().decompress(payload, max_output_size=plain)
        check(len(payload) == plain == plain_bytes, "length of a chunk")
        check(blake3(payload, key=self.chunk_id_key).digest() == chunk_id, "id of a chunk")
        return payload

    def restore(self, disk, sink):
        """Write all bytes of a disk, as its commit record describes it, to a binary file."""
        left = disk["size_bytes"]
        for rows in self.windows(disk):
            for place in rows:
                plain_bytes = min(disk["chunk_size_bytes"], left)
                sink.write(self.chunk(place, plain_bytes))
                left -= plain_bytes


def main(arguments):
    root, *rest = arguments
    reader = SecondReader(root, passphrase=rest[3] if len(rest) > 3 else None)
    for point in reader.points():
        for disk in point["disks"]:
            if not rest:
                print(point["id"], point["created_at"], point["vm_name"], disk["disk_id"])
            elif rest[:2] == [point["id"], disk["disk_id"]]:
                with Path(rest[2]).open("xb") as sink:
                    reader.restore(disk, sink)


if __name__ == "__main__":
    main(sys.argv[1:])
