"""Work in several threads, in order, bounded, and over as soon as one of them fails."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def run_in_order(
    pool: ThreadPoolExecutor,
    work: Callable[[ItemT], ResultT],
    items: Iterable[ItemT],
    in_flight_max: int,
) -> Generator[tuple[ItemT, ResultT]]:
    """Each item with its result, in order, while later ones are already being worked on.

    Raises what the work raises. Closing the generator early, as any error does, cancels what was
    not begun and waits for what was; use it in `contextlib.closing`.
    """
    in_flight: deque[tuple[ItemT, Future[ResultT]]] = deque()
    try:
        for item in items:
            in_flight.append((item, pool.submit(work, item)))
            if len(in_flight) >= in_flight_max:
                first, future = in_flight.popleft()
                yield first, future.result()
        while in_flight:
            first, future = in_flight.popleft()
            yield first, future.result()
    finally:
        settle([future for _, future in in_flight])


def settle(futures: Iterable[Future[ResultT]]) -> None:
    """Cancel what was not begun and wait for the rest, whatever becomes of it."""
    left = [future for future in futures if not future.cancel()]
    for future in left:
        future.exception()
