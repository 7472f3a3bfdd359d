"""What an operator starts: one file per flow. `flows.backup.backup`, `flows.restore.restore_vm`."""
