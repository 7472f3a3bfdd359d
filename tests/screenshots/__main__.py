"""Take the pictures in docs/screenshots of a running installation: `make screenshots`, some five minutes.

Needs Chromium. Everything shown is real: simulated VMs are backed up through the Prefect UI's own
API, one session succeeds, one is slow enough to be watched, one fails, and one VM is late.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.screenshots.browser import TIMELINE_S, Page, browser
from tests.screenshots.site import Site, running_site

FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
APPEARS_S_MAX = 300.0
SLOW = {"name": "nightly", "limits": {"mbit_per_s": 16}, "scope": {"vms": ["files01", "web01"]}}
OFTEN = {"name": "often", "rpo_hours": 1 / 60, "scope": {"vms": ["db01"]}}


T = TypeVar("T")


def main() -> None:
    """Every picture, in the order in which the story goes."""
    program = next((found for each in PROGRAMS if (found := shutil.which(each))), None)
    if program is None:
        sys.exit(f"make screenshots needs a browser; none of {', '.join(PROGRAMS)} is installed")
    FOLDER.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="ahvault-screenshots-") as folder,
        running_site(Path(folder)) as site,
        browser(program) as page,
    ):
        first = site.run("nightly")
        site.run("nightly", job=OFTEN)
        _sessions(site, page, first)
        _watched(site, page)
        _failed(site, page)
        _late(site, page)
        _settings(site, page)


def _sessions(site: Site, page: Page, first: str) -> None:
    """A session that went well: its timeline, and its table."""
    page.open(f"{site.ui_url}/runs/flow-run/{first}", "backup nightly")
    time.sleep(TIMELINE_S)
    _shoot(page, "session")
    table = site.artifact("session-nightly")
    page.open(f"{site.ui_url}/artifacts/artifact/{table}", "PROCESSED".lower())
    _shoot(page, "session-table")


def _watched(site: Site, page: Page) -> None:
    """A VM's run while its disks are read, under a limit that makes it last."""
    for number, size_bytes, vm in ((1, 90_000_000, "files01"), (2, 15_000_000, "web01")):
        # A limit counts what is stored, so the bytes must be such as do not compress.
        content = random.Random(number).randbytes(size_bytes)
        site.cluster.story.write_file(vm, "/srv/new.bin", content=content)
    run_id = site.start("nightly", job=SLOW)
    vm_run = _appears(lambda: site.subrun(run_id, "files01"))
    _appears(lambda: site.artifact("progress-files01", "progress", of_run=vm_run))
    page.open(f"{site.ui_url}/runs/flow-run/{vm_run}", "transfer-")
    time.sleep(TIMELINE_S)
    _shoot(page, "vm-run")
    site.wait_until(run_id, "COMPLETED", "FAILED")


def _failed(site: Site, page: Page) -> None:
    """A session in which a VM failed; the cause stands on the page of the run."""
    fault = {"match": {"method": "POST", "path": "/config/recovery-points"}, "kind": "status"}
    site.cluster.story.set_faults({"seed": 1, "faults": [{**fault, "status": 422, "times": 1}]})
    run_id = site.run("nightly")
    site.cluster.story.set_faults({"seed": 1, "faults": []})
    page.open(f"{site.ui_url}/runs/flow-run/{run_id}", "Failed")
    page.click("Details")
    page.click("See More")
    page.scroll_to("State Message")
    _shoot(page, "failure")


def _late(site: Site, page: Page) -> None:
    """The check against the RPO, with a VM that has become late in the minutes before."""
    site.run("check-rpo")
    protection = site.artifact("protection")
    page.open(f"{site.ui_url}/artifacts/artifact/{protection}", "late")
    _shoot(page, "protection", height=520)


def _settings(site: Site, page: Page) -> None:
    """Where jobs, maintenance and notifications are looked at and started."""
    page.open(f"{site.ui_url}/deployments", "check-rpo")
    _shoot(page, "deployments")
    page.open(f"{site.ui_url}/deployments/deployment/{site.deployment('nightly')}/run", "Job name")
    page.scroll_to("job (Optional)")
    _shoot(page, "job-form")
    site.ahvault("notifications", "install", "--webhook", "http://127.0.0.1:9/hook")
    page.open(f"{site.ui_url}/automations", "backups are late")
    _shoot(page, "notifications")


def _appears(look: Callable[[], T | None]) -> T:
    deadline_s = time.monotonic() + APPEARS_S_MAX
    while time.monotonic() < deadline_s:
        found = look()
        if found is not None:
            return found
        time.sleep(0.3)
    raise TimeoutError("what the picture needs did not appear")


def _shoot(page: Page, name: str, **options: int) -> None:
    path = FOLDER / f"{name}.png"
    page.picture(path, **options)
    print(f"{path.name}: {path.stat().st_size // 1024} KiB", flush=True)


if __name__ == "__main__":
    main()
