"""A scheduler that lets several hosts use one store in an order that a seed decides.

Every store operation waits for its host's turn. Turns are short or long by chance, so that one
host may do a whole piece of work between two operations of another: what a sleeping writer sees.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from repository.store import Store
from tests.repository.fault_store import FaultStore

_HUNG_S = 60.0
_TURNS = (1, 1, 2, 5, 40, 400)


class TurnStore(FaultStore):
    """The store as one host sees it."""

    def __init__(self, inner: Store, host: str, turns: TakingTurns) -> None:
        super().__init__(inner)
        self._host = host
        self._turns = turns

    def _run(self, operation: str, key: str, work: Callable[[], Any]) -> Any:
        with self._turns.turn(self._host):
            return super()._run(operation, key, work)


class TakingTurns:
    """Runs the work of several hosts at once, one store operation at a time."""

    def __init__(self, seed: int) -> None:
        self._chooser = random.Random(seed)
        self._changed = threading.Condition()
        self._whose = ""
        self._left = 0
        self._busy = False
        self._working: set[str] = set()

    @contextmanager
    def turn(self, host: str) -> Iterator[None]:
        """Wait until it is the host's turn, and hold it."""
        with self._changed:
            mine = self._changed.wait_for(
                lambda: self._whose == host and self._left > 0 and not self._busy, _HUNG_S
            )
            assert mine, f"{host} never got its turn"
            self._busy = True
        try:
            yield
        finally:
            with self._changed:
                self._busy = False
                self._left -= 1
                self._changed.notify_all()

    def run(self, work: Mapping[str, Callable[[], None]]) -> None:
        """Do all of it; raises the first error that any of it raised."""
        errors: list[BaseException] = []
        self._working = set(work)
        threads = [
            threading.Thread(target=self._host, args=(host, each, errors))
            for host, each in work.items()
        ]
        for thread in threads:
            thread.start()
        self._give_turns()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    def _host(self, host: str, work: Callable[[], None], errors: list[BaseException]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - told to the test by run()
            errors.append(error)
        finally:
            with self._changed:
                self._working.discard(host)
                self._changed.notify_all()

    def _give_turns(self) -> None:
        while True:
            with self._changed:
                if not self._working:
                    return
                host = self._chooser.choice(sorted(self._working))
                self._whose, self._left = host, self._chooser.choice(_TURNS)
                self._changed.notify_all()
                over = self._changed.wait_for(
                    lambda host=host: (
                        not self._busy and (self._left <= 0 or host not in self._working)
                    ),
                    _HUNG_S,
                )
                assert over, f"{host} hangs"
