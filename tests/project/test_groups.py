"""Tests that share a server or a cluster run in one process: `xdist_group` means what it says."""

from __future__ import annotations

import os

import pytest


@pytest.mark.xdist_group("groups")
def test_a_group_is_known_to_the_scheduler(request: pytest.FixtureRequest) -> None:
    """Where it is not, nothing fails: every process starts what its group wanted to share, and proofs of rates disturb each other."""
    is_distributed = "PYTEST_XDIST_WORKER" in os.environ
    assert request.node.nodeid.endswith("@groups") == is_distributed
