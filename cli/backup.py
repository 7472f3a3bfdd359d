"""Placeholder."""

from __future__ import annotations

EXAMPLES = ""


def backup() -> None:
    """X."""
