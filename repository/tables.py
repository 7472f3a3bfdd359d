"""Parquet objects of ours: how segments and maps are written to bytes and opened again.

Each carries, as key-value metadata named `ahvault`, a JSON document that says what it is. The
Parquet settings are pinned here: no dictionary on ids, which never repeat; delta coding where values
grow; statistics on the one column that readers search by.

Tables are read with `use_threads=False`. A thread of Arrow's pool may still hold the bytes it read when
the interpreter ends, and then ends the whole process with SIGABRT after its work was done. A table is
small, and whoever reads many reads them in threads of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from repository.errors import DamagedObject, UnsupportedFormat

FORMAT = 1
_METADATA_KEY = b"ahvault"


def open_writer(sink: BinaryIO, schema: pa.Schema, searched: list[str]) -> pq.ParquetWriter:
    """A writer with the pinned settings."""
    delta = {
        field.name: "DELTA_BINARY_PACKED" for field in schema if pa.types.is_integer(field.type)
    }
    return pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=["pack"],
        column_encoding={**delta, "id": "PLAIN"},
        write_statistics=searched,
        store_schema=False,
    )


def describe(writer: pq.ParquetWriter, description: Mapping[str, Any]) -> None:
    """Attach the document that says what the table is; before the writer is closed."""
    text = json.dumps({"format": FORMAT, **description}, separators=(",", ":"))
    writer.add_key_value_metadata({_METADATA_KEY: text.encode()})


def open_table(key: str, kind: str, source: Any, schema: pa.Schema) -> tuple[pq.ParquetFile, Any]:
    """The opened file and its description; raises DamagedObject or UnsupportedFormat."""
    try:
        table = pq.ParquetFile(source)
        description = json.loads((table.metadata.metadata or {})[_METADATA_KEY])
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise DamagedObject(key, f"it is no {kind} ({error})") from error
    if description.get("format") != FORMAT:
        raise UnsupportedFormat(key, f"{kind} format {description.get('format')}")
    if description.get("kind") != kind or table.schema_arrow.remove_metadata() != schema:
        raise DamagedObject(key, f"it is no {kind}")
    return table, description
