"""Throttling: one engine for every transfer between this machine and a repository (Q1-Q12).

Rules lie with the repository (`throttle_book`), say whom they concern (`throttle_rules`), and are
kept to by every transfer under them (`throttle_lane`) through limits that are shared: within the
process here, over processes and machines by whoever implements `SharedLimits`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from jobs.errors import LimitsUnavailable, ThrottleInvalid
from jobs.throttle_book import RuleBook, ThrottleSettings
from jobs.throttle_encryption import require_encryption
from jobs.throttle_lane import Grant, Lane, SharedLimits
from jobs.throttle_place import Ends, StorePlace, host_of_store
from jobs.throttle_rules import (
    Direction,
    LimitInForce,
    Purpose,
    ThrottleRule,
    Traffic,
    limits_in_force,
)
from repository import Clock, Repository, RepositoryError, Stopped, SystemClock

log = logging.getLogger(__name__)

READ_AGAIN_S = 3.0
"""How old rules may be that a running transfer keeps to (Q7)."""
JUDGE_AGAIN_S = 0.5
SLICE_BYTES = 256 * 1024
_ASKING_THREADS = 8


class LocalLimits:
    """Limits that the transfers of this process share."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._guard = threading.Lock()
        self._free_s: dict[str, tuple[float, float]] = {}

    def reserve(self, key: str, bytes_s: float, length_bytes: int) -> Grant:
        """Behind all that is reserved; at once where that was at another rate."""
        with self._guard:
            now_s = self._clock.monotonic_s()
            known_bytes_s, free_s = self._free_s.get(key, (bytes_s, now_s))
            start_s = max(now_s, free_s) if known_bytes_s == bytes_s else now_s
            self._free_s[key] = (bytes_s, start_s + length_bytes / bytes_s)
        return Grant(start_s - now_s, length_bytes, bytes_s)


class ThrottleEngine:
    """The throttle rules of one repository, applied to transfers of this process. Thread-safe."""

    def __init__(
        self,
        *,
        repository_id: str,
        read: Callable[[], ThrottleSettings],
        ends: Callable[[ThrottleSettings], Ends],
        shared: SharedLimits,
        clock: Clock,
        background: Executor,
        extra_rules: tuple[ThrottleRule, ...] = (),
        refuse: Callable[[ThrottleSettings], None] = lambda _: None,
    ) -> None:
        """`refuse` raises where the settings let nothing move at all."""
        self.repository_id = repository_id
        self.clock = clock
        self.shared = shared
        self.background = background
        self._read, self._find_ends = read, ends
        self._extra_rules = extra_rules
        self._refuse = refuse
        self._guard = threading.Lock()
        self._settings = ThrottleSettings()
        self._ends: Ends = frozenset()
        self._read_at_s = clock.monotonic_s()
        self._told: set[str] = set()
        self._refresh()

    @property
    def ends(self) -> Ends:
        """Own address and the store's, as far as they are known (Q2)."""
        return self._ends

    def require_encryption(self) -> None:
        """Raise `TransferUnencrypted` if data would go in the clear where a rule forbids it (Q8)."""
        self._refuse(self._settings)

    def transfer(
        self,
        *,
        direction: Direction,
        purpose: Purpose,
        job: str | None = None,
        worker: str | None = None,
        stop: threading.Event | None = None,
    ) -> TransferThrottle:
        """The throttle of one transfer, which shares every limit equally with the others.

        Whoever moves data asks for one first, so it is refused here: as `require_encryption`.
        """
        self.require_encryption()

        def traffic() -> Traffic:
            return Traffic(
                repository_id=self.repository_id,
                direction=direction,
                purpose=purpose,
                ends=self._ends,
                job=job,
                worker=worker,
            )

        return TransferThrottle(self, traffic, stop or threading.Event())

    def in_force(self, traffic: Traffic) -> list[LimitInForce]:
        """What the transfer has to keep to now; has the rules read again when that is due."""
        now_s = self.clock.monotonic_s()
        with self._guard:
            due = now_s - self._read_at_s >= READ_AGAIN_S
            if due:
                self._read_at_s = now_s
        if due:
            self.background.submit(self._refresh)
        rules = (*self._settings.rules, *self._extra_rules)
        return limits_in_force(rules, traffic, self.clock.now())

    def tell_once(self, subject: str, text: str) -> None:
        """Warn, unless that was said of the subject before."""
        with self._guard:
            if subject in self._told:
                return
            self._told.add(subject)
        log.warning("%s", text)

    def shared_unavailable(self, error: LimitsUnavailable) -> None:
        """Say once that limits hold per transfer for now."""
        self.tell_once(
            "shared", f"{error}. Until it answers, each transfer goes on at its last share of it."
        )

    def _refresh(self) -> None:
        """Read the rules; those known hold on while they cannot be read."""
        try:
            settings = self._read()
            ends = self._find_ends(settings)
        except (RepositoryError, ThrottleInvalid) as error:
            self.tell_once(
                "rules", f"The throttle rules cannot be read; what was known holds: {error}"
            )
            return
        with self._guard:
            self._settings, self._ends = settings, ends
            self._told.discard("rules")


@dataclass(slots=True)
class _Judged:
    at_s: float
    limits: list[LimitInForce]


class TransferThrottle:
    """The throttle of one transfer: `repository.Throttle`.

    Its threads go one after the other, each with all it asked for: what is sent whole after the
    wait (an object on S3) then goes when its own time has come, not all of them together.
    """

    def __init__(
        self, engine: ThrottleEngine, traffic: Callable[[], Traffic], stop: threading.Event
    ) -> None:
        self._engine = engine
        self._traffic = traffic
        self._stop = stop
        self._one_at_a_time = threading.Lock()
        self._lanes: dict[str, Lane] = {}
        self._judged: _Judged | None = None
        self._lowest: str | None = None

    def acquire(self, length_bytes: int) -> None:
        """Return when so many bytes may go. Raises Stopped within a moment of the stop event."""
        with self._one_at_a_time:
            left = length_bytes
            while left > 0:
                piece = min(left, SLICE_BYTES)
                for key in [each.key for each in self._limits()]:
                    self._pass(key, piece)
                left -= piece

    def _pass(self, key: str, count_bytes: int) -> None:
        """Let the bytes through one limit, as it is or becomes while they wait."""
        while count_bytes:
            limit = next((each for each in self._limits() if each.key == key), None)
            if limit is None:  # ended meanwhile
                return
            gone, wait_s = self._lane(key).use(count_bytes, limit.limit.bytes_s)
            count_bytes -= gone
            if wait_s > 0 and self._stop.wait(wait_s):
                raise Stopped("the transfer")

    def _limits(self) -> list[LimitInForce]:
        now_s = self._engine.clock.monotonic_s()
        if self._judged is None or now_s - self._judged.at_s >= JUDGE_AGAIN_S:
            self._judged = _Judged(now_s, self._engine.in_force(self._traffic()))
            self._tell(self._judged.limits)
        return self._judged.limits

    def _tell(self, limits: list[LimitInForce]) -> None:
        """Log what holds the transfer back from now on, when that changes."""
        lowest = f"{limits[0].limit} by rule {limits[0].rule.name}" if limits else None
        if lowest != self._lowest:
            log.info("Throttling: %s", lowest or "no limit")
            self._lowest = lowest

    def _lane(self, key: str) -> Lane:
        lane = self._lanes.get(key)
        if lane is None:
            engine = self._engine
            lane = self._lanes[key] = Lane(
                key, engine.shared, engine.clock, engine.background, engine.shared_unavailable
            )
        return lane


@contextmanager
def open_throttle(
    repository: Repository,
    *,
    shared: SharedLimits | None = None,
    clock: Clock | None = None,
    extra_rules: tuple[ThrottleRule, ...] = (),
) -> Iterator[ThrottleEngine]:
    """The throttle of a repository for as long as the block lasts.

    Without `shared` the limits hold for this process. Transfers have ended before the block is left.
    """
    clock = clock or SystemClock()
    background = ThreadPoolExecutor(_ASKING_THREADS, "ahvault-throttle")
    place, host = StorePlace(clock), host_of_store(repository.url, repository.store_host)

    def host_now(settings: ThrottleSettings) -> str | None:
        return str(settings.address) if settings.address else host

    try:
        yield ThrottleEngine(
            repository_id=repository.id,
            read=RuleBook(repository.live).read,
            ends=lambda settings: place.ends(host_now(settings)),
            refuse=lambda settings: require_encryption(repository, settings, host_now(settings)),
            shared=shared or LocalLimits(clock),
            clock=clock,
            background=background,
            extra_rules=extra_rules,
        )
    finally:
        background.shutdown(wait=False, cancel_futures=True)
