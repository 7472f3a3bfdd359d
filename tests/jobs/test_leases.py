"""A session whose lease has lapsed stops: others may have taken away what it held."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from jobs.leases import LEASE_LIFE, LeaseHolder, leased_sessions
from repository import Repository, StoreUnavailable, SystemClock


class Leaping(SystemClock):
    """A clock that can be set forward, as it seems to a process that was frozen."""

    leap_s = 0.0

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.leap_s


def holder(repository: Repository, clock: Leaping, lapsed: threading.Event) -> LeaseHolder:
    return LeaseHolder(
        repository.live, session_id="mine", job="nightly", clock=clock, on_lapse=lapsed.set
    )


def test_a_session_that_was_frozen_too_long_stops(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a sleep longer than a lease lives the session is told to stop, and claims no life again."""
    monkeypatch.setattr("jobs.leases.LEASE_RENEWAL_S", 0.05)
    clock, lapsed = Leaping(), threading.Event()
    lease = holder(repository, clock, lapsed)
    lease.open()
    assert not lapsed.wait(0.3)
    assert leased_sessions(repository.live) == {"mine"}
    clock.leap_s = LEASE_LIFE.total_seconds() + 1
    assert lapsed.wait(30)
    lease.close()


def test_a_session_that_cannot_renew_stops_once_its_lease_is_over(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is away is borne for as long as the lease lives, and no longer."""
    monkeypatch.setattr("jobs.leases.LEASE_RENEWAL_S", 0.05)
    clock, lapsed = Leaping(), threading.Event()
    lease = holder(repository, clock, lapsed)
    lease.open()

    def away(*_: Any) -> None:
        clock.leap_s += LEASE_LIFE.total_seconds() / 4
        raise StoreUnavailable("put", "live/", "away")

    with monkeypatch.context() as patched:
        patched.setattr(repository.live, "put", away)
        assert lapsed.wait(30)
    lease.close()
