"""`ahvault simulator`: a Nutanix of our own to try things on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """Examples:

- `ahvault simulator --state /tmp/nutanix`
- `ahvault simulator --port 0`
"""


def simulator(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of Prism Central; 0 takes any free one.")
    ] = 9440,
    state: Annotated[
        Path | None,
        typer.Option(help="Directory to keep everything in; without it nothing is kept."),
    ] = None,
    size: Annotated[
        float, typer.Option(min=0.01, max=1000, help="Scale of the VMs' disks; 1.0 is a demo.")
    ] = 1.0,
    seed: Annotated[str, typer.Option(help="Chooses what the disks hold.")] = "ahvault",
    faults: Annotated[
        Path | None,
        typer.Option(help="JSON file that says what goes wrong, and when.", metavar="FILE"),
    ] = None,
    vms: Annotated[
        int, typer.Option(min=0, max=5000, help="Add so many small VMs, on 8 hosts with 8 workers.")
    ] = 0,
) -> None:
    """Serve a simulated Nutanix cluster on this machine, until Ctrl-C or SIGTERM.

    Prism Central and Prism Element over HTTPS with their own authority, three VMs with real file
    systems, and two worker VMs. Prints one JSON line with addresses and credentials when ready.
    """
    from simulator import Crowd, serve

    crowd = Crowd(vm_count=vms) if vms else None
    raise typer.Exit(
        serve(port=port, state=state, size=size, seed=seed, faults=faults, crowd=crowd)
    )
