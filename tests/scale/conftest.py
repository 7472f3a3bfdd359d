"""One installation over many machines for all tests that break it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.scale.site import ScaleSite, scale_site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScaleSite]:
    """Everything set up, with a first restore point of every VM that the tests use."""
    with scale_site(tmp_path_factory.mktemp("scale")) as made:
        state = made.wait_end(made.start("web01", "db01"), within_s=600)
        assert state.is_completed(), state
        yield made
