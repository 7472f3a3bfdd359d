"""The `Backup Workers` block: the VMs that move data."""

from __future__ import annotations

from prefect.blocks.core import Block
from pydantic import Field

from jobs import WorkerSpec


class BackupWorkers(Block):
    """The worker VMs that sessions may use, and where their attached disks appear.

    Example:
        Load the saved workers:
        ```python
        from blocks import BackupWorkers

        workers = BackupWorkers.load("BLOCK_NAME").workers
        ```
    """

    _block_type_name = "Backup Workers"
    _block_type_slug = "backup-workers"

    workers: list[WorkerSpec] = Field(
        description="Worker VMs; one on the host of a protected VM is preferred."
    )
