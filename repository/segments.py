"""Index segments: which chunks lie where, for the packs of one flush.

A segment is needed to deduplicate and to collect, never to restore, and can be made again from the
packs. Rows stand in the order of the packs. The description carries each pack's size, so that
presence is checked from listings.
"""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from repository.errors import DamagedObject
from repository.keys import RepositoryKeys
from repository.layout import digest_in_name, segment_key
from repository.packs import StoredPack
from repository.places import ID_BYTES, PACK_ID_BYTES, PLACE, Places, fixed_binary, void_column
from repository.ports import Buffer
from repository.sealing import Sealer
from repository.tables import describe, open_table, open_writer

_SCHEMA = pa.schema(
    [
        pa.field("id", pa.binary(ID_BYTES), nullable=False),
        pa.field("pack", pa.binary(PACK_ID_BYTES), nullable=False),
        pa.field("offset", pa.uint32(), nullable=False),
        pa.field("length", pa.uint32(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment as read."""

    places: Places
    pack_sizes_bytes: dict[bytes, int]
    session: str
    """The session that stored the packs, or the collection that merged or rewrote the segment."""


def encode_segment(
    packs: Sequence[StoredPack], session_id: str, keys: RepositoryKeys, sealer: Sealer
) -> tuple[str, Buffer]:
    """Name and stored bytes of a segment over these packs."""
    segment_id = uuid.uuid4()
    places = np.concatenate([pack.places for pack in packs])
    plain = _table_bytes(
        places,
        {
            "kind": "segment",
            "repository": keys.repository_id.hex,
            "session": session_id,
            "packs": [[pack.pack_id.hex(), pack.size_bytes] for pack in packs],
        },
    )
    # The name carries the digest of the stored bytes, so sealing cannot bind the name whole.
    stored = sealer.close_object(segment_key(segment_id, ""), plain)
    return segment_key(segment_id, hashlib.sha256(stored).hexdigest()), stored


def decode_segment(key: str, stored: bytes, keys: RepositoryKeys, sealer: Sealer) -> Segment:
    """Read a segment; raises DamagedObject or UnsupportedFormat."""
    digest = hashlib.sha256(stored).hexdigest()
    if digest != digest_in_name(key):
        raise DamagedObject(key, "its bytes do not match the digest in its name")
    plain = sealer.open_object(key.replace(digest, ""), stored)
    table, description = open_table(key, "segment", pa.BufferReader(plain), _SCHEMA)
    try:
        if description["repository"] != keys.repository_id.hex:
            raise DamagedObject(key, "it belongs to another repository")
        sizes = {bytes.fromhex(pack_id): int(size) for pack_id, size in description["packs"]}
        return Segment(_places(table.read(use_threads=False)), sizes, str(description["session"]))
    except (pa.ArrowException, ValueError, KeyError, TypeError, OSError) as error:
        raise DamagedObject(key, f"it does not read as a segment ({error})") from error


def _table_bytes(places: Places, description: dict[str, object]) -> bytes:
    sink = io.BytesIO()
    columns = [
        fixed_binary(places["id"]),
        fixed_binary(places["pack"]),
        pa.array(places["offset"]),
        pa.array(places["length"]),
    ]
    with open_writer(sink, _SCHEMA, searched=[]) as writer:
        writer.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA))
        describe(writer, description)
    return sink.getvalue()


def _places(table: pa.Table) -> Places:
    places = np.empty(table.num_rows, dtype=PLACE)
    places["id"] = void_column(table["id"], ID_BYTES)
    places["pack"] = void_column(table["pack"], PACK_ID_BYTES)
    places["offset"] = table["offset"].to_numpy()
    places["length"] = table["length"].to_numpy()
    return places
