"""systemd's unit files as systemd reads them, as far as ours go: what would be run, and in which environment."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Unit:
    """A unit file: its assignments in their order, by section and name."""

    assignments: tuple[tuple[str, str, str], ...]

    @classmethod
    def parse(cls, text: str) -> Unit:
        """Read one; AssertionError names a line that is no part of a unit file."""
        section, found = "", []
        for line in re.sub(r"\\\n\s*", " ", text).splitlines():
            if not line.strip() or line.startswith(("#", ";")):
                continue
            if heading := re.fullmatch(r"\[(\w+)\]", line):
                section = heading.group(1)
                continue
            assert section, line
            name, sign, value = line.partition("=")
            assert sign and re.fullmatch(r"\w+", name), line  # noqa: PT018 - one statement about a line
            found.append((section, name, value.strip()))
        return cls(tuple(found))

    def all(self, name: str) -> list[str]:
        """Every value of a name."""
        return [value for _, each, value in self.assignments if each == name]

    def one(self, name: str) -> str:
        """The only value of a name."""
        (value,) = self.all(name)
        return value

    def environment(self, root: Path = Path("/")) -> dict[str, str]:
        """What the service's process finds set by the unit; its files are looked for below `root`."""
        words = [word for value in self.all("Environment") for word in shlex.split(value)]
        found = dict(word.split("=", 1) for word in words)
        for path in self.all("EnvironmentFile"):
            found |= read_environment((root / path.lstrip("/")).read_text())
        return found

    def command(self, environment: Mapping[str, str]) -> list[str]:
        """The words of `ExecStart`, `${NAME}` replaced; AssertionError for a name that is not set."""
        words = shlex.split(self.one("ExecStart"))
        names = {name for word in words for name in re.findall(r"\$\{?(\w+)", word)}
        assert names <= set(environment), names
        return [
            re.sub(r"\$\{(\w+)\}", lambda name: environment[name.group(1)], word) for word in words
        ]


def read_environment(text: str) -> dict[str, str]:
    """An `EnvironmentFile`: a value may stand in quotes, and a backslash outside of '...' keeps what follows it."""
    return dict(_assigned(line) for line in text.splitlines() if line and line[0] not in "#;")


def _assigned(line: str) -> tuple[str, str]:
    name, sign, value = line.partition("=")
    assert sign, line
    value = value.strip()
    quote = value[:1]
    if quote == "'":
        return name, value[1 : value.index("'", 1)]
    if quote == '"':
        inner = re.match(r'"((?:[^"\\]|\\.)*)"', value)
        assert inner, line
        return name, re.sub(r'\\(["\\`$])', r"\1", inner.group(1))
    return name, re.sub(r"\\(.)", r"\1", value)
