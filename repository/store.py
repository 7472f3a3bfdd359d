"""The store: what the engine asks of the place that holds its objects.

A store must give: whole-object writes that appear all at once or not at all, durable when the call
returns; reads that see every write that has returned; ranged reads; listing by prefix. Exclusive
creation is asked for but only relied on where `create_exclusive` says that it holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from repository.ports import Buffer, Pace


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """A stored object as listed."""

    key: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class StoreCapabilities:
    """What a store can be relied on for, beyond the minimum."""

    create_exclusive: bool | None
    """`put_new` refuses, atomically, to replace an object; None if that depends on the server.

    `creates_exclusively` in repository/stores/probing.py then finds out.
    """
    high_latency: bool
    """A request costs milliseconds: use many at once and merge generously."""


@dataclass(frozen=True, slots=True)
class StoreSpace:
    """How full the place behind a store is, as far as its writer is concerned."""

    total_bytes: int
    free_bytes: int

    @property
    def free_percent(self) -> float:
        """Free space in percent of the whole."""
        return 100 * self.free_bytes / self.total_bytes


@runtime_checkable
class KnowsSpace(Protocol):
    """A store that can say how full it is; most cannot."""

    def space(self) -> StoreSpace:
        """The space as of now; raises the StoreError family."""
        ...


class Store(Protocol):
    """A place for objects. All calls are thread-safe; all raise the StoreError family only."""

    @property
    def url(self) -> str:
        """Where it is; holds no secret."""
        ...

    @property
    def host(self) -> str | None:
        """Name or address of the machine that serves it; None if that is not known, or this one."""
        ...

    @property
    def encrypts_transport(self) -> bool:
        """Whether what goes to and from it is encrypted on its way; False if that is not known."""
        ...

    @property
    def capabilities(self) -> StoreCapabilities: ...

    def put_new(self, key: str, *pieces: Buffer, pace: Pace | None = None) -> None:
        """Create the object from the concatenated pieces; durable on return.

        Raises ObjectExists if there is one already. An error other than that leaves it unknown
        whether the object exists; a reader never sees part of it. `pace` is asked before bytes are
        sent: part by part where the store takes an object in parts, else once for all of it, so
        that what moves keeps to the limit from part to part or only from object to object. What it
        raises ends the call.
        """
        ...

    def put(self, key: str, *pieces: Buffer) -> None:
        """Create or replace the object; durable on return. Only for names under `live/`."""
        ...

    def get(self, key: str) -> bytes:
        """The whole object; raises ObjectNotFound."""
        ...

    def get_range(self, key: str, offset_bytes: int, length_bytes: int) -> bytes:
        """Exactly this range; raises DamagedObject if the object is too short for it."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose names start with the prefix (which ends in a slash, or is empty)."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object; silently done if there is none, so that it can be repeated."""
        ...

    def stat(self, key: str) -> ObjectInfo | None:
        """The object as it would be listed, or None."""
        ...

    def close(self) -> None:
        """Let go of connections; the store is not used after."""
        ...
