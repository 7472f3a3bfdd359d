"""`python -m simulator`: the simulator as a program."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from simulator.crowd import Crowd
from simulator.simulation import DEFAULT_SEED, serve


def main() -> int:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(
        prog="simulator", description="Run a simulated Nutanix cluster on loopback, over HTTPS."
    )
    parser.add_argument(
        "--port", type=int, default=9440, help="port of Prism Central; 0 takes any free one"
    )
    parser.add_argument(
        "--state", type=Path, help="directory that keeps everything; default: a temporary one"
    )
    parser.add_argument(
        "--size", type=float, default=1.0, help="scale of the disks; 1.0 is 300 MiB of data"
    )
    parser.add_argument("--seed", default=DEFAULT_SEED, help="chooses what the disks hold")
    parser.add_argument("--faults", type=Path, help="JSON file that says what goes wrong and when")
    parser.add_argument("--vms", type=int, help="add so many small VMs, on 8 hosts with 8 workers")
    given = parser.parse_args()
    return serve(
        port=given.port,
        state=given.state,
        size=given.size,
        seed=given.seed,
        faults=given.faults,
        crowd=Crowd(vm_count=given.vms) if given.vms else None,
    )


if __name__ == "__main__":
    sys.exit(main())
