"""Sending an object in parts, each only when it may go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from repository.ports import Buffer, Pace
from repository.units import KiB

PART_BYTES = 256 * KiB
"""Small beside a second of any limit worth setting, large beside the cost of asking."""


def paced(pieces: Sequence[Buffer], pace: Pace) -> Iterator[list[memoryview]]:
    """The bytes of the pieces, in order, in parts that `pace` has let go.

    A part has up to `PART_BYTES`, in as many views as pieces it touches; nothing is copied.
    """
    part: list[memoryview] = []
    length = 0
    for piece in pieces:
        view = memoryview(piece).cast("B")
        while len(view):
            taken = view[: PART_BYTES - length]
            part.append(taken)
            length += len(taken)
            view = view[len(taken) :]
            if length == PART_BYTES:
                pace(length)
                yield part
                part, length = [], 0
    if part:
        pace(length)
        yield part
