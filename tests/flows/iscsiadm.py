"""Stands in for open-iscsi's `iscsiadm` where the kernel has no iSCSI: same words, same exit codes.

It speaks to the portal for real, as the initiator of its site file, and what a kernel would do after the
login it does itself: links under `disk/by-path` that lead to the units' files. The arguments of every
call are appended to `calls.jsonl`. Written from iscsiadm(8) and udev's naming, not from what calls it. It is
started dozens of times, so it imports only what a call needs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

SITE = json.loads(Path(__file__).with_name("site.json").read_text())
sys.path.insert(0, SITE["project"])
ROOT, STATE, SESSIONS = Path(SITE["device_root"]), Path(SITE["state"]), Path(SITE["sessions"])
BY_PATH = ROOT / "disk" / "by-path"


def login(portal: str, target: str | None) -> Any:
    from nutanix.iscsi_session import Login

    host, _, port = portal.partition(":")
    return Login(host, int(port), SITE["initiator"], target, SITE["secret"])


def value(flag: str) -> str:
    return sys.argv[sys.argv.index(flag) + 1]


def discovery() -> int:
    from nutanix.iscsi_session import discover

    portal = value("-p")
    names = sorted(discover(login(portal, None)))
    print("\n".join(f"{portal},1 {name}" for name in names))
    return 0 if names else 21


def sessions() -> int:
    found = sorted(SESSIONS.glob("*"))
    for number, session in enumerate(found, 1):
        print(f"tcp: [{number}] {session.read_text()},1 {session.name} (non-flash)")
    return 0 if found else 21


def log_in(portal: str, target: str) -> int:
    session = SESSIONS / target
    if session.exists():
        return 15
    from nutanix.iscsi_disks import IscsiDisk, _units

    BY_PATH.mkdir(parents=True, exist_ok=True)
    place = login(portal, target)
    for lun in _units(place):
        with IscsiDisk(str(lun), place, lun) as disk:
            (serial,) = disk.serial_ids()
        generations = STATE.glob(f"vdisks/{serial}.*.raw")
        file = max(generations, key=lambda each: int(each.name.split(".")[1]))
        (BY_PATH / f"ip-{portal}-iscsi-{target}-lun-{lun}").symlink_to(file)
    session.write_text(portal)
    return 0


def log_out(target: str) -> int:
    session = SESSIONS / target
    if not session.exists():
        return 21
    for link in BY_PATH.glob(f"ip-*-iscsi-{target}-lun-*"):
        link.unlink()
    session.unlink()
    return 0


def main() -> int:
    with Path(SITE["calls"]).open("a") as calls:
        calls.write(json.dumps(sys.argv[1:]) + "\n")
    if value("-m") == "discovery":
        return discovery()
    if value("-m") == "session":
        return sessions()
    if "--login" in sys.argv:
        return log_in(value("-p"), value("-T"))
    if "--logout" in sys.argv:
        return log_out(value("-T"))
    return 0  # Records of nodes: nothing here depends on them.


sys.exit(main())
