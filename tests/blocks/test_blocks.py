"""Blocks are registered types with readable forms, and keep their secrets."""

from __future__ import annotations

import json
from importlib.metadata import entry_points

import pytest
from prefect.blocks.core import Block
from pydantic import SecretStr

from blocks import AhvCluster, BackupRepository, BackupWorkers

BLOCKS = [AhvCluster, BackupRepository, BackupWorkers]


@pytest.mark.parametrize("block", BLOCKS)
def test_every_field_explains_itself_in_the_form(block: type[Block]) -> None:
    """The Prefect UI builds the form from the schema: every field has a description, a sentence that ends."""
    for name, field in block.model_json_schema()["properties"].items():
        assert field.get("description", "").endswith("."), name


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_shows_how_to_load_it(block: type[Block]) -> None:
    """The UI shows a block's description and a code example that loads it by name."""
    assert block.get_description()
    assert f'{block.__name__}.load("BLOCK_NAME")' in (block.get_code_example() or "")


def test_the_blocks_are_found_by_a_server_where_ahvault_is_installed() -> None:
    """The entry point `prefect.collections` registers them."""
    names = {
        point.value
        for point in entry_points(group="prefect.collections")
        if point.name == "ahvault"
    }
    assert names == {"blocks"}


def test_secrets_do_not_show() -> None:
    """No password, key or store secret in a representation or in the JSON that Prefect stores of parameters."""
    cluster = AhvCluster(url="https://pc", username="u", password=SecretStr("hunter2"))
    store = BackupRepository(url="s3://b", storage_secrets={"secret": SecretStr("hunter2")})
    for block in (cluster, store):
        shown = repr(block) + json.dumps(block.model_dump(mode="json"))
        assert "hunter2" not in shown


def test_a_store_secret_reaches_the_store_and_nothing_else(tmp_path: object) -> None:
    """`storage_secrets` are merged into the driver's options when the repository is opened."""
    store = BackupRepository(
        url="memory://nowhere", storage_secrets={"no_such_option": SecretStr("x")}
    )
    with pytest.raises(Exception, match="nowhere"):
        store.open()
