"""Which two machines a transfer joins: this one, and the one that keeps the repository (Q1, Q2)."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from jobs.addresses import Address
from repository import Clock

_NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "ceph", "glusterfs", "fuse.sshfs")
_ENCRYPTED_BY = frozenset(("sec=krb5p", "xprtsec=tls", "xprtsec=mtls", "seal", "ms_mode=secure"))
"""Options under which NFS, SMB and CephFS encrypt what they send."""
_LOOKED_UP_EVERY_S = 60.0
_ANY_PORT = 9  # a datagram socket sends nothing when it is connected; it only asks for a route

Ends = frozenset[tuple[Address, Address]]


def ends_of_path(store_host: str | None) -> Ends:
    """Own address and the store's, for every address of the host; empty for this machine itself.

    A host whose name cannot be resolved has none: whoever transfers will meet that error.
    """
    ends = set()
    for family, store, where in _addresses_of(store_host):
        own = _own_address(family, where)
        if own is not None and own != store:
            ends.add((own, store))
    return frozenset(ends)


def addresses_elsewhere(store_host: str | None) -> list[Address]:
    """The addresses of the host that are not this machine's, whether a route leads there or not."""
    return [
        store
        for family, store, where in _addresses_of(store_host)
        if _own_address(family, where) != store
    ]


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
    if host is not None:
        return host
    mount = _mount_of_url(url)
    return mount.server if mount is not None else None


def mount_encrypts(url: str) -> bool:
    """Whether the repository is a directory on a network file system that encrypts what it sends."""
    mount = _mount_of_url(url)
    return mount is not None and mount.encrypts


def _addresses_of(host: str | None) -> list[tuple[int, Address, str]]:
    """Every address of the host: its family, itself, and as the system writes it."""
    if host is None:
        return []
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except OSError:
        return []
    return [(family, _address(str(where[0])), str(where[0])) for family, _, _, _, where in found]


def _address(text: str) -> Address:
    """Without its zone; an IPv4 address in the clothes of IPv6 is the IPv4 address."""
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _own_address(family: int, host: str) -> Address | None:
    """The address from which this machine sends to the host."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, _ANY_PORT))
        except OSError:
            return None
        return _address(str(probe.getsockname()[0]))


@dataclass(frozen=True, slots=True)
class _Mount:
    """A network file system that is mounted here."""

    server: str | None
    encrypts: bool


def _mount_of_url(url: str) -> _Mount | None:
    scheme = urlsplit(url).scheme if "://" in url else ""
    if scheme not in ("", "file", "local"):
        return None
    path = urlsplit(url).path if scheme else url
    return _mount_of(Path(path), Path("/proc/self/mountinfo"))


def _mount_of(path: Path, table: Path) -> _Mount | None:
    """The network file system that holds the path, if it is on one."""
    try:
        lines = table.read_text().splitlines()
    except OSError:
        return None
    path = path.resolve()
    best, mount = "", None
    for line in lines:
        mounted, _, source = line.partition(" - ")
        fields, (kind, device, options, *_) = mounted.split(), [*source.split(" "), "", "", ""]
        point = fields[4].encode().decode("unicode_escape")
        if path.is_relative_to(point) and len(point) >= len(best):
            best = point
            encrypts = kind == "fuse.sshfs" or not _ENCRYPTED_BY.isdisjoint(options.split(","))
            is_network = kind.startswith(_NETWORK_FILE_SYSTEMS)
            mount = _Mount(_server_in(device), encrypts) if is_network else None
    return mount


def _server_in(device: str) -> str | None:
    """`//server/share`, `server:/path`, `user@server:/path`, `[2001:db8::1]:/path`."""
    if device.startswith("//"):
        return device[2:].partition("/")[0] or None
    host, has_path, _ = device.rpartition(":/") if ":/" in device else device.rpartition(":")
    return (host.rpartition("@")[2].strip("[]") or None) if has_path else None
