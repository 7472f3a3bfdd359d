"""Placeholder."""

from __future__ import annotations

EXAMPLES = ""


def restore() -> None:
    """X."""
