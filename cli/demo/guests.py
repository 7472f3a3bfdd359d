"""What the guests do between the two sessions, and what only the simulator can tell.

The simulator's own calls over HTTPS, as any tool would use them; no code is shared with it.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from cli.demo.site import Site
from cli.errors import DemoFailed
from jobs import human_bytes

KiB = 1024
MiB = 1024 * KiB
LOG = "/var/log/app.log"


@dataclass(frozen=True, slots=True)
class Guests:
    """The simulator's hand on guests and administrators. Every action is finished on return."""

    client: httpx.Client
    sizes_bytes: Mapping[str, Sequence[int]]
    """Sizes of every VM's disks at the start, by the VM's name."""

    def act(self, action: str, **arguments: Any) -> Any:
        """One action by name; raises `DemoFailed` with the simulator's own words."""
        try:
            answer = self.client.post(f"/{action}", json=arguments)
        except httpx.HTTPError as error:
            raise DemoFailed(f"let the guests work ({action})", str(error)) from error
        if answer.status_code != httpx.codes.OK:
            raise DemoFailed(f"let the guests work ({action})", answer.text)
        return answer.json()["data"]

    def frozen_path(self, disk_recovery_point_id: str) -> Path:
        """The file on this machine that holds the frozen bytes of a disk recovery point."""
        return Path(self.act("frozen", disk_recovery_point=disk_recovery_point_id)["path"])

    def files(self, vm: str, disk: int) -> dict[str, Any]:
        """What the guest itself sees: path to size and SHA-256."""
        found: dict[str, Any] = self.act("list_files", vm=vm, disk=disk)
        return found


@contextmanager
def meet_guests(site: Site, sizes_bytes: Mapping[str, Sequence[int]]) -> Iterator[Guests]:
    """Open the simulator's own calls. `sizes_bytes` is what an inventory said of the disks."""
    facts = site.facts
    with httpx.Client(
        base_url=facts["admin_url"],
        auth=(facts["username"], facts["password"]),
        verify=ssl.create_default_context(cafile=facts["ca_file"]),
        timeout=120.0,
    ) as client:
        yield Guests(client, sizes_bytes)


def keep_busy(guests: Guests, *, size: float) -> list[str]:
    """Everything that a backup between two sessions has to notice; says in words what was done."""
    page_bytes = max(16 * KiB, int(256 * KiB * size))
    log_bytes = max(4 * KiB, int(64 * KiB * size))
    for number in range(8):
        path = f"/srv/www/page-{number}.html"
        guests.act("write_file", vm="web01", path=path, size_bytes=page_bytes)
    for number in range(12):
        guests.act("append_file", vm="web01", path=LOG, size_bytes=log_bytes, seed=f"{number}")
    deleted = _delete_largest(guests, "files01", disk=1)
    grown_bytes = _grow(guests, "db01", disk=1)
    new_bytes = max(16, int(64 * size)) * MiB
    guests.act("add_disk", vm="web01", size_bytes=new_bytes)
    _fill_raw(guests, "web01", disk=1, size_bytes=page_bytes * 8)
    return [
        "web01 wrote 8 files and appended 12 times to its log",
        f"files01 deleted {deleted} and gave their blocks back (discard)",
        f"db01's data disk grew to {grown_bytes // MiB} MiB",
        f"web01 got a new disk of {new_bytes // MiB} MiB",
    ]


def _delete_largest(guests: Guests, vm: str, disk: int) -> str:
    """Delete the largest files of a disk, with discard; says how much that was."""
    files = guests.files(vm, disk)
    paths = sorted(files, key=lambda path: (-files[path]["size_bytes"], path))[:6]
    for path in paths:
        guests.act("delete_file", vm=vm, path=path, disk=disk, discard=True)
    freed_bytes = sum(files[path]["size_bytes"] for path in paths)
    return f"{len(paths)} files of {human_bytes(freed_bytes)}"


def _grow(guests: Guests, vm: str, disk: int) -> int:
    """Make a disk a quarter larger; returns its new size in bytes."""
    grown_bytes = guests.sizes_bytes[vm][disk] * 5 // 4 // MiB * MiB
    guests.act("grow_disk", vm=vm, disk=disk, size_bytes=grown_bytes)
    return grown_bytes


def _fill_raw(guests: Guests, vm: str, disk: int, size_bytes: int) -> None:
    """Let an application write records to a disk without a file system."""
    record = b"".join(b"record %08d of the application's own journal\n" % n for n in range(4096))
    content = (record * (size_bytes // len(record) + 1))[:size_bytes]
    guests.act(
        "write_raw",
        vm=vm,
        disk=disk,
        offset=MiB,
        content_base64=base64.b64encode(content).decode("ascii"),
    )
