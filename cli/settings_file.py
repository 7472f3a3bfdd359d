"""Editing the settings file in place: what its owner wrote there, comments included, stays as it is."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.config import find_file
from cli.errors import ConfigInvalid

if TYPE_CHECKING:
    from tomlkit import TOMLDocument
    from tomlkit.items import AoT


def require_file(flag: Path | None) -> Path:
    """The settings file in force; raises `ConfigInvalid` when there is none to edit."""
    path = find_file(flag, os.environ)
    if path is None:
        reason = "there is no settings file to edit; make an ahvault.toml with [cluster] and [repository]"
        raise ConfigInvalid("--config", "", reason)
    return path


def add_worker(path: Path, fields: Mapping[str, Any]) -> None:
    """Append a `[[workers]]` table; raises `ConfigInvalid` when a worker of that name is there."""
    document = _read(path)
    tables = _tables(path, document)
    if any(each.get("vm") == fields["vm"] for each in tables):
        raise ConfigInvalid(str(path), "workers", f"worker {fields['vm']} is there already")
    import tomlkit

    table = tomlkit.table()
    table.update(dict(fields))
    tables.append(table)
    if "workers" not in document:
        document["workers"] = tables
    _write(path, document)


def remove_worker(path: Path, name: str) -> bool:
    """Take the `[[workers]]` table of that name out; False when the file has none."""
    document = _read(path)
    tables = _tables(path, document)
    for number, each in enumerate(tables):
        if each.get("vm") == name:
            del tables[number]
            if not tables:
                del document["workers"]
            _write(path, document)
            return True
    return False


def _read(path: Path) -> TOMLDocument:
    import tomlkit
    from tomlkit.exceptions import ParseError

    try:
        return tomlkit.parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ParseError) as error:
        raise ConfigInvalid(str(path), "", f"cannot be read: {error}") from error


def _tables(path: Path, document: TOMLDocument) -> AoT:
    import tomlkit
    from tomlkit.items import AoT

    found = document.get("workers")
    if found is None:
        return tomlkit.aot()
    if not isinstance(found, AoT):
        reason = "is edited by hand where it is no list of [[workers]] tables"
        raise ConfigInvalid(str(path), "workers", reason)
    return found


def _write(path: Path, document: TOMLDocument) -> None:
    """Replace the file at once, with its permissions: nobody ever reads half of it."""
    import tomlkit

    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    new = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(tomlkit.dumps(document))
        new.chmod(path.stat().st_mode & 0o7777)
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        reason = f"cannot be written: {error.strerror or error}"
        raise ConfigInvalid(str(path), "", reason) from error
