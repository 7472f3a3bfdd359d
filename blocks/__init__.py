"""Saved settings and credentials, shown as forms in the Prefect UI; each opens what it describes."""

from blocks.cluster import AhvCluster
from blocks.storage import BackupRepository
from blocks.workers import BackupWorkers

__all__ = ["AhvCluster", "BackupRepository", "BackupWorkers"]
