"""Frozen models of what the API says, one file per subject; bodies we send are built beside them."""
