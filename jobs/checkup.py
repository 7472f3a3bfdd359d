"""What `ahvault doctor` looks at beside the cluster: the workers and the repository."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from jobs.model import WorkerSpec
from jobs.worker_checks import find_worker_vm, self_test
from nutanix import AhvClient, Finding, Level, NutanixError, Vm
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
            vm = find_worker_vm(client.vms(), spec)
            reason = self_test(client, spec, vm)
        except NutanixError as error:
            reason = str(error)
        if reason is not None:
            yield Finding(f"worker {spec.vm}", Level.PROBLEM, reason)
            continue
        yield Finding(f"worker {spec.vm}", Level.OK, _state_of(spec, vm))
        if spec.access != "direct" and client.connection.chap_secret is None:
            yield Finding(
                f"worker {spec.vm}",
                Level.WARNING,
                "its iSCSI logins are let in by name alone, so that others in the network could pose as it",
                "Give the cluster a chap_secret.",
            )


def _state_of(spec: WorkerSpec, vm: Vm | None) -> str:
    """What was found of a worker that can be used."""
    way = "" if spec.access == "direct" else ", and reaches the cluster's data services over iSCSI"
    if vm is None:
        return f"is no VM of the cluster: a machine outside{way}"
    return f"exists and {'is running' if vm.is_on else 'is off; a session powers it on'}{way}"


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
