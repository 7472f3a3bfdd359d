"""Looking a cluster over before it is trusted with a backup: what is wrong, and what to do about it.

Each check asks the client and returns findings; none changes anything on the cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from nutanix.client import AhvClient
from nutanix.errors import CertificateUntrusted, NutanixError
from nutanix.rights import RIGHTS
from nutanix.transport import ServerFacts
from nutanix.versions import NEWEST

CLOCK_SKEW_S_MAX = 60.0
"""Recovery points expire by the cluster's clock and are named by ours; a minute does no harm."""
CERTIFICATE_WARNING = timedelta(days=30)


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    """Backups work, but something is worse than it need be or soon will be."""
    PROBLEM = "problem"
    """Backups or restores will fail."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. `advice` says what to do; empty when there is nothing to do."""

    check: str
    level: Level
    text: str
    advice: str = ""


def diagnose(client: AhvClient) -> Iterator[Finding]:
    """All checks, one after another, each finding as soon as it is known.

    Without a connection or a login the later checks would only repeat that, so they are left out.
    Never raises a `NutanixError`: it becomes a finding.
    """
    stopping: tuple[Callable[[AhvClient], Iterator[Finding]], ...] = (check_connection, check_login)
    for check in stopping:
        findings = list(check(client))
        yield from findings
        if any(finding.level is Level.PROBLEM for finding in findings):
            return
    for check in (check_versions, check_rights, check_prism_elements):
        yield from _guarded(check, client)


def check_connection(client: AhvClient) -> Iterator[Finding]:
    """Address, TLS, certificate life and clocks of Prism Central."""
    url = client.connection.url
    try:
        facts = client.look_at()
    except NutanixError as error:
        yield Finding("connection", Level.PROBLEM, str(error))
        return
    yield Finding("connection", Level.OK, f"{url} answers")
    yield _certificate(client, facts, url)
    if facts.clock_ahead_s is not None:
        yield _clocks(facts.clock_ahead_s)


def check_login(client: AhvClient) -> Iterator[Finding]:
    """Whether the credentials are accepted, and by something that speaks the v4 API."""
    try:
        client.denied(RIGHTS[0])
    except NutanixError as error:
        yield Finding("login", Level.PROBLEM, str(error))
        return
    yield Finding("login", Level.OK, f"{client.connection.identity} is let in")


def check_versions(client: AhvClient) -> Iterator[Finding]:
    """The agreed API versions, and what an old one costs (`nutanix-v4 §21`)."""
    agreed = {namespace: client.versions.of(namespace) for namespace in NEWEST}
    told = ", ".join(f"{namespace} {version}" for namespace, version in agreed.items())
    yield Finding("API versions", Level.OK, told)
    if not client.versions.at_least("vmm", "v4.1"):
        yield Finding(
            "API versions",
            Level.PROBLEM,
            "API 4.0 cannot show a VM as it was captured, nor build a VM from restored disks",
            "Update Prism Central and AOS to 7.3 or newer.",
        )


def check_rights(client: AhvClient) -> Iterator[Finding]:
    """Every operation that backups and restores call, as far as it can be asked for harmlessly."""
    lacking = [(right, refusal) for right in RIGHTS if (refusal := client.denied(right))]
    for right, _ in lacking:
        yield Finding(
            "rights",
            Level.PROBLEM if right.is_vital else Level.WARNING,
            f"the account lacks '{right.operation}', needed for {right.needed_for}",
            f"Give its role the operation '{right.operation}'; Backup Admin plus viewing "
            "clusters and hosts covers all.",
        )
    if not lacking:
        yield Finding("rights", Level.OK, f"none of {len(RIGHTS)} operations asked for was denied")


def check_prism_elements(client: AhvClient) -> Iterator[Finding]:
    """Whether the clusters that answer changed regions can be reached from here and are trusted."""
    clusters = client.clusters()
    if not clusters:
        advice = "Register a cluster with this Prism Central, or let the account see it."
        yield Finding("clusters", Level.PROBLEM, "no cluster is visible to the account", advice)
    for cluster in clusters:
        if cluster.address is None:
            advice = (
                "Set the cluster's virtual IP address; without it every backup reads whole disks."
            )
            yield Finding(
                "changed regions",
                Level.WARNING,
                f"cluster {cluster.name} has no address of its own",
                advice,
            )
            continue
        url = client.prism_element_url(cluster.address)
        try:
            facts = client.look_at(url)
        except CertificateUntrusted as error:
            advice = "Add the cluster's own certificate to the CA file; it may hold several."
            yield Finding("changed regions", Level.PROBLEM, str(error), advice)
        except NutanixError as error:
            advice = f"Open port {client.connection.prism_element_port} to the cluster itself."
            yield Finding("changed regions", Level.PROBLEM, str(error), advice)
        else:
            text = f"cluster {cluster.name} answers at {url}"
            yield Finding("changed regions", Level.OK, text)
            yield _certificate(client, facts, url)


def _certificate(client: AhvClient, facts: ServerFacts, url: str) -> Finding:
    if not client.connection.verify_tls:
        text = f"the certificate of {url} is not checked: anybody on the way can read the password"
        return Finding("certificate", Level.WARNING, text, "Give its CA certificate as ca_file.")
    if facts.certificate_expires_at is None:
        return Finding("certificate", Level.OK, f"the certificate of {url} is trusted")
    left = facts.certificate_expires_at - client.clock.now()
    text = f"the certificate of {url} is trusted and valid for {left.days} more days"
    if left < CERTIFICATE_WARNING:
        advice = "Renew it: once it has expired, no backup will run."
        return Finding("certificate", Level.WARNING, text, advice)
    return Finding("certificate", Level.OK, text)


def _clocks(ahead_s: float) -> Finding:
    side = "ahead of" if ahead_s > 0 else "behind"
    if abs(ahead_s) <= CLOCK_SKEW_S_MAX:
        return Finding("clocks", Level.OK, "the cluster's clock and this machine's agree")
    text = f"the cluster's clock is {abs(ahead_s):.0f} s {side} this machine's"
    return Finding("clocks", Level.WARNING, text, "Let both follow the same NTP servers.")


def _guarded(
    check: Callable[[AhvClient], Iterator[Finding]], client: AhvClient
) -> Iterator[Finding]:
    try:
        yield from check(client)
    except NutanixError as error:
        subject = check.__name__.removeprefix("check_").replace("_", " ")
        yield Finding(subject, Level.PROBLEM, str(error))
