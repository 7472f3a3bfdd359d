"""What a transfer did so far: plain numbers that anybody may sample while it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

from pydantic import BaseModel, ConfigDict


class TransferFigures(BaseModel):
    """A frozen sample of the counters of one disk transfer.

    Bytes count plain disk bytes, except `stored_bytes`, which went to the store (or came from it,
    for a restore). Seconds are summed over threads, so they may exceed the wall time: `compute_s` is time
    on a core, `read_s` and `upload_s` time spent waiting for the source and the store.
    `read = zero + known + new` once a backup has ended; zeros claimed unread are not counted.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    read_bytes: int = 0
    zero_bytes: int = 0
    known_bytes: int = 0
    new_bytes: int = 0
    stored_bytes: int = 0
    read_chunks: int = 0
    zero_chunks: int = 0
    known_chunks: int = 0
    new_chunks: int = 0
    requests: int = 0
    read_s: float = 0.0
    compute_s: float = 0.0
    upload_s: float = 0.0
    throttled_s: float = 0.0


@dataclass(slots=True)
class TransferCounters:
    """Counters of one disk transfer; the engine adds from its threads, anybody reads.

    One object per call of `write_disk` or `restore_to`. Meanings are those of `TransferFigures`,
    in a restore: `read_bytes` plain bytes decoded, `new_bytes` plain bytes written to the target,
    `zero_bytes` zeros written or left blank, `upload_s` the time spent writing to the target.
    """

    total_bytes: int = 0
    """Bytes this transfer will read at most; set when its plan is made, 0 before."""
    read_bytes: int = 0
    zero_bytes: int = 0
    known_bytes: int = 0
    new_bytes: int = 0
    stored_bytes: int = 0
    read_chunks: int = 0
    zero_chunks: int = 0
    known_chunks: int = 0
    new_chunks: int = 0
    requests: int = 0
    read_s: float = 0.0
    compute_s: float = 0.0
    upload_s: float = 0.0
    throttled_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, **amounts: float) -> None:
        """Add to several counters at once; thread-safe."""
        with self._lock:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)

    @contextmanager
    def timing(self, name: str, seconds: Callable[[], float] = perf_counter) -> Iterator[None]:
        """Add the seconds that the body takes to the counter of this name."""
        start_s = seconds()
        try:
            yield
        finally:
            self.add(**{name: seconds() - start_s})

    def figures(self) -> TransferFigures:
        """A consistent sample."""
        with self._lock:
            return TransferFigures(
                **{name: getattr(self, name) for name in TransferFigures.model_fields}
            )
