"""What `ahvault doctor` looks at beside the cluster: the workers and the repository."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from jobs.model import WorkerSpec
from nutanix import AhvClient, Finding, Level, NutanixError
from repository import Clock, Repository, RepositoryError

PROBES = 10
SLOW_ROUND_TRIP_S = 0.25
"""A commit takes about ten round trips; slower than this, every VM waits seconds for the store."""

_KIND, _KEY = "doctor", "probe"


def check_workers(client: AhvClient, workers: Sequence[WorkerSpec]) -> Iterator[Finding]:
    """Whether each configured worker exists, and whether this machine can see what is attached to it.

    Powers nothing on. A `NutanixError` becomes a finding.
    """
    if not workers:
        yield Finding(
            "workers",
            Level.PROBLEM,
            "no worker is configured",
            "Name a worker VM under [[workers]].",
        )
    for spec in workers:
        try:
            vm = client.find_vm(spec.vm)
        except NutanixError as error:
            yield Finding(f"worker {spec.vm}", Level.PROBLEM, str(error))
            continue
        if not Path(spec.device_root).is_dir():
            yield Finding(
                f"worker {vm.name}",
                Level.PROBLEM,
                f"its device directory {spec.device_root} does not exist on this machine",
                "Run ahvault on the worker itself, or correct device_root.",
            )
            continue
        state = "is running" if vm.is_on else "is off; a session powers it on"
        yield Finding(f"worker {vm.name}", Level.OK, f"exists and {state}")


def check_repository(open_repository: Callable[[], Repository], clock: Clock) -> Iterator[Finding]:
    """Whether the repository opens, takes and gives back a record, and how long a round trip takes.

    Leaves nothing behind. A `RepositoryError` becomes a finding.
    """
    try:
        with open_repository() as repository:
            listing = repository.points()
            count = len(listing.points)
            yield Finding("repository", Level.OK, f"{repository.url} holds {count} restore points")
            if listing.damaged:
                yield Finding(
                    "repository",
                    Level.PROBLEM,
                    f"{len(listing.damaged)} commit records cannot be read",
                    "Run `ahvault verify`, then `ahvault repair --dry-run`.",
                )
            yield _round_trip(repository, clock)
    except RepositoryError as error:
        yield Finding("repository", Level.PROBLEM, str(error))


def _round_trip(repository: Repository, clock: Clock) -> Finding:
    started_s = clock.monotonic_s()
    for number in range(PROBES):
        repository.live.put(_KIND, _KEY, {"number": number})
        repository.live.get(_KIND, _KEY)
    repository.live.delete(_KIND, _KEY)
    each_s = (clock.monotonic_s() - started_s) / (2 * PROBES)
    text = f"a small write or read takes {1000 * each_s:.1f} ms"
    if each_s > SLOW_ROUND_TRIP_S:
        return Finding("store speed", Level.WARNING, text, "Look at the network to the store.")
    return Finding("store speed", Level.OK, text)
