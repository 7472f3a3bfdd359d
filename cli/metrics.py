"""`ahvault metrics`: numbers for Prometheus, as a text file, on stdout, or over HTTP."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.config import load_settings
from cli.connections import open_repository
from cli.errors import ConfigInvalid
from cli.options import CommonOptions, RepositoryOptions, with_options
from cli.output import say, write_json

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily

    from jobs import Metric
    from repository import Repository

EXAMPLES = """Examples:

- `ahvault metrics`
- `ahvault metrics --textfile /var/lib/node_exporter/ahvault.prom` every few minutes
- `ahvault metrics --listen 127.0.0.1:9644`
"""

FRESH_S = 15.0
"""Scrapes within so many seconds get the same answer: a dashboard must not load the repository."""

LIMITS_PAGE = 200
"""As many as the Prefect server gives in one answer."""


@with_options
def metrics(
    common: CommonOptions,
    repository: RepositoryOptions,
    textfile: Annotated[
        Path | None,
        typer.Option(
            help="Write here, whole or not at all, for node_exporter's textfile collector.",
            metavar="FILE",
        ),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(help="Serve /metrics there until Ctrl-C.", metavar="HOST:PORT"),
    ] = None,
    rpo_hours: Annotated[
        float | None,
        typer.Option(min=0.01, help="RPO of jobs that have none of their own.", metavar="HOURS"),
    ] = None,
) -> None:
    """Give ages, breaches, sessions, verification and leftovers as Prometheus metrics.

    Needs the repository alone. With PREFECT_API_URL set, the slots of the workers come with it.
    """
    settings = load_settings(common, repository)
    if textfile is not None and listen is not None:
        raise ConfigInvalid("--textfile, --listen", "", "give one of them")
    with open_repository(settings) as opened:
        if listen is not None:
            _serve(opened, listen, rpo_hours)
            return
        found = _gather(opened, rpo_hours)
    if common.as_json:
        write_json([_as_data(each) for each in found])
    elif textfile is not None:
        _replace(textfile, render(found))
    else:
        sys.stdout.write(render(found))


def render(found: Iterable[Metric]) -> str:
    """The metrics in Prometheus' text format."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    families = [_family(each) for each in found]
    registry.register(_Fixed(families))
    return generate_latest(registry).decode()


class _Fixed:
    """A collector of what was gathered already."""

    def __init__(self, families: list[GaugeMetricFamily]) -> None:
        self._families = families

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What was gathered."""
        yield from self._families


class _Fresh:
    """A collector that asks the repository, at most every `FRESH_S` seconds. Thread-safe."""

    def __init__(self, repository: Repository, rpo_hours: float | None) -> None:
        self._repository, self._rpo_hours = repository, rpo_hours
        self._lock = threading.Lock()
        self._families: list[GaugeMetricFamily] = []
        self._asked_at_s = float("-inf")

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """As of now, or of a few seconds ago; trouble with the repository fails the scrape."""
        with self._lock:
            if time.monotonic() - self._asked_at_s > FRESH_S:
                found = _gather(self._repository, self._rpo_hours)
                self._families = [_family(each) for each in found]
                self._asked_at_s = time.monotonic()
            families = self._families
        yield from families


def _gather(repository: Repository, rpo_hours: float | None) -> list[Metric]:
    from jobs import gather_metrics
    from repository import SystemClock

    return [
        *gather_metrics(repository, clock=SystemClock(), rpo_hours=rpo_hours),
        *slot_metrics(os.environ.get("PREFECT_API_URL")),
    ]


def slot_metrics(api_url: str | None) -> list[Metric]:
    """Worker slots as the Prefect server counts them; without a server, or when it is away, none."""
    if not api_url:
        return []
    import httpx

    from jobs import Metric, worker_of_limit

    try:
        limits = _concurrency_limits(api_url)
    except httpx.HTTPError as error:
        say(f"ahvault: no slots, the Prefect server does not answer: {error}")
        return []
    workers = [(each, worker_of_limit(each["name"])) for each in limits]
    return [
        Metric(
            name,
            text,
            ("worker", "id"),
            tuple((worker, float(each[field])) for each, worker in workers if worker),
        )
        for name, text, field in (
            ("ahvault_worker_slots", "Slots of the worker.", "limit"),
            ("ahvault_worker_slots_used", "Slots of the worker in use.", "active_slots"),
        )
    ]


def _concurrency_limits(api_url: str) -> list[dict[str, Any]]:
    """Every global concurrency limit of the server, page by page."""
    import httpx

    found: list[dict[str, Any]] = []
    with httpx.Client(timeout=10.0) as client:
        while True:
            asked = {"limit": LIMITS_PAGE, "offset": len(found)}
            answer = client.post(f"{api_url}/v2/concurrency_limits/filter", json=asked)
            page = answer.raise_for_status().json()
            found += page
            if len(page) < LIMITS_PAGE:
                return found


def _family(metric: Metric) -> GaugeMetricFamily:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in metric.samples:
        family.add_metric(labels, value)
    return family


def _as_data(metric: Metric) -> dict[str, object]:
    return {
        "name": metric.name,
        "help": metric.help,
        "samples": [
            {"labels": dict(zip(metric.labels, labels, strict=True)), "value": value}
            for labels, value in metric.samples
        ],
    }


def _replace(path: Path, text: str) -> None:
    """A reader sees the old file or the new one, and other users may read it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _serve(repository: Repository, listen: str, rpo_hours: float | None) -> None:
    from prometheus_client import CollectorRegistry, start_http_server

    host, _, port = listen.rpartition(":")
    if not port.isdigit():
        raise ConfigInvalid("--listen", "", f"{listen!r} is no HOST:PORT")
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Fresh(repository, rpo_hours))
    try:
        server, thread = start_http_server(int(port), host or "127.0.0.1", registry)
    except OSError as error:
        raise ConfigInvalid("--listen", "", f"{listen}: {error.strerror}") from error
    say(f"Serving http://{host or '127.0.0.1'}:{server.server_port}/metrics; Ctrl-C ends it.")
    try:
        # Woken every second: a signal that another thread received is handled only here.
        while thread.is_alive():
            thread.join(1.0)
    finally:
        server.shutdown()
