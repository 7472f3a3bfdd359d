"""Which two machines a transfer joins: this one, and the one that keeps the repository (Q1, Q2)."""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from jobs.addresses import Address
from repository import Clock

_NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "ceph", "glusterfs", "fuse.sshfs")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_LOOKED_UP_EVERY_S = 60.0
_ANY_PORT = 9  # a datagram socket sends nothing when it is connected; it only asks for a route

Ends = frozenset[tuple[Address, Address]]


def ends_of_path(store_host: str | None) -> Ends:
    """Own address and the store's, for every address of the host; empty for this machine itself.

    A host whose name cannot be resolved has none: whoever transfers will meet that error.
    """
    if store_host is None:
        return frozenset()
    try:
        found = socket.getaddrinfo(store_host, None, type=socket.SOCK_DGRAM)
    except OSError:
        return frozenset()
    ends = set()
    for family, _, _, _, where in found:
        store = ipaddress.ip_address(str(where[0]).partition("%")[0])
        own = _own_address(family, str(where[0]))
        if own is not None and own != store:
            ends.add((own, store))
    return frozenset(ends)


class StorePlace:
    """The two ends of the path to a host, looked up again every minute. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: tuple[str | None, float, Ends] | None = None

    def ends(self, host: str | None) -> Ends:
        """As `ends_of_path`."""
        known, now_s = self._known, self._clock.monotonic_s()
        if known is None or known[0] != host or now_s - known[1] > _LOOKED_UP_EVERY_S:
            known = self._known = (host, now_s, ends_of_path(host))
        return known[2]


def host_of_store(url: str, host: str | None) -> str | None:
    """The machine behind a repository's URL; `host` is what its store knows of it.

    A directory lies on this machine, or on the server of the file system that is mounted there.
    """
    scheme = urlsplit(url).scheme if "://" in url else ""
    if host is not None:
        return host
    if scheme == "s3":
        endpoint = next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), None)
        return urlsplit(endpoint).hostname if endpoint else "s3.amazonaws.com"
    if scheme in ("", "file", "local"):
        path = urlsplit(url).path if scheme else url
        return _server_of_mount(Path(path), Path("/proc/self/mountinfo"))
    return None


def _own_address(family: int, host: str) -> Address | None:
    """The address from which this machine sends to the host."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, _ANY_PORT))
        except OSError:
            return None
        return ipaddress.ip_address(str(probe.getsockname()[0]).partition("%")[0])


def _server_of_mount(path: Path, table: Path) -> str | None:
    """The server of the network file system that holds the path, if it is on one."""
    try:
        lines = table.read_text().splitlines()
    except OSError:
        return None
    path = path.resolve()
    best, server = "", None
    for line in lines:
        mounted, _, source = line.partition(" - ")
        fields, (kind, device, *_) = mounted.split(), [*source.split(" "), "", ""]
        point = fields[4].encode().decode("unicode_escape")
        if path.is_relative_to(point) and len(point) >= len(best):
            best = point
            server = _server_in(device) if kind.startswith(_NETWORK_FILE_SYSTEMS) else None
    return server


def _server_in(device: str) -> str | None:
    """`//server/share`, `server:/path`, `user@server:/path`, `[2001:db8::1]:/path`."""
    if device.startswith("//"):
        return device[2:].partition("/")[0] or None
    host, has_path, _ = device.rpartition(":/") if ":/" in device else device.rpartition(":")
    return (host.rpartition("@")[2].strip("[]") or None) if has_path else None
