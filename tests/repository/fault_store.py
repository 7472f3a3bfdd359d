"""A store around a store that fails on purpose: before an operation, after it, or for good."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from repository import StoreUnavailable
from repository.ports import Pace
from repository.store import ObjectInfo, Store, StoreCapabilities


class Died(StoreUnavailable):
    """The process that used the store is dead: this and every later operation fails."""


class FaultStore:
    """A store around a store that does what it is told to do wrong.

    `plan` is asked before every operation with (operation, key) and may raise; `after` likewise,
    once the operation has been done: an answer lost on its way.
    """

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.plan: Callable[[str, str], None] = lambda _operation, _key: None
        self.after: Callable[[str, str], None] = lambda _operation, _key: None
        self.operations: list[tuple[str, str]] = []
        self._left: int | None = None
        self._dies_after = False
        self._guard = threading.Lock()

    def die_at(self, operation: int, *, after: bool) -> None:
        """From now on: die at the operation of this number, before or after it is done."""
        self._left, self._dies_after = operation, after

    def live_again(self) -> None:
        """A new process: nothing fails any more."""
        self._left = None

    def _is_last(self, operation: str, key: str) -> bool:
        """Whether the process dies right after this operation; raises Died if it is dead."""
        with self._guard:
            if self._left is None:
                return False
            self._left -= 1
            if self._left < 0 or (self._left == 0 and not self._dies_after):
                raise Died(operation, key, "the process is dead")
            return self._left == 0

    @property
    def url(self) -> str:
        return self.inner.url

    @property
    def host(self) -> str | None:
        return self.inner.host

    @property
    def encrypts_transport(self) -> bool:
        return self.inner.encrypts_transport

    @property
    def capabilities(self) -> StoreCapabilities:
        return self.inner.capabilities

    def _run(self, operation: str, key: str, work: Callable[[], Any]) -> Any:
        self.operations.append((operation, key))
        self.plan(operation, key)
        last = self._is_last(operation, key)
        result = work()
        if last:
            raise Died(operation, key, "the process is dead")
        self.after(operation, key)
        return result

    def put_new(self, key: str, *pieces: bytes, pace: Pace | None = None) -> None:
        self._run("put_new", key, lambda: self.inner.put_new(key, *pieces, pace=pace))

    def put(self, key: str, *pieces: bytes) -> None:
        self._run("put", key, lambda: self.inner.put(key, *pieces))

    def get(self, key: str) -> bytes:
        data: bytes = self._run("get", key, lambda: self.inner.get(key))
        return data

    def get_range(self, key: str, offset_bytes: int, length_bytes: int) -> bytes:
        work = partial(self.inner.get_range, key, offset_bytes, length_bytes)
        data: bytes = self._run("get_range", key, work)
        return data

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return iter(self._run("list", prefix, lambda: list(self.inner.list(prefix))))

    def delete(self, key: str) -> None:
        self._run("delete", key, lambda: self.inner.delete(key))

    def stat(self, key: str) -> ObjectInfo | None:
        info: ObjectInfo | None = self._run("stat", key, lambda: self.inner.stat(key))
        return info

    def close(self) -> None:
        self.inner.close()
