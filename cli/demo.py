"""Placeholder."""

from __future__ import annotations

EXAMPLES = ""


def demo() -> None:
    """X."""
