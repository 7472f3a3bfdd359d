"""`make scale`: an installation over many machines, set up on this one to be looked at (docs/scale-out.md)."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path

from tests.scale.site import JOB, ScaleSite, scale_site


def main() -> int:
    """Set it up, run a full and an incremental session, tell where things are, wait for Ctrl-C."""
    stay = "--once" not in sys.argv[1:]
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    folder = Path(tempfile.mkdtemp(prefix="ahvault-scale-"))
    say(f"Setting up in {folder} ...")
    try:
        with scale_site(folder) as site:
            tell(site)
            for kind in ("A first session", "A second session"):
                run = site.start()
                say(f"{kind} runs: {site.server.url.removesuffix('/api')}/runs/flow-run/{run}")
                state = site.wait_end(run, within_s=900)
                say(f"  {state.name}: {state.message}")
                for vm in site.last_report().vms:
                    say(f"  {vm.vm_name}: {vm.status}, {vm.kind}, moved by {vm.worker}")
                site.simulator.story.write_file("web01", "/srv/new.bin", size_bytes=1 << 20)
            if stay:
                say("Ctrl-C takes all of it down.")
                ended.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def tell(site: ScaleSite) -> None:
    """Where everything is."""
    say(f"Prefect server on {site.database}: {site.server.url.removesuffix('/api')}")
    say(f"Job: deployment backup/{JOB}. Settings: {site.folder}/ahvault.toml")
    say(f"Control: process {site.control.pid}, log {site.control.log}")
    for number, child in enumerate(site.workers, start=1):
        where = (
            f"network namespace {site.network.bridge}-w{number}" if site.network.bridge else "here"
        )
        say(f"Worker {number}: process {child.pid}, {where}, log {child.log}")


def say(text: str) -> None:
    """One line for the operator, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
