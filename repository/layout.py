"""Names of stored objects. Pure; docs/repository-format.md, Objects, says what each holds."""

from __future__ import annotations

import datetime as dt
import uuid
from urllib.parse import quote

REPOSITORY_FILE = "repo.json"
PACKS = "data/"
SEGMENTS = "index/"
MAPS = "maps/"
POINTS = "points/"
REPORTS = "reports/"
LIVE = "live/"
GENERATIONS = "gc/"
TOMBS = "tomb/"
HOLDS = "holds/"
QUARANTINE = "quarantine/"
LEDGER = "ledger/"
FEATURES = "features/"
KEYS = "keys/"


def safe_name(text: str) -> str:
    """The text as one path part: unreserved characters stay, all others become %XX."""
    name = quote(text, safe="")
    return "%2E" + name[1:] if name.startswith(".") else name


def stamp(moment: dt.datetime) -> str:
    """The moment as it stands in object names: sortable, UTC, whole seconds."""
    return moment.astimezone(dt.UTC).strftime("%Y%m%dT%H%M%SZ")


def pack_key(pack_id: bytes) -> str:
    """Name of a pack; its 16-byte id is random, so 256 folders share the packs evenly."""
    name = pack_id.hex()
    return f"{PACKS}{name[:2]}/{name}"


def pack_id_in(key: str) -> bytes | None:
    """The id in a pack's name; None for a name that is no pack's."""
    try:
        pack_id = bytes.fromhex(key.rpartition("/")[2])
    except ValueError:
        return None
    return pack_id if pack_key(pack_id) == key else None


def segment_key(segment_id: uuid.UUID, sha256: str) -> str:
    """Name of an index segment; it carries the digest, as nothing else refers to it."""
    return f"{SEGMENTS}{segment_id.hex}-{sha256}.parquet"


def ledger_key(ledger_id: uuid.UUID, sha256: str) -> str:
    """Name of one object of the verify ledger; it carries the digest, as a segment's does."""
    return f"{LEDGER}{ledger_id.hex}-{sha256}.parquet"


def digest_in_name(key: str) -> str:
    """The digest in the name of a segment or a ledger object; empty if it is not one of ours."""
    return key.removesuffix(".parquet").partition("-")[2]


def map_key(disk_id: str, map_id: uuid.UUID) -> str:
    """Name of one layer of a disk map."""
    return f"{MAPS}{safe_name(disk_id)}/{map_id.hex}.parquet"


def points_prefix(vm_id: str | None) -> str:
    """Where the commit records of one VM, or of all, are listed."""
    return POINTS if vm_id is None else f"{POINTS}{safe_name(vm_id)}/"


def point_key(vm_id: str, created_at: dt.datetime, point_id: str) -> str:
    """Name of a commit record; sorts by the moment of the data within its VM."""
    return f"{points_prefix(vm_id)}{stamp(created_at)}-{point_id}.json"


def point_id_of(key: str) -> str:
    """The restore point's id in the name of its commit record."""
    return key.rpartition("-")[2].removesuffix(".json")


def report_key(session_id: str, moment: dt.datetime, report_id: str) -> str:
    """Name of a session report; reports sort by time."""
    return f"{REPORTS}{stamp(moment)}-{safe_name(session_id)}-{report_id}.json"


def live_key(kind: str, key: str) -> str:
    """Name of a mutable record."""
    return f"{LIVE}{safe_name(kind)}/{safe_name(key)}.json"


def wrap_key(wrap_id: uuid.UUID) -> str:
    """Name of one wrapped copy of the master key."""
    return f"{KEYS}{wrap_id.hex}.json"


def mark_key(family: str, vm_id: str, point_id: str, number: int, state: str, mark_id: str) -> str:
    """Name of a mark on a restore point; `family` is TOMBS or HOLDS. The name says it all."""
    return f"{family}{safe_name(vm_id)}/{point_id}/{number:06d}-{state}-{mark_id}.json"


def generation_key(number: int, name: str) -> str:
    """Name of an object of one generation of collection."""
    return f"{GENERATIONS}{number:010d}/{name}"


def quarantine_key(object_id: str) -> str:
    """Name of the record that puts a pack or a segment, by its UUID, under quarantine."""
    return f"{QUARANTINE}{object_id}.json"
