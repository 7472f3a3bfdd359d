"""Limits as people write them: `100 Mbit/s` for a network, `50 MiB/s` for a repository. Pure.

Networks are sold and measured in decimal bits, disks in bytes; the two differ by eight and more, so
a limit says its unit and none is guessed (Q12).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Self

from jobs.written import Written

Unit = Literal["bits", "bytes"]

LIMIT_BYTES_S_MIN = 8000.0
"""64 kbit/s. Below it a pack would be under way for days."""
LIMIT_BYTES_S_MAX = 125e9
"""1 Tbit/s."""

_UNITS: dict[str, tuple[Unit, float]] = {
    "bit": ("bits", 1 / 8),
    "kbit": ("bits", 1e3 / 8),
    "mbit": ("bits", 1e6 / 8),
    "gbit": ("bits", 1e9 / 8),
    "b": ("bytes", 1.0),
    "kb": ("bytes", 1e3),
    "mb": ("bytes", 1e6),
    "gb": ("bytes", 1e9),
    "kib": ("bytes", 2.0**10),
    "mib": ("bytes", 2.0**20),
    "gib": ("bytes", 2.0**30),
}
_WRITTEN = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*/\s*s\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Limit(Written):
    """Bytes per second, and how they were written."""

    text: str
    bytes_s: float
    unit: Unit

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `100 Mbit/s`, `50 MiB/s` and the like; ValueError says what is wrong."""
        match = _WRITTEN.fullmatch(text)
        known = _UNITS.get(match[2].lower()) if match else None
        if match is None or known is None:
            raise ValueError(f"write a limit as 100 Mbit/s or 50 MiB/s; got {text!r}")
        unit, factor = known
        bytes_s = float(match[1]) * factor
        if not LIMIT_BYTES_S_MIN <= bytes_s <= LIMIT_BYTES_S_MAX:
            raise ValueError(f"a limit lies between 64 kbit/s and 1000 Gbit/s; got {text!r}")
        return cls(f"{match[1]} {match[2]}/s", bytes_s, unit)

    @classmethod
    def of_mbit(cls, mbit_s: float) -> Self:
        """From a number of Mbit/s, as a form has it; what lies below the least limit is that."""
        bytes_s = min(max(mbit_s * 1e6 / 8, LIMIT_BYTES_S_MIN), LIMIT_BYTES_S_MAX)
        return cls(f"{bytes_s * 8 / 1e6:g} Mbit/s", bytes_s, "bits")

    def __str__(self) -> str:
        return self.text
