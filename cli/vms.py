"""`ahvault vms`: what the cluster has."""

from __future__ import annotations

EXAMPLES = """Examples:

- `ahvault vms`
- `ahvault vms --json | jq -r '.vms[].name'`
"""


def vms() -> None:
    """List the cluster's VMs."""
