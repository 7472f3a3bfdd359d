"""The kernel's iSCSI initiator, driven through open-iscsi's `iscsiadm`: log in, find the devices, log out.

Everything that is said to the machine goes through `_iscsiadm`. A session is this process's: it lasts
from the first opening of a group's disks to the last closing. CHAP is for the administrator to set in
`iscsid.conf`, from where discovery takes it: a secret on a command line could be read by anybody here.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nutanix.errors import InitiatorFailed, TargetRefused

PROGRAM = "iscsiadm"
TIMEOUT_S = 90.0
"""Longer than open-iscsi's own login timeout and retries take together."""
NAME_FILE = Path("/etc/iscsi/initiatorname.iscsi")
OUR_TARGETS = "iqn.2010-06.com.nutanix:ahvault-"
"""How the targets of temporary volume groups begin; no other session is ever ended."""
_SESSION_EXISTS, _NOTHING_FOUND = 15, 21
_FAILURES = {
    8: "the login timed out",
    11: "the iscsid service cannot be reached",
    24: "it was not authorised; set CHAP in iscsid.conf as for this cluster",
}
_TARGET = re.compile(r"(iqn\.\S+)")


@dataclass(frozen=True, slots=True)
class Portal:
    """Where targets are asked for. IPv6 addresses go into brackets, as `iscsiadm` wants them."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class KernelInitiator:
    """The initiator of this machine. Thread-safe; one per process, because it counts who uses a target."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users: Counter[str] = Counter()

    @contextmanager
    def logged_in(self, portal: Portal, targets: re.Pattern[str]) -> Iterator[list[str]]:
        """Sessions with every target of the portal whose name matches; their names inside the block.

        The last user of a target in this process ends its session, on every way out. Sessions through
        this portal that a killed process left with targets of ours that are gone are ended first. Raises `InitiatorFailed`
        when the machine cannot, and `TargetRefused` when the portal shows no such target.
        """
        with self._lock:
            names = self._log_in(portal, targets)
            self._users.update(names)
        try:
            yield names
        finally:
            with self._lock:
                self._users.subtract(names)
                for name in names:
                    if self._users[name] <= 0:
                        del self._users[name]
                        _log_out(name)

    def _log_in(self, portal: Portal, targets: re.Pattern[str]) -> list[str]:
        # In this order: a session that another process opens meanwhile is never taken for a stale one.
        begun = _sessions(portal)
        shown = _discover(portal)
        names = sorted(name for name in shown if targets.fullmatch(name))
        if not names:
            reason = "the portal does not show it; is the volume group attached to this initiator?"
            raise TargetRefused(str(portal), targets.pattern, reason)
        for stale in begun - shown:
            if stale.startswith(OUR_TARGETS) and not self._users[stale]:
                _log_out(stale)
        for name in names:
            # Written by discovery as "automatic" on some machines: it must not come back at boot.
            node = ("-m", "node", "-T", name, "-p", str(portal))
            _iscsiadm(*node, "-o", "update", "-n", "node.startup", "-v", "manual")
            _iscsiadm(*node, "--login", but_for=_SESSION_EXISTS)
        return names


KERNEL = KernelInitiator()
"""The initiator of this machine, as this process shares it."""


def why_unusable() -> str | None:
    """Why the kernel's initiator cannot be used on this machine, or `None`."""
    if shutil.which(PROGRAM) is None:
        return f"this machine has no {PROGRAM}; install open-iscsi"
    if not NAME_FILE.is_file():
        return f"this machine has no {NAME_FILE}; start the iscsid service once"
    return None


def initiator_name() -> str:
    """The name under which this machine's kernel logs in. Raises `InitiatorFailed`."""
    try:
        text = NAME_FILE.read_text(encoding="utf-8")
    except OSError as error:
        reason = f"{NAME_FILE} cannot be read: {error.strerror}"
        raise InitiatorFailed("find this machine's initiator name", reason) from error
    found = re.search(r"^\s*InitiatorName\s*=\s*(\S+)", text, re.MULTILINE)
    if found is None:
        reason = f"{NAME_FILE} has no line InitiatorName=..."
        raise InitiatorFailed("find this machine's initiator name", reason)
    return found[1]


def _discover(portal: Portal) -> set[str]:
    """Every target that the portal shows to this machine."""
    told = _iscsiadm("-m", "discovery", "-t", "sendtargets", "-p", str(portal),
                     but_for=_NOTHING_FOUND)  # fmt: skip
    return set(_TARGET.findall(told))


def _sessions(portal: Portal) -> set[str]:
    """The targets of this machine's sessions through a portal; a redirected one counts by where it began."""
    told = _iscsiadm("-m", "session", but_for=_NOTHING_FOUND)
    return set(re.findall(rf"\] {re.escape(str(portal))},\S+ (iqn\.\S+)", told))


def _log_out(target: str) -> None:
    """End the session and forget the target; one that is gone already is a success."""
    _iscsiadm("-m", "node", "-T", target, "--logout", but_for=_NOTHING_FOUND)
    _iscsiadm("-m", "node", "-T", target, "-o", "delete", but_for=_NOTHING_FOUND)


def _iscsiadm(*arguments: str, but_for: int | None = None) -> str:
    """What the program says. Raises `InitiatorFailed` unless it ends with 0 or `but_for`."""
    wanted = f"run {PROGRAM} {' '.join(arguments)}"
    try:
        done = subprocess.run(  # noqa: S603 - arguments are ours, and no shell reads them
            [PROGRAM, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except OSError as error:
        raise InitiatorFailed(wanted, error.strerror or str(error)) from error
    except subprocess.TimeoutExpired as error:
        raise InitiatorFailed(wanted, f"it did not end within {TIMEOUT_S:.0f} s") from error
    if done.returncode not in (0, but_for):
        said = done.stderr.strip().splitlines()
        reason = _FAILURES.get(done.returncode) or (said[-1] if said else "it says no more")
        raise InitiatorFailed(wanted, f"it ended with code {done.returncode}: {reason}")
    return done.stdout
